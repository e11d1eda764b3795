"""`vlm serve` in its own process."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from conftest import ROOT
from demo_server import file_of, untrained, write_model
from held_encoder import Held
from PIL import Image

from vlm.model import VQAModel

KEY = "a-key-of-the-tests"
QUESTION = "what color is it?"


@dataclass
class Server:
    """A running server: its process, address, log, and a client that knows its key."""

    process: subprocess.Popen[str]
    address: str
    log: Path
    client: httpx.Client

    def ask(self, image: bytes, question: str = QUESTION, **more: Any) -> httpx.Response:
        """Ask with JSON."""
        body = {"image": data_url(image), "question": question, **more}
        return self.client.post("/answer", json=body)

    def metric(self, name: str) -> float:
        """A number of `/metrics`."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.client.get("/metrics").text, re.M)
        assert found is not None, name
        return float(found[1])


@contextmanager
def serving(model: Path, folder: Path, *options: str, keys: str = KEY) -> Iterator[Server]:
    """A server of a model, with its log in a folder; killed at the end."""
    log = folder / "log.txt"
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "vlm", "serve", str(model), "--port=0", *options],
            env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "VLM_SERVE_KEYS": keys},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search("The server is at ([^ ]+)", line)
        assert found, line + log.read_text()
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=found[1], headers=headers, timeout=60) as client:
            yield Server(process, found[1], log, client)
    finally:
        process.kill()
        process.communicate()


def held(folder: Path) -> tuple[Path, Path]:
    """A model that encodes no image while a file exists, and the file."""
    hold, other = folder / "hold", untrained()
    model = VQAModel(Held(str(hold)), other.text_encoder, other.fusion, other.head).eval()
    return write_model(model, folder / "held.ckpt", "held"), hold


def data_url(content: bytes) -> str:
    """An image as OpenAI's clients send it."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def picture(number: int) -> bytes:
    """An image that no other number has."""
    return file_of(Image.new("RGB", (16, 16), (number % 256, number // 256, 7)))
