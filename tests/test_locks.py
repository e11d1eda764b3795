"""The lock files pin everything `pyproject.toml` requires, with a hash for every file."""

from __future__ import annotations

import re
import tomllib

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = ("train", "dev", "lowest")


def pins(lock: str) -> dict[str, list[str]]:
    """The pinned versions of each package; several if platforms differ."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / f"locks/{lock}.lock").read_text().splitlines():
        if match := re.match(r"([A-Za-z0-9_.-]+)==([^ ;]+)", line):
            found.setdefault(canonicalize_name(match[1]), []).append(match[2])
    return found


def direct(extras: bool) -> list[Requirement]:
    groups = [PROJECT["dependencies"]]
    groups += PROJECT["optional-dependencies"].values() if extras else []
    found = [Requirement(text) for group in groups for text in group]
    return [asked for asked in found if asked.name != PROJECT["name"]]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_file_has_its_hash(lock: str) -> None:
    text = (ROOT / f"locks/{lock}.lock").read_text()
    blocks = re.split(r"\n(?=[A-Za-z0-9])", text.partition("\n\n")[0])
    named = [block for block in blocks if re.match(r"[A-Za-z0-9_.-]+==", block)]
    assert len(named) == sum(map(len, pins(lock).values())) > 50
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in named)
    assert "://" not in text
    assert "--index" not in text


@pytest.mark.parametrize("lock", LOCKS)
def test_what_the_project_asks_for_is_pinned_within_its_bounds(lock: str) -> None:
    pinned = pins(lock)
    for asked in direct(extras=lock != "train"):
        versions = pinned[canonicalize_name(asked.name)]
        assert all(asked.specifier.contains(v) for v in versions), (asked, versions)


def test_the_lock_for_training_has_the_versions_of_the_other() -> None:
    train, dev = pins("train"), pins("dev")
    assert train.items() <= dev.items()
    assert "setuptools" in train  # builds vlm itself without further downloads


def test_training_installs_no_weights_of_individuals() -> None:
    weights = {
        canonicalize_name(Requirement(text).name)
        for text in PROJECT["optional-dependencies"]["weights"]
    }
    assert weights
    assert not weights & pins("train").keys()
    assert weights <= pins("dev").keys()


def test_the_lowest_lock_has_the_lower_bounds() -> None:
    lowest = pins("lowest")
    for asked in direct(extras=False):
        bound = next(s.version for s in asked.specifier if s.operator == ">=")
        pinned = min(map(Version, lowest[canonicalize_name(asked.name)]))
        assert pinned.release[:2] == Version(bound).release[:2] or pinned == Version(bound), (
            f"{asked}: nothing below {pinned} can be installed; raise the bound to it."
        )
