"""Every public class has an example in its docstring that prints the output shown."""

from __future__ import annotations

import doctest
import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import vlm
from vlm.fusion import CrossAttention
from vlm.heads import Classification
from vlm.image import ConvNet
from vlm.text import BagOfWords

PACKAGES = [
    "vlm",
    "vlm.adapters",
    "vlm.data.augmentation",
    "vlm.explain",
    "vlm.fusion",
    "vlm.fusion.merges",
    "vlm.heads",
    "vlm.image",
    "vlm.metrics",
    "vlm.testing",
    "vlm.text",
    "vlm.training",
]


def public() -> dict[str, Any]:
    """Public classes and functions by one of their public names, each listed once."""
    found: dict[Any, str] = {}
    for package in map(importlib.import_module, PACKAGES):
        for name in package.__all__:
            value = getattr(package, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                found.setdefault(value, f"{package.__name__}.{name}")
    return {name: value for value, name in found.items()}


PUBLIC = public()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder examples run in, with an untrained colour model `my_model` and `photo.png`."""
    folder = tmp_path_factory.mktemp("examples")
    image, text = ConvNet(), BagOfWords(["what", "color", "is", "it"])
    fusion = CrossAttention(image.dim, text.dim)
    head = Classification(fusion.out_dim, ["red", "blue"])
    vlm.VQA(vlm.VQAModel(image, text, fusion, head)).save(folder / "my_model")
    Image.new("RGB", (96, 64), "red").save(folder / "photo.png")
    return folder


def mistakes(value: Any) -> str:
    """Differences between what a docstring's examples print and the output shown."""
    told: list[str] = []
    names = vars(sys.modules[value.__module__]) | {"torch": torch, "vlm": vlm}
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(verbose=False)
    examples = parser.get_doctest(value.__doc__, names, value.__name__, None, None)
    runner.run(examples, out=told.append)
    return "".join(told)


@pytest.mark.parametrize("name", [name for name in PUBLIC if inspect.isclass(PUBLIC[name])])
def test_a_public_class_has_an_example(name: str) -> None:
    text = PUBLIC[name].__doc__ or ""
    assert "Example:\n" in text, f"{name}: its docstring has no section `Example:`"
    assert ">>> " in text.partition("Example:\n")[2], f"{name}: its example has no code"


@pytest.mark.parametrize(
    "name", [name for name in PUBLIC if ">>> " in (PUBLIC[name].__doc__ or "")]
)
def test_an_example_prints_what_it_says(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    found = mistakes(PUBLIC[name])
    assert not found, found


def wrong() -> None:
    """
    >>> 1 + 2
    2
    """


def test_a_wrong_example_is_found() -> None:
    assert "Expected:\n    2\nGot:\n    3" in mistakes(wrong)
