"""Limits on what one visitor can use: memory, time, and other visitors' waiting time."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from demo_server import file_of, untrained
from PIL import Image

from vlm.core.compat import CompatibilityError, limit_sessions
from vlm.demo import asker as asking
from vlm.demo import uploads as uploading
from vlm.demo.asker import Asker
from vlm.demo.page import build_page
from vlm.demo.server import SESSIONS, application
from vlm.demo.uploads import Uploads
from vlm.image.load import ImageError
from vlm.inference import VQA
from vlm.serve.reader import Reader
from vlm.serve.requests import Hosts

QUESTION = "what color is it?"
RED = file_of(Image.new("RGB", (20, 10), "red"))


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    made = Reader(seconds=2)
    yield made
    made.close()


def test_an_image_that_takes_too_long_is_given_up(reader: Reader) -> None:
    assert reader(RED).image.size == (20, 10)
    os.kill(reader._process.pid, signal.SIGSTOP)  # like a decoder that never ends
    start = time.monotonic()
    with pytest.raises(ImageError, match="took longer than 2 s"):
        reader(RED)
    assert time.monotonic() - start < 20
    assert reader(RED).image.getpixel((3, 3)) == (255, 0, 0)  # it still works


def test_a_reader_that_is_closed_gives_up_what_it_reads() -> None:
    reader = Reader()
    reader(RED)
    os.kill(reader._process.pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(reader, RED)
        time.sleep(0.5)
        process = reader._process
        reader.close()
        with pytest.raises(ValueError):  # noqa: PT011  nobody is there to read it
            reading.result(10)
    assert reader._process is process, "no other is started"


def test_a_decoder_that_crashes_takes_nothing_with_it(reader: Reader) -> None:
    reader(RED)
    os.kill(reader._process.pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(reader, RED)
        time.sleep(0.5)
        os.kill(reader._process.pid, signal.SIGKILL)
        with pytest.raises(ImageError, match="damaged"):
            reading.result(10)
    assert reader(RED).notes == ()


def test_a_reader_that_ended_between_two_images_blames_neither(reader: Reader) -> None:
    reader(RED)
    os.kill(reader._process.pid, signal.SIGSEGV)
    reader._process.wait(10)
    assert reader(RED).notes == ()


def test_what_cannot_be_read_is_said_as_ever(reader: Reader) -> None:
    with pytest.raises(ImageError, match="empty"):
        reader(b"")
    with pytest.raises(ImageError, match="8,000 x 6,000 pixels") as refused:
        reader(file_of(Image.new("1", (8_000, 6_000))))
    assert refused.value.kind == "oversized"


def test_a_model_that_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    asker = Asker({"it": VQA(untrained())})
    reply = asker.ask(RED, QUESTION, ["it"])[0]
    monkeypatch.setattr(asking, "SECONDS", 0.0)
    late = asker.explain(RED, QUESTION, reply, "occlusion")
    assert late.explanation is None
    assert "No reasons: It took longer than 0 s." in late.notes
    with pytest.raises(ValueError, match="took longer than"):
        asker.ask(RED, "is it red?", ["it"])
    monkeypatch.undo()
    assert asker.explain(RED, QUESTION, reply, "occlusion").explanation is not None


@pytest.mark.parametrize("kind", ["vocabulary", "choices", "text"])
def test_an_output_that_is_not_finite_is_an_error(kind: str) -> None:
    model = untrained(kind)
    with torch.no_grad():
        for parameter in model.fusion.parameters():
            parameter.fill_(float("nan"))
        for parameter in model.image_encoder.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        Asker({kind: VQA(model)}).ask(RED, QUESTION, [kind], ["red", "green"])


def test_sessions_are_limited_or_the_demo_does_not_start() -> None:
    uploads = Uploads()
    page = build_page(Asker({"it": VQA(untrained())}), uploads)
    application(page, uploads, Hosts("127.0.0.1", 80))
    assert page.state_holder.capacity == SESSIONS
    messages = page._queue.pending_messages_per_session
    for number in range(2 * SESSIONS):
        messages[str(number)] = asyncio.Queue()
        page.state_holder[str(number)]
    assert len(messages) == len(page.state_holder.session_data) == SESSIONS
    del messages.max_size
    with pytest.raises(CompatibilityError, match=r"gradio: got .*max_size"):
        limit_sessions(page, SESSIONS)


def test_uploads_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    uploads = Uploads()
    names = [uploads.add(b"%d" % n, "one") for n in range(uploading.VISITOR_UPLOADS + 1)]
    other = uploads.add(b"other", "two")
    assert uploads.get(names[0], "one") is None
    assert uploads.get(names[1], "one") == b"1"
    assert uploads.add(b"1", "one") == names[1], "the same image has the same name"
    monkeypatch.setattr(uploading, "LEAST_BYTES", 1)
    monkeypatch.setattr(uploading, "VISITOR_BYTES", 5)
    large = uploads.add(b"12345", "one")
    assert [uploads.get(name, "one") for name in names] == [None] * len(names)
    assert uploads.get(large, "one") == b"12345"
    assert uploads.get(other, "two") == b"other", "one visitor's do not push out another's"
    monkeypatch.setattr(uploading, "ALL_BYTES", 5)
    uploads.add(b"123", "three")
    assert uploads.get(large, "one") is None
    monkeypatch.setattr(uploading, "KEPT_SECONDS", -1)
    assert uploads.get(other, "two") is None
    monkeypatch.undo()
    monkeypatch.setattr(uploading, "ALL_BYTES", 100 * uploading.LEAST_BYTES)
    small = [(uploads.add(b"small", str(number)), str(number)) for number in range(1000)]
    assert [uploads.get(*one) is not None for one in small] == [False] * 900 + [True] * 100
    shown = uploads.show(b"for all, and for good")
    assert uploads.get(shown, "anybody") == b"for all, and for good"
