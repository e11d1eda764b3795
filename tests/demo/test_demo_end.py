"""The demo ends on Ctrl+C, as its first line says, without a traceback."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import ROOT
from demo_server import file_of
from PIL import Image


@contextmanager
def demo(run: Path, *options: str, **environment: str) -> Iterator[tuple[Any, str, str]]:
    """A demo process, its output and its address; killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "vlm", "demo", str(run), "--port", "0", *options],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        printed = ""
        while "The demo is at" not in printed:
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            printed += line
        yield process, printed, re.search("The demo is at ([^ ]+)", printed)[1]  # type: ignore[index]  # it was printed
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_ctrl_c_ends_it_in_peace(run: Path) -> None:
    with demo(run) as (process, printed, _):
        assert "(Ctrl+C ends it)" in printed
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
        assert "Traceback" not in errors
        assert process.returncode == 0


def children(process: Any) -> list[int]:
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split()]


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_after_any_end(run: Path, tmp_path: Path, end: signal.Signals) -> None:
    """No file or process is left, even with an open page and an uploaded image."""
    with (
        demo(run, TMPDIR=str(tmp_path)) as (process, _, address),
        httpx.Client(base_url=address, timeout=60) as visitor,
    ):
        content = file_of(Image.new("RGB", (200, 200), "red"))
        assert visitor.post("/gradio_api/upload", files={"files": ("a", content)}).is_success
        (reader,) = children(process)
        with visitor.stream("GET", "/gradio_api/heartbeat/mine"):
            assert list(tmp_path.rglob("*")) == []
            process.send_signal(end)
            process.wait(30)
    assert list(tmp_path.rglob("*")) == []
    deadline = time.monotonic() + 10
    while alive(reader) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(reader)


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ((), True),
        (("--auth=me:mine",), True),
        (("--host=127.0.0.2",), False),
    ],
)
def test_others_need_a_password(run: Path, options: tuple[str, ...], asked: bool) -> None:
    host = "127.0.0.1" if asked else "127.0.0.2"
    more = ("--host=0.0.0.0", *options) if asked else options
    with demo(run, *more) as (_, printed, address):
        url = f"http://{host}:{address.rpartition(':')[2]}/"
        assert httpx.get(url, timeout=60).status_code == (401 if asked else 200)
        made = re.search(r"password: '(.+?)'", printed)
        assert (made is not None) == (asked and not options), "a given password is not printed"
        if asked:
            user, _, password = (made[1] if made else "me:mine").partition(":")
            assert httpx.get(url, auth=(user, password), timeout=60).status_code == 200
            assert len(password) > 12 or options
