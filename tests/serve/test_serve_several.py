"""A server of a model for several images: batches, the cache, forms and OpenAI's messages."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch
from demo_server import untrained
from serving import QUESTION, data_url, picture
from torch import nn

from vlm.inference import VQA
from vlm.serve.reader import read_upload

pytest.importorskip("prometheus_client", reason="install it with `pip install 'vlm-vqa[serve]'`")

from starlette.testclient import TestClient

from vlm.serve.app import application
from vlm.serve.requests import Hosts
from vlm.serve.service import Service

ASKED = [(1,), (1, 2), (2, 1), (3, 1, 2), (1, 2)]
"""Images of each question."""


@pytest.fixture
def vqa() -> VQA:
    torch.manual_seed(0)
    model = untrained()
    model.fusion.take_images(3)
    assert model.fusion.image_numbers is not None
    nn.init.normal_(model.fusion.image_numbers)
    return VQA(model)


def expected(vqa: VQA, numbers: tuple[int, ...]) -> float:
    return vqa.answer([picture(number) for number in numbers], QUESTION).probability


def test_a_batch_of_one_and_of_several_images_changes_no_answer(vqa: VQA) -> None:
    service = Service(vqa, read_upload)

    async def ask() -> list[Any]:
        worker = asyncio.create_task(service.batcher.work())
        tasks = [service.answer([picture(n) for n in numbers], QUESTION) for numbers in ASKED]
        done = await asyncio.gather(*tasks)
        done += [await service.answer([picture(1), picture(2)], QUESTION)]
        worker.cancel()
        return done

    replies = asyncio.run(ask())
    for numbers, reply in zip([*ASKED, (1, 2)], replies, strict=True):
        assert reply.answer.probability == pytest.approx(expected(vqa, numbers), abs=1e-5)
    shares = {round(reply.answer.probability, 5) for reply in replies}
    assert len(shares) == 4, "the order counts"
    with pytest.raises(ValueError, match="got 4 for a question; this model takes 1 to 3"):
        service.check(QUESTION, None, 4)


def test_routes_take_several(vqa: VQA, monkeypatch: pytest.MonkeyPatch) -> None:
    app = application(Service(vqa, read_upload), "me/it", Hosts("testserver", 80, ("testserver",)))
    urls = [data_url(picture(number)) for number in (1, 2)]
    share = pytest.approx(expected(vqa, (1, 2)), abs=1e-5)
    with TestClient(app) as client:
        body = {"image": urls, "question": QUESTION}
        assert client.post("/answer", json=body).json()["probability"] == share
        files = [("image", (f"{n}.png", picture(n))) for n in (1, 2)]
        made = client.post("/answer", files=files, data={"question": QUESTION})
        assert made.json()["probability"] == share
        parts: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": url}} for url in urls
        ]
        content = [*parts, {"type": "text", "text": QUESTION}]
        messages = [{"role": "user", "content": content}]
        made = client.post("/v1/chat/completions", json={"model": "me/it", "messages": messages})
        assert made.json()["vlm"]["probability"] == share
        assert made.json()["choices"][0]["finish_reason"] == "stop"
        assert not made.json()["vlm"]["warnings"]
        messages[0]["content"] = [parts[0], content[-1], parts[1]]
        monkeypatch.setattr("vlm.serve.openai.CUT", made.json()["vlm"]["answer"][-1])
        made = client.post("/v1/chat/completions", json={"model": "me/it", "messages": messages})
        assert made.json()["vlm"]["warnings"] == [
            "The model reads all images before the text, in their order."
        ]
        assert made.json()["choices"][0]["finish_reason"] == "length"
        one = client.post("/answer", json=body | {"image": urls[0]}).json()["probability"]
        assert one == pytest.approx(expected(vqa, (1,)), abs=1e-5)
