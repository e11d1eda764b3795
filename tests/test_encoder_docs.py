"""The docs page on encoders lists every encoder, configuration and package of weights."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from conftest import ROOT

import vlm.image
import vlm.text
from vlm.image import ImageEncoder, PixelEncoder
from vlm.text import TextEncoder

PAGE = (ROOT / "docs/encoders.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("package", "role"), [(vlm.image, ImageEncoder), (vlm.text, TextEncoder)], ids=["image", "text"]
)
def test_every_encoder_and_configuration_is_there(package: Any, role: type) -> None:
    offered = [getattr(package, name) for name in package.__all__]
    roles = (ImageEncoder, PixelEncoder, TextEncoder)
    encoders = [c for c in offered if isinstance(c, type) and issubclass(c, role)]
    missing = [c.__name__ for c in encoders if c not in roles and f"`{c.__name__}`" not in PAGE]
    folder = ROOT / "configs" / package.__name__.rpartition(".")[2]
    missing += [path.name for path in folder.glob("*.yaml") if f"`{path.name}`" not in PAGE]
    assert not missing


def test_every_file_and_package_on_the_page_is_there() -> None:
    named = set(re.findall(r"`(\w+\.yaml)`", PAGE))
    there = {
        path.name for part in ("image", "text") for path in (ROOT / "configs" / part).iterdir()
    }
    assert named <= there
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    packages = [entry.split("==")[0] for entry in project["optional-dependencies"]["weights"]]
    assert packages
    assert [name for name in packages if f"| `{name}` |" not in PAGE] == []
