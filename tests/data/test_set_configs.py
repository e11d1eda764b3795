"""Every public data set has a configuration; tests/test_configs.py tests each one."""

from __future__ import annotations

import re

import yaml
from conftest import ROOT

import vlm.datasets
from vlm.datasets import CustomDataset, Dataset, EasyVQA

# The base class, and sets whose configuration includes a model.
ELSEWHERE = {Dataset, EasyVQA, CustomDataset}


def public_sets() -> set[type]:
    public = [getattr(vlm.datasets, name) for name in vlm.datasets.__all__]
    return {c for c in public if isinstance(c, type) and issubclass(c, Dataset)}


def test_every_set_has_a_configuration() -> None:
    configured = {
        yaml.safe_load(path.read_text())["class_path"]
        for path in (ROOT / "configs/datasets").glob("*.yaml")
    }
    assert configured == {f"vlm.datasets.{each.__name__}" for each in public_sets() - ELSEWHERE}


def test_every_set_has_a_line_in_the_documentation() -> None:
    page = (ROOT / "docs/data_sets.md").read_text("utf-8")
    listed = set(re.findall(r"^\|[^|]*\| `([A-Z]\w+)` \|", page, re.MULTILINE))
    assert listed == {each.__name__ for each in public_sets() - {Dataset, CustomDataset}}
