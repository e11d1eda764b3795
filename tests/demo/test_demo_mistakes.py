"""What is sent by hand and typed wrongly: each gets a sentence, and the server no traceback."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import pytest
from demo_server import file_of
from PIL import Image

from vlm.cli import main
from vlm.demo.api import content_of
from vlm.demo.photo import read_photo


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
