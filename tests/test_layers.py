"""Each folder of `vlm/` imports only from earlier folders, so there are no import cycles."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import vlm

ROOT = Path(vlm.__file__).parent
FLOORS = (
    "core pretrained metrics text image fusion heads model+processor+asking checkpoint adapters "
    "inference testing explain datasets data evaluation trust training studies export serve demo "
    "cli"
)
FLOOR_OF = {name: i for i, names in enumerate(FLOORS.split()) for name in names.split("+")}
LOOSE = {"__init__", "__main__", "asking", "model", "processor", "inference"}
KNOWN: set[tuple[str, str]] = set()


def imports(path: Path) -> Iterator[str]:
    """The folders of `vlm/` that a file imports, including imports inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        modules: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module == "vlm":
            modules = [f"vlm.{alias.name}" for alias in node.names if alias.name in FLOOR_OF]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        yield from (name.split(".")[1] for name in modules if name.startswith("vlm."))


def upwards(path: Path, room: str) -> list[str]:
    return [name for name in imports(path) if FLOOR_OF[name] > FLOOR_OF[room]]


def test_every_room_has_its_floor() -> None:
    rooms = {p.name for p in ROOT.iterdir() if p.is_dir() and any(p.rglob("*.py"))}
    assert {p.stem for p in ROOT.glob("*.py")} == LOOSE
    assert rooms | LOOSE - {"__init__", "__main__"} == set(FLOOR_OF)


@pytest.mark.parametrize("room", FLOOR_OF)
def test_a_room_imports_only_what_is_below(room: str) -> None:
    files = [ROOT / f"{room}.py"] if room in LOOSE else list((ROOT / room).rglob("*.py"))
    found = {(str(file.relative_to(ROOT)), name) for file in files for name in upwards(file, room)}
    assert {pair for pair in found if (room, pair[1]) not in KNOWN} == set()


def test_an_import_upwards_is_found(tmp_path: Path) -> None:
    file = tmp_path / "low.py"
    file.write_text(
        "def f() -> None:\n    from vlm.heads import base\n    from vlm import inference"
    )
    assert upwards(file, "core") == ["heads", "inference"]


def test_no_room_imports_the_roof() -> None:
    found = [
        str(file.relative_to(ROOT))
        for file in ROOT.rglob("*.py")
        if file.parent != ROOT and file.parent.name != "project"  # what `vlm init` writes
        for node in ast.walk(ast.parse(file.read_text()))
        if (isinstance(node, ast.ImportFrom) and node.module == "vlm")
        or (isinstance(node, ast.Import) and any(alias.name == "vlm" for alias in node.names))
    ]
    assert found == []
