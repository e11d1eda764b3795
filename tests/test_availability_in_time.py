"""Without a network, models of every library fail in one sentence within the promised time."""

from __future__ import annotations

import importlib
import json
import shutil
import socket
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from own_time import own_time

from vlm.datasets import CustomDataset
from vlm.datasets.errors import DataError
from vlm.heads import Generation, HuggingFaceDecoder
from vlm.image import OpenClipImageEncoder, TimmEncoder, TorchvisionEncoder
from vlm.pretrained import availability as reach
from vlm.text import HuggingFaceEncoder, SubwordTokenizer

NAME = "someone/nosuch"


def _data_set() -> Any:
    return CustomDataset(NAME).table("train")


def _adapter() -> Any:
    from vlm.inference import load

    return load(f"hf:{NAME}")


LOADED: dict[str, tuple[str, Callable[[], Any]]] = {
    "a text encoder": ("transformers", partial(HuggingFaceEncoder, name=NAME)),
    "a tokenizer": ("tokenizers", partial(SubwordTokenizer, NAME)),
    "a decoder": (
        "transformers",
        lambda: Generation(13, partial(HuggingFaceDecoder, name=NAME)),
    ),
    "timm": ("timm", partial(TimmEncoder, "resnet10t", pretrained=True)),
    "torchvision": (
        "torchvision.models",
        partial(TorchvisionEncoder, "mnasnet0_5", pretrained=True),
    ),
    "open_clip": (
        "open_clip",
        partial(OpenClipImageEncoder, "ViT-B-32", pretrained="laion2b_s34b_b79k"),
    ),
    "open_clip's hub": ("open_clip", partial(OpenClipImageEncoder, f"hf-hub:{NAME}")),
    "a model of the hub": ("vlm.adapters", _adapter),
    "a data set of the hub": ("datasets", _data_set),
}
"""What must be imported, and what asks for weights."""


class Swallowed:
    """A network whose proxy accepts every connection and notes its server but never answers."""

    def __init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = "http://{}:{}".format(*self.server.getsockname())
        self.open: list[socket.socket] = []
        self.asked: list[str] = []
        Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        with suppress(OSError):  # the server was closed
            while True:
                one = self.server.accept()[0]
                self.open.append(one)
                one.settimeout(1)
                with suppress(TimeoutError):
                    self.asked.append(one.recv(9999).decode("latin-1").partition("\r\n")[0])

    def calls(self, server: str) -> int:
        """Connections to `server`: threads of earlier tests may reach others meanwhile."""
        return sum(server in line for line in self.asked)

    def close(self) -> None:
        self.server.shutdown(socket.SHUT_RDWR)
        for one in (self.server, *self.open):
            one.close()


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Swallowed]:
    from huggingface_hub import constants

    made = Swallowed()
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "NO_PROXY", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, made.address)
    monkeypatch.setattr(urllib.request, "_opener", None)  # caches the proxies
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "https://huggingface.co")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(reach, "_silent", {})
    monkeypatch.setattr(reach, "REMEMBERED", 600.0)  # however busy the machine is
    yield made
    made.close()


@pytest.mark.parametrize("library", LOADED)
def test_it_gives_up_in_time(library: str, network: Swallowed) -> None:
    """Loading gives up in time, after a single connection; the time excludes imports. On their
    own, the libraries retry for up to a minute."""
    module, load = LOADED[library]
    pytest.importorskip(module)
    importlib.import_module(module)
    start = own_time()
    with pytest.raises(
        (OSError, DataError),
        match=r"(model|weights|data set) could not be loaded; looked.* answer",
    ) as said:
        load()
    assert own_time() - start < 2
    server = "download.pytorch.org" if library == "torchvision" else "huggingface.co"
    assert network.calls(server) == 1, network.asked
    assert "\n" not in str(said.value)


def test_a_data_set_of_the_cache_is_read_as_soon(
    network: Swallowed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"image": f"{i}.png", "question": "?", "answer": "x"} for i in range(9)]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    datasets.load_dataset(str(tmp_path / "mine"))
    (kept,) = (tmp_path / "cache").glob("*/*/*/*/dataset_info.json")
    stored = tmp_path / "cache/someone___cached/default" / "/".join(kept.parts[-3:-1])
    shutil.copytree(kept.parent, stored)
    (stored / "mine-train.arrow").rename(stored / "cached-train.arrow")
    about = json.loads((stored / "dataset_info.json").read_text()) | {"config_name": "default"}
    (stored / "dataset_info.json").write_text(json.dumps(about))
    start = own_time()
    data = CustomDataset("someone/cached")
    parts = [len(data.table(split)) for split in ("train", "validation", "test")]
    assert own_time() - start < 2
    assert parts == [7, 1, 1]
    assert network.calls("huggingface.co") == 1, network.asked
    assert datasets.config.HF_HUB_OFFLINE is False


@pytest.mark.parametrize("name", ["loop", "some/loop", "some/my.jsonl"])
def test_a_link_that_leads_nowhere_is_no_name_of_the_hub(
    name: str, network: Swallowed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("some").mkdir()
    Path(name).symlink_to("gone.jsonl" if "my" in name else "loop")
    with pytest.raises(DataError, match=f"^{name}: there is no such file. It is a link to "):
        CustomDataset(name).table("train")
    assert not network.calls("huggingface.co"), network.asked
