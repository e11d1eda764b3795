"""Checks of small files of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from custom_files import write_photos, write_rows

from vlm.data import VQADataModule
from vlm.data.check.check import check_data
from vlm.data.check.result import DataCheck
from vlm.datasets import CustomDataset


def rows_with_ids(folder: Path) -> list[dict[str, Any]]:
    """Of 10 images, 20 questions."""
    return [row | {"id": f"q{i}"} for i, row in enumerate(write_photos(folder, images=10))]


def check(folder: Path, limit: int = 10, **files: list[dict[str, Any]]) -> DataCheck:
    """Check train, validation and test files of these rows."""
    paths = {name: str(write_rows(folder / f"{name}.jsonl", r)) for name, r in files.items()}
    data = CustomDataset(paths.pop("train"), images=folder / "photos", **paths)
    return check_data(VQADataModule(data), limit)


def only(found: DataCheck, kind: str, warning: bool = False) -> str:
    """The message of the only problem."""
    problems, others = (found.errors, found.warnings)[:: -1 if warning else 1]
    assert problems.counts == {kind: 1}
    assert not others.counts
    assert list(problems.kept) == [kind]
    return problems.kept[kind][0]


def cut(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Six images, two, two."""
    return {"train": rows[:12], "validation": rows[12:16], "test": rows[16:]}
