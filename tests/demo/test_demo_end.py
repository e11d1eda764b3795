"""The demo ends as its first line says: Ctrl+C, and no traceback."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from conftest import ROOT
from demo_server import file_of
from PIL import Image


def test_ctrl_c_ends_it_in_peace(run: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "vlm", "demo", str(run), "--port", "0"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = next(line for line in process.stdout if "The demo is at" in line)
        assert "(Ctrl+C ends it)" in said
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert "Traceback" not in errors
    assert process.returncode == 0


def started(run: Path, folder: Path, *options: str) -> tuple[subprocess.Popen[str], str]:
    """A demo whose temporary files are in a folder, and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "vlm", "demo", str(run), "--port", "0", *options],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said = next(line for line in process.stdout if "The demo is at" in line)
    return process, said.split()[4]


def children(process: subprocess.Popen[str]) -> list[int]:
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split()]


@pytest.mark.parametrize(
    "end",
    [
        signal.SIGTERM,
        *(pytest.param(s, marks=pytest.mark.slow) for s in (signal.SIGINT, signal.SIGKILL)),
    ],
)
def test_nothing_is_left_after_any_end(run: Path, tmp_path: Path, end: signal.Signals) -> None:
    """With a page open and a picture uploaded."""
    process, address = started(run, tmp_path)
    try:
        with httpx.Client(base_url=address, timeout=60) as visitor:
            content = file_of(Image.new("RGB", (200, 200), "red"))
            assert visitor.post("/gradio_api/upload", files={"files": ("a", content)}).is_success
            readers = children(process)
            with visitor.stream("GET", "/gradio_api/heartbeat/mine"):
                assert list(tmp_path.rglob("*")) == []
                process.send_signal(end)
                process.wait(30)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    assert list(tmp_path.rglob("*")) == []
    assert len(readers) == 1
    for _ in range(100):
        if not Path(f"/proc/{readers[0]}/cmdline").exists() or not alive(readers[0]):
            break
        time.sleep(0.1)
    assert not alive(readers[0])


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ((), True),
        pytest.param(("--auth=me:mine",), True, marks=pytest.mark.slow),
        pytest.param(("--host=127.0.0.2",), False, marks=pytest.mark.slow),
    ],
)
def test_others_need_a_password(
    run: Path, tmp_path: Path, options: tuple[str, ...], asked: bool
) -> None:
    host = () if any("--host" in option for option in options) else ("--host=0.0.0.0",)
    process = subprocess.Popen(
        [sys.executable, "-m", "vlm", "demo", str(run), "--port", "0", *host, *options],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if "The demo is at" in line:
                break
        port = said[-1].split()[4].rpartition(":")[2]
        address = f"http://{'127.0.0.1' if host else '127.0.0.2'}:{port}/"
        assert httpx.get(address, timeout=60).status_code == (401 if asked else 200)
        if asked:
            made = re.search(r"password: '(.+?)'", "".join(said))
            auth = "me:mine" if options else made[1] if made else ""
            assert (made is None) == bool(options), "a given password is not printed"
            user, _, password = auth.partition(":")
            assert httpx.get(address, auth=(user, password), timeout=60).status_code == 200
            assert len(password) > 12 or options
    finally:
        process.kill()
        process.communicate()
