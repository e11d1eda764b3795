"""When the queue of a demo is full, new questions are refused and none waiting is lost."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from demo_server import file_of, start, untrained, write_model
from held_encoder import Held, met_by
from PIL import Image
from test_demo_page import Watched
from test_demo_server import QUESTION, asked, data_url, put, taken, truth

from vlm.cli.command_parser import model_name
from vlm.model import VQAModel

QUEUE = 32
"""Questions that may wait, as docs/demo.md promises."""


class Busy:
    """A demo with a trained model, and one that keeps the server busy as long as a test wants.

    Args:
        address: of the demo.
        hold: while this file exists, the second model encodes no image.
        name: of the trained model.
        known: images with the answers that it gives.
    """

    def __init__(self, address: str, hold: Path, name: str, known: list[tuple[Path, str]]) -> None:
        self.address, self.hold, self.name, self.known = address, hold, name, known

    @contextmanager
    def full(self) -> Iterator[None]:
        """Fill the queue behind a question that is being answered. On leaving, check that all
        waiting questions get the right answers."""
        met = met_by(self.hold)
        met.unlink(missing_ok=True)
        self.hold.touch()
        try:
            first = put(self.address, unseen(), QUESTION, None, "none", ["held"], None)
            deadline = time.monotonic() + 60
            while not met.exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            assert met.exists()
            waiting = list(islice(cycle(self.known), QUEUE))
            events = [
                put(self.address, data_url(path), QUESTION, None, "none", [self.name], None)
                for path, _ in waiting
            ]
            yield
        finally:
            self.hold.unlink()
        with ThreadPoolExecutor(len(events)) as pool:
            got = list(pool.map(lambda event: taken(self.address, event), events))
        assert {name for name, _ in [*got, taken(self.address, first)]} == {"complete"}
        answers = [found["replies"][0]["answer"] for _, (found,) in got]
        assert answers == [answer for _, answer in waiting]


def unseen() -> dict[str, str]:
    """An image that no model has seen."""
    content = file_of(Image.frombytes("RGB", (8, 8), os.urandom(3 * 8 * 8)))
    return {"url": f"data:image/png;base64,{base64.b64encode(content).decode()}"}


@pytest.fixture(scope="module")
def busy(run: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Busy:
    pytest.importorskip("gradio", reason="install it with `pip install 'vlm-vqa[demo]'`")
    folder = tmp_path_factory.mktemp("held")
    hold, other = folder / "hold", untrained()
    model = VQAModel(Held(str(hold)), other.text_encoder, other.fusion, other.head).eval()
    address = start((run, write_model(model, folder / "held.ckpt", "held")), "--trust")
    return Busy(address, hold, model_name(str(run)), truth(run, data))


@pytest.mark.slow
def test_one_more_is_told_to_come_back_and_those_in_it_are_answered(busy: Busy) -> None:
    path, answer = busy.known[0]
    with busy.full():
        for _ in range(2):
            with pytest.raises(HTTPError) as refused:
                put(busy.address, data_url(path), QUESTION, None, "none", None, None)
            assert refused.value.code == 503
            said = json.load(refused.value)
            assert said == {"detail": f"Queue is full. Max size is {QUEUE} and size is {QUEUE}."}
            refused.value.close()
    name, (found,) = asked(busy.address, data_url(path), QUESTION)
    assert name == "complete"
    assert found["replies"][0]["answer"] == answer


@pytest.mark.slow
def test_the_page_says_so_too(busy: Busy, browser: Any) -> None:
    watched = Watched(browser, busy.address)
    page = watched.page
    path, answer = busy.known[0]
    watched.upload(path)
    page.wait_for_selector("#result .vlm-hint:has-text('ready')")
    with busy.full():
        watched.ask(QUESTION)
        page.get_by_text("This application is currently busy. Please try again.").first.wait_for()
        watched.shot("full-queue")
    watched.ask(QUESTION)
    # The model was trained briefly, so that its best answer may be in small print.
    page.wait_for_selector(f".vlm-card:first-child :text-matches('^[“]?{answer}[”]?$')")
    page.close()
    assert watched.left == []
    # The browser itself logs the refusal.
    assert [text for text in watched.errors if "503 (Service Unavailable)" not in text] == []
