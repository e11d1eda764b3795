"""What is sent by hand and typed wrongly: each gets a sentence, and the server no traceback."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from demo_server import file_of
from fastapi import FastAPI, Request
from PIL import Image
from starlette.middleware import Middleware
from starlette.types import Receive, Scope, Send

from vlm.cli import main
from vlm.demo.api import content_of
from vlm.demo.photo import read_photo
from vlm.demo.server import MAX_BODY, BodyLimit


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.png", "not there any more"),  # uploads are kept for an hour
        ("a\0b.png", "not there any more"),
        ("x" * 5000, "not there any more"),
        ("\ud800.png", "not there any more"),
        ("", "not there any more"),
        ("../outside.png", "wanted an uploaded file"),
    ],
)
def test_an_upload_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    (tmp_path / "outside.png").write_bytes(b"secret")
    (tmp_path / "uploads").mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    (tmp_path / "uploads/there.png").write_bytes(b"there")
    assert content_of({"path": str(tmp_path / "uploads/there.png")}) == b"there"
    with pytest.raises(gr.Error, match=message):
        content_of({"path": f"{tmp_path}/uploads/{name}"})


@pytest.mark.parametrize("code", ["not base64!", "\u00e4\u00f6"])
def test_a_data_url_that_is_none(code: str) -> None:
    with pytest.raises(gr.Error, match="is not base64"):
        content_of({"url": f"data:image/png;base64,{code}"})


@pytest.mark.parametrize(("kind", "plugin"), [("GIF", "Gif"), ("TIFF", "Tiff")])
def test_frames_are_not_counted(kind: str, plugin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of 10 MB can hold hundreds of thousands, for which all visitors would wait."""

    def count(image: Image.Image) -> int:
        raise AssertionError("counted")

    more = [Image.new("L", (1, 1), 9)] * 5
    content = file_of(Image.new("L", (1, 1)), kind, save_all=True, append_images=more)
    counted = f"PIL.{plugin}ImagePlugin.{plugin}ImageFile.n_frames"
    monkeypatch.setattr(counted, property(count))
    assert "several pages" in read_photo(content).notes[0]


@pytest.mark.parametrize("path", ["/json", "/stream", "/begun"])
def test_a_body_without_a_length_is_read_up_to_the_limit(path: str) -> None:
    """Whatever a route does with it: a refusal, and no traceback."""
    app = FastAPI(middleware=[Middleware(BodyLimit)])

    @app.post("/json")
    async def as_json(body: dict[str, int]) -> None:
        raise AssertionError

    @app.post("/stream")
    async def as_stream(request: Request) -> None:
        async for _ in request.stream():
            pass

    async def begun(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await receive())["type"] == "http.request":
            pass

    sent: list[Any] = []
    read = 0

    async def receive() -> dict[str, Any]:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b" " * 10**6, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"transfer-encoding", b"chunked")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    scope |= {"query_string": b"", "root_path": "", "http_version": "1.1", "scheme": "http"}
    scope |= {"server": ("here", 80), "client": ("there", 1), "raw_path": path.encode()}
    asyncio.run((BodyLimit(begun) if path == "/begun" else app)(scope, receive, send))
    assert read <= MAX_BODY // 10**6 + 2
    (status,) = (m["status"] for m in sent if m["type"] == "http.response.start")
    assert status == (200 if path == "/begun" else 413)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--port=70000", "--port: got 70000; wanted a number from 0 to 65535"),
        ("--port=-1", "--port: got -1"),
        ("--device=gpu0", "--device: got 'gpu0'; wanted cpu or cuda"),
        ("--device=cuda:99", "--device: got 'cuda:99'"),
    ],
)
def test_options_that_cannot_be(
    run: Path, option: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", str(run), option])
    said = str(ended.value) + capsys.readouterr().err
    assert message in said
