"""The API of a running demo: gradio_client and plain HTTP, refusals, and the queue."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from demo_server import bomb, start, untrained, write_model

import vlm
from vlm.demo.api import ARGUMENTS

QUESTION = "what color is it?"


@pytest.fixture(scope="module")
def address(run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("gradio", reason="install it with `pip install 'vlm-vqa[demo]'`")
    other = tmp_path_factory.mktemp("other") / "random.ckpt"
    return start((run, write_model(untrained(), other, "random")))


def data_url(path: Path) -> dict[str, str]:
    return {"url": f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"}


def put(address: str, *data: Any) -> str:
    """Queue a question over plain HTTP; return the name of its event."""
    body = json.dumps({"data": data}).encode()
    request = Request(f"{address}/gradio_api/call/ask", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as response:
        return json.load(response)["event_id"]


def taken(address: str, event: str) -> tuple[str, Any]:
    """Wait for an event; return its outcome and its data."""
    with urlopen(f"{address}/gradio_api/call/ask/{event}", timeout=60) as stream:
        text = stream.read().decode()
    last = text.strip().rpartition("event: ")[2]
    name, _, payload = last.partition("\ndata: ")
    return name, json.loads(payload)


def call(address: str, *data: Any) -> tuple[str, Any]:
    """Ask over plain HTTP; a refusal before the queue counts as an error too."""
    try:
        return taken(address, put(address, *data))
    except HTTPError as refused:
        return f"refused {refused.code}", json.load(refused)["detail"]


def asked(address: str, image: Any, question: str, **more: Any) -> tuple[str, Any]:
    return call(
        address, image, question, more.get("choices"), more.get("method", "none"),
        more.get("models"), more.get("max_risk"),
    )  # fmt: skip


def truth(run: Path, data: Path) -> list[tuple[Path, str]]:
    """Images and their colours that the briefly trained model answers correctly."""
    rows = json.loads((data / "test/questions.json").read_text())
    vqa = vlm.load(run)
    images = [
        (data / f"test/images/{number}.png", answer)
        for question, answer, number in rows
        if question == QUESTION
    ]
    known = [(p, answer) for p, answer in images if vqa.answer(p, QUESTION).text == answer]
    assert len({answer for _, answer in known}) > 1, "a constant would pass"
    return sorted(known, key=lambda row: [a for _, a in known].count(row[1]))


def test_plain_http_gives_the_right_answers(address: str, run: Path, data: Path) -> None:
    for path, answer in truth(run, data)[:4]:
        name, (found,) = asked(address, data_url(path), QUESTION)
        assert name == "complete"
        trained, other = found["replies"]
        assert trained["answer"] == answer
        assert trained["top"][0] == {"answer": answer, "probability": trained["probability"]}
        assert trained["explanation"] is None
        assert found["agreement"] == (trained["answer"] == other["answer"])


def test_the_client_uploads_asks_and_gets_reasons(address: str, run: Path, data: Path) -> None:
    from gradio_client import Client, handle_file

    path, answer = truth(run, data)[0]
    client = Client(address, verbose=False, analytics_enabled=False)
    try:
        reply = client.predict(
            image=handle_file(path),
            question=QUESTION,
            choices=None,
            method="occlusion",
            models=None,
            api_name="/ask",
        )["replies"][0]
        named = client.view_api(return_format="dict")["named_endpoints"]
    finally:
        client.close()
    assert reply["answer"] == answer
    assert reply["explanation"]["words"] == ["what", "color", "is", "it"]
    assert list(named) == ["/ask"]


@pytest.mark.parametrize(
    ("image", "question", "more"),
    [
        (None, "what is it?", {}),
        ({"url": "data:image/png;base64,JVBERi0xLjc="}, "what is it?", {}),
        ({"url": "data:image/png;base64,"}, "what is it?", {}),
        ({"url": "data:image/png;base64,not base64!"}, "what is it?", {}),
        ({"url": "bomb"}, "what is it?", {}),
        ({"url": "good"}, "", {}),
        ({"url": "good"}, "x" * 10_000, {}),
        ({"url": "good"}, "what?", {"models": ["other"]}),
        ({"url": "good"}, "what?", {"models": "easy"}),
        ({"url": "good"}, 3, {}),
        ("image", "what?", {}),
        ({"url": "good"}, "what?", {"method": "guess"}),
        ({"path": "image"}, "what is it?", {}),
        ({"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, "what is it?", {}),
        ({"path": "http://example.com/x.png", "meta": {"_type": "gradio.FileData"}}, "what?", {}),
    ],
)
def test_bad_input_is_refused_and_the_server_goes_on(
    address: str, run: Path, data: Path, image: Any, question: Any, more: dict[str, Any]
) -> None:
    path, answer = truth(run, data)[0]
    if isinstance(image, dict) and image.get("url") == "good":
        image = data_url(path)
    elif image == {"path": "image"}:
        image = {"path": str(path)}  # an image, but on the server's disk
    elif isinstance(image, dict) and image.get("url") == "bomb":
        image = {"url": f"data:image/png;base64,{base64.b64encode(bomb()).decode()}"}
    name, said = asked(address, image, question, **more)
    assert name in ("error", "refused 400", "refused 403")
    assert said["error"] if name == "error" else said
    name, (found,) = asked(address, data_url(path), QUESTION)
    assert name == "complete"
    assert found["replies"][0]["answer"] == answer


GIVEN = [{"url": "data:image/png;base64,"}, QUESTION, None, "none", None, None]


@pytest.mark.parametrize(
    ("argument", "value", "expected"),
    [
        ("image", 3, "handle_file"),
        ("image", "photo.png", "handle_file"),
        ("image", {}, "handle_file"),
        ("image", True, "handle_file"),
        ("question", 3, "text"),
        ("question", [QUESTION], "text"),
        ("method", "guess", "none, occlusion"),
        ("method", ["none"], "none, occlusion"),
        ("method", None, "none, occlusion"),
        ("models", "random", "each once"),
        ("models", [], "each once"),
        ("max_risk", "5 %", "in (0, 1)"),
        ("max_risk", 1.5, "in (0, 1)"),
    ],
)
def test_a_wrong_argument_is_named(
    address: str, data: Path, argument: str, value: Any, expected: str
) -> None:
    given = dict(zip(ARGUMENTS, GIVEN, strict=True))
    given |= {"image": data_url(data / "test/images/0.png"), argument: value}
    name, said = call(address, *given.values())
    assert name == "error"
    assert said["error"].startswith(f"{argument}: got {value!r}")
    assert expected in said["error"]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7])
def test_another_number_of_arguments(address: str, count: int) -> None:
    name, said = call(address, *[*GIVEN, 1][:count])
    assert name == "refused 400"
    assert f"got {count} value" in said
    assert "image, question, choices, method, models, max_risk" in said


@pytest.mark.parametrize(
    ("sent", "named"),
    [
        ({"question": QUESTION}, "image"),
        ({"image": GIVEN[0]}, "question"),
        ({"image": GIVEN[0], "question": QUESTION, "top_k": 3}, "top_k"),
    ],
)
def test_arguments_by_name(address: str, sent: dict[str, Any], named: str) -> None:
    body, headers = json.dumps(sent).encode(), {"Content-Type": "application/json"}
    with pytest.raises(HTTPError) as refused:
        urlopen(Request(f"{address}/gradio_api/call/v2/ask", body, headers), timeout=60)
    assert refused.value.code == 400
    assert named in json.load(refused.value)["detail"]


@pytest.mark.parametrize("sent", [None, "what?", {"image": None}])
def test_no_list_of_arguments(address: str, sent: Any) -> None:
    body, headers = json.dumps({"data": sent}).encode(), {"Content-Type": "application/json"}
    with pytest.raises(HTTPError) as refused:
        urlopen(Request(f"{address}/gradio_api/call/ask", body, headers), timeout=60)
    assert refused.value.code == 400
    assert f"data: got {sent!r}" in json.load(refused.value)["detail"]


def test_no_file_of_the_server_is_read_and_none_fetched(address: str, data: Path) -> None:
    for path in (
        "/etc/passwd",
        "/proc/self/environ",
        str(data / "test/questions.json"),
        "../setup",
    ):
        with pytest.raises(HTTPError) as refused:
            urlopen(f"{address}/gradio_api/file={path}", timeout=60)
        assert refused.value.code in (403, 404)
        refused.value.close()


def test_a_body_larger_than_any_image_is_refused(address: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Length": str(10**9)}
    with pytest.raises(HTTPError) as refused:
        urlopen(Request(f"{address}/gradio_api/call/ask", b"{}", headers), timeout=60)
    assert refused.value.code == 413
    refused.value.close()


def test_eight_at_once_each_get_their_own_answer(address: str, run: Path, data: Path) -> None:
    known = (8 * truth(run, data))[:8]

    def take(event: str) -> str:
        name, (found,) = taken(address, event)
        assert name == "complete"
        return found["replies"][0]["answer"]

    with ThreadPoolExecutor(8) as pool:
        # A slow method, so that a queue forms.
        waiting = [
            pool.submit(
                take, put(address, data_url(p), QUESTION, None, "integrated_gradients", None, None)
            )
            for p, _ in known
        ]
        served = [future.result() for future in waiting]
    assert served == [answer for _, answer in known]
