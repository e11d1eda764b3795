"""`vlm.core.compat` finds the private parts of other libraries, or reports what is missing."""

from __future__ import annotations

import ast
import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import vlm
from vlm.core import compat
from vlm.core.compat import CHECKS, SUPPORTED, CompatibilityError, reaches_into

ROOT = Path(vlm.__file__).parent


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Gradio leaves event loops open
@pytest.mark.parametrize("name", CHECKS)
def test_every_private_part_is_there_and_no_random_number_is_drawn(name: str) -> None:
    before = torch.get_rng_state()
    CHECKS[name]()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_part_that_is_gone_names_library_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.delattr(constants, "HF_HUB_OFFLINE")
    with pytest.raises(CompatibilityError) as caught:
        compat.hub_constants()
    said = str(caught.value)
    assert said.startswith("huggingface_hub: got version ")
    assert "HF_HUB_OFFLINE" in said
    assert SUPPORTED["huggingface_hub"] in said


def test_a_switch_that_nobody_reads_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False)
    with pytest.raises(CompatibilityError, match="does not read HF_HUB_OFFLINE"):
        compat.hub_constants()


def test_a_module_that_is_gone_differs_from_a_library_that_is_missing() -> None:
    def find() -> None:
        import torch.no_such_module  # noqa: F401

    with pytest.raises(CompatibilityError, match=r"torch: got version .*no_such_module"):
        reaches_into("torch")(find)()
    del CHECKS["find"]


def test_the_supported_versions_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    found = {canonicalize_name(r.name): r.specifier for r in map(Requirement, chain(*groups))}
    for library, versions in SUPPORTED.items():
        assert found[canonicalize_name(library)] == SpecifierSet(versions)


def private_imports(tree: ast.AST) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith(("vlm", "__")):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return [name for name in names if re.search(r"(^|\.)_[a-z]", name, re.IGNORECASE)]


def test_no_other_module_imports_a_private_name() -> None:
    assert private_imports(ast.parse("from torch.utils._pytree import tree_map"))
    files = [path for path in ROOT.rglob("*.py") if path.name != "compat.py"]
    found = {str(path): private_imports(ast.parse(path.read_text())) for path in files}
    assert {path: names for path, names in found.items() if names} == {}
