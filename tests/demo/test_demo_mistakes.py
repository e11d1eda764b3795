"""Mistakes in hand-written requests each get a sentence, and the server no traceback."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from demo_server import file_of
from PIL import Image
from starlette.types import Receive, Scope, Send

from vlm.cli.main import main
from vlm.demo.api import content_of
from vlm.demo.gate import Gate
from vlm.demo.uploads import Uploads
from vlm.serve.reader import read_upload
from vlm.serve.requests import MAX_BODY, Hosts


def test_an_upload_that_is_gone() -> None:
    uploads = Uploads()
    name = uploads.add(b"there", "somebody")
    assert content_of({"path": name}, uploads) == b"there"
    assert content_of(None, uploads) is None
    with pytest.raises(gr.Error, match="not there any more"):
        content_of({"path": "gone"}, uploads)
    with pytest.raises(gr.Error, match="expected an upload"):
        content_of({"path": None}, uploads)


@pytest.mark.parametrize(("kind", "plugin"), [("GIF", "Gif"), ("TIFF", "Tiff")])
def test_frames_are_not_counted(kind: str, plugin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 10 MB file can hold hundreds of thousands of frames; counting them would block everyone."""

    def count(image: Image.Image) -> int:
        raise AssertionError("counted")

    more = [Image.new("L", (1, 1), 9)] * 5
    content = file_of(Image.new("L", (1, 1)), kind, save_all=True, append_images=more)
    counted = f"PIL.{plugin}ImagePlugin.{plugin}ImageFile.n_frames"
    monkeypatch.setattr(counted, property(count))
    assert "several pages" in read_upload(content).notes[0]


@pytest.mark.parametrize("path", ["/gradio_api/upload", "/gradio_api/queue/join"])
def test_a_body_without_a_length_is_read_up_to_the_limit(path: str) -> None:
    """Every route refuses such a body without a traceback."""

    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError

    sent: list[Any] = []
    read = 0

    async def receive() -> dict[str, Any]:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b" " * 10**6, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost:80"), (b"transfer-encoding", b"chunked")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    scope |= {"query_string": b"", "server": ("127.0.0.1", 80)}
    gate = Gate(never, Hosts("127.0.0.1", 80), Uploads(), None)
    asyncio.run(gate(scope, receive, send))
    assert read <= MAX_BODY // 10**6 + 2
    (status,) = (m["status"] for m in sent if m["type"] == "http.response.start")
    assert status == 413


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--port=70000", "--port: got 70000"),
        ("--port=-1", "--port: got -1"),
        ("--device=gpu0", "--device: got 'gpu0'"),
        ("--device=cuda:99", "--device: got 'cuda:99'"),
        ("--auth=user", "--auth: expected USER:PASSWORD"),
        ("--auth=:word", "--auth: expected USER:PASSWORD"),
        ("--allow-host=http://name", "--allow-host: got 'http://name'"),
        ("--allow-host=*", "--allow-host: got '*'"),
    ],
)
def test_options_that_cannot_be(
    run: Path, option: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", str(run), option])
    said = str(ended.value) + capsys.readouterr().err
    assert message in said
