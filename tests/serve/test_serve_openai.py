"""OpenAI's own client against a running server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import KEY, QUESTION, Server, data_url, picture, serving

import vlm

openai = pytest.importorskip("openai", reason="pip install openai")


@pytest.fixture(scope="module")
def server(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(run, tmp_path_factory.mktemp("openai"), "--name=me/colors") as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def image(number: int = 1, url: str | None = None) -> dict[str, Any]:
    address = url or data_url(picture(number))
    return {"type": "image_url", "image_url": {"url": address, "detail": "low"}}


def user(*parts: dict[str, Any], question: str = QUESTION) -> dict[str, Any]:
    return {"role": "user", "content": [*parts, {"type": "text", "text": question}]}


def ask(client: Any, *messages: Any, **more: Any) -> Any:
    model = more.pop("model", "me/colors")
    return client.chat.completions.create(model=model, messages=list(messages), **more)


def test_it_answers_as_the_model_does(client: Any, run: Path) -> None:
    vqa = vlm.load(run)
    for number in (10, 200):
        expected = vqa.answer(picture(number), QUESTION)
        made = ask(client, user(image(number)), temperature=0, max_tokens=16)
        assert made.choices[0].message.content == expected.text
        assert made.choices[0].finish_reason == "stop"
        assert made.vlm["probability"] == pytest.approx(expected.probability, abs=1e-5)


def test_a_stream_gives_the_same(client: Any) -> None:
    whole = ask(client, user(image())).choices[0].message.content
    chunks = list(ask(client, user(image()), stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_models_are_listed(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["me/colors"]
    assert client.models.retrieve("me/colors").owned_by == "vlm"
    with pytest.raises(openai.NotFoundError, match=r"got 'gpt-4o'; expected 'me/colors'"):
        ask(client, user(image()), model="gpt-4o")


def test_a_question_beyond_the_model_is_refused_as_openai_does(client: Any) -> None:
    message = ask(client, user(image(), question="wherefore quixotic zebras?")).choices[0].message
    assert message.content is None
    assert "beyond the model" in message.refusal


def test_what_is_not_read_is_a_warning(client: Any) -> None:
    made = ask(client, {"role": "system", "content": "Be brief."}, user(image()))
    assert made.vlm["warnings"] == ["The system message was not read."]


@pytest.mark.parametrize(
    ("messages", "more", "words"),
    [
        ([user()], {}, "messages: got no image"),
        ([{"role": "user", "content": QUESTION}], {}, "messages: got no image"),
        ([user(image()), {"role": "assistant", "content": "red"}, user()], {}, "3 turns"),
        ([user(image(url="https://example.org/a.png"))], {}, "expected a data: URL"),
        ([user(image(url="data:image/png;base64,?"))], {}, "not base64"),
        ([user(image())], {"n": 2}, "n: got 2"),
        ([user(image())], {"logprobs": True}, "logprobs: this server cannot"),
        ([user({"type": "input_audio", "input_audio": {}})], {}, "type: got 'input_audio'"),
    ],
)
def test_what_it_cannot_do_is_said(
    client: Any, messages: list[Any], more: dict[str, Any], words: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=words):
        ask(client, *messages, **more)


def test_other_mistakes_have_openai_s_errors(client: Any, server: Server) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="no threshold"):
        ask(client, user(image()), extra_body={"max_risk": 0.1})
    with pytest.raises(openai.BadRequestError, match="max_risk: got 2"):
        ask(client, user(image()), extra_body={"max_risk": 2})
    with pytest.raises(openai.UnprocessableEntityError, match=r"got 2 .* this model takes one"):
        ask(client, user(image(1), image(2)))
    with pytest.raises(openai.UnprocessableEntityError, match="PDF"):
        ask(client, user(image(url="data:image/png;base64,JVBERi0xLjc=")))
    stranger = openai.OpenAI(base_url=f"{server.address}/v1", api_key="other", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError, match="Expected a key"):
        ask(stranger, user(image()))
