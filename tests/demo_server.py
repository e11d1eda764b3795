"""Models for the demo tests, and `vlm demo` in its own process."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.request import urlopen

import torch
from conftest import ROOT
from PIL import Image

from vlm.checkpoint.checkpoint import KEY, PREFIX, describe
from vlm.checkpoint.file import write_checkpoint
from vlm.fusion import CrossAttention, Fusion, Pooled
from vlm.heads import (
    AnswerHead,
    Classification,
    Generation,
    MultipleChoice,
    TransformerDecoder,
)
from vlm.image import ConvNet
from vlm.model import VQAModel
from vlm.text import BagOfWords

WORDS = ["what", "color", "is", "it", "the", "red", "green", "blue", "yes", "no"]
SECONDS_TO_START = 120


def untrained(kind: str = "vocabulary") -> VQAModel:
    """A small model with random weights, for each kind of answer."""
    image, text = ConvNet(image_size=32, widths=(5, 7)), BagOfWords(WORDS, dim=11)
    fusion: Fusion = Pooled(image.dim, text.dim)
    head: AnswerHead
    if kind == "choices":
        head = MultipleChoice(fusion.out_dim, text.dim)
    elif kind == "text":
        head = writes_o(Generation(fusion.out_dim, partial(TransformerDecoder, num_layers=1)))
    else:
        fusion = CrossAttention(image.dim, text.dim)
        head = Classification(fusion.out_dim, ["red", "green", "blue", "yes", "no"])
    return VQAModel(image, text, fusion, head).eval()


def writes_o(head: Generation) -> Generation:
    """Make the head write "o" and stop; with random weights it would never stop."""
    decoder = head.decoder
    assert isinstance(decoder, TransformerDecoder)
    table, tokens = decoder.embedding.weight, decoder.tokenizer
    with torch.no_grad():
        decoder.norm.weight.fill_(0.01)
        decoder.norm.bias.copy_(100 * table[tokens.end] + 60 * table[tokens.encode("o")[0]])
    return head


def write_model(model: VQAModel, path: Path, run: str) -> Path:
    """Write a checkpoint of the model as training does."""
    weights = {PREFIX + name: value for name, value in model.state_dict().items()}
    content = {
        KEY: describe(model, {"run": f"runs/{run}/1", "data": "vlm.datasets.easy_vqa.EasyVQA"}),
        "state_dict": weights,
        "global_step": 0,
    }
    write_checkpoint(content, path)
    return path


def file_of(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """An image as the bytes of a file."""
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of 8,000 x 8,000 black pixels in 40 kilobytes."""
    rows = zlib.compress(bytes(8_000 * (1 + 8_000 // 8)), 1)
    header = struct.pack(">IIBBBBB", 8_000, 8_000, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


RUNNING: list[tuple[subprocess.Popen[bytes], IO[str]]] = []
"""Servers of this session and their logs."""


def end_all() -> None:
    for process, log in RUNNING:
        process.kill()
        process.wait()
        log.close()
    RUNNING.clear()


@cache
def start(
    checkpoints: tuple[Path, ...],
    *options: str,
    program: tuple[object, ...] = ("-m", "vlm", "demo"),
) -> str:
    """Start a demo with these models and options; return its address. It ends with the tests."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command: Sequence[object] = (
        *(sys.executable, *program, *checkpoints, "--port", port, *options),
    )
    paths = os.pathsep.join(map(str, (ROOT, Path(__file__).parent)))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    log = tempfile.NamedTemporaryFile("w+", prefix="vlm-demo-test-")  # noqa: SIM115  open as long as the server
    process = subprocess.Popen(
        [str(part) for part in command], env=environment, stdout=log, stderr=subprocess.STDOUT
    )
    RUNNING.append((process, log))
    address = f"http://127.0.0.1:{port}"
    for _ in range(4 * SECONDS_TO_START):
        if process.poll() is not None:
            raise AssertionError(f"vlm demo ended: {Path(log.name).read_text()}")
        try:
            urlopen(address, timeout=5).close()
            return address
        except HTTPError as asked:  # asks for a password
            asked.close()
            return address
        except OSError:
            time.sleep(0.25)
    raise AssertionError(f"vlm demo did not start within {SECONDS_TO_START} s.")
