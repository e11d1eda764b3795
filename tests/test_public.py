"""The public names of `vlm`, reached from `import vlm` alone."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import vlm

ROOT = Path(vlm.__file__).parent
FOLDERS = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))


def in_a_new_process(code: str) -> str:
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return ended.stdout.strip()


def test_dir_shows_the_public_names_and_no_others() -> None:
    assert in_a_new_process("import vlm; print(*dir(vlm))").split() == sorted(vlm.__all__)
    assert dir(vlm) == sorted(vlm.__all__)


@pytest.mark.parametrize("name", vlm.__all__)
def test_a_public_name_can_be_used(name: str) -> None:
    assert getattr(vlm, name) is not None


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_with_public_names_is_public(folder: str) -> None:
    has_names = hasattr(import_module(f"vlm.{folder}"), "__all__")
    assert (folder in vlm.__all__) == has_names


def test_import_vlm_loads_next_to_nothing() -> None:
    code = "import sys, vlm; print(*[name for name in {} if name in sys.modules])"
    assert in_a_new_process(code.format(("torch", "lightning", "numpy", "vlm.fusion"))) == ""


def test_a_subpackage_is_imported_when_it_is_used() -> None:
    assert in_a_new_process("import vlm; print(vlm.fusion.MCAN.__name__)") == "MCAN"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'vlm' has no attribute 'fusions'"):
        _ = vlm.fusions  # type: ignore[attr-defined]


def test_a_data_set_is_shown_by_what_was_given() -> None:
    assert repr(vlm.datasets.EasyVQA()) == "EasyVQA()"
    assert repr(vlm.datasets.CLEVR(root="x", seed=3)) == "CLEVR(root='x', seed=3)"


def test_a_data_module_is_shown_by_what_was_given() -> None:
    data = vlm.VQADataModule(vlm.datasets.EasyVQA(), images_per_batch=64)
    assert str(data) == repr(data) == "VQADataModule(dataset=EasyVQA(), images_per_batch=64)"


def test_a_long_argument_is_cut() -> None:
    shown = repr(vlm.text.WordTokenizer([f"word{n}" for n in range(999)]))
    assert shown.startswith("WordTokenizer(words=['word0', 'word1', ")
    assert len(shown) < 300
