"""Helpers that check small custom data files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from custom_files import write_photos, write_rows

from vlm.data import VQADataModule
from vlm.data.check.check import check_data
from vlm.data.check.result import DataCheck
from vlm.datasets import CustomDataset


def rows_with_ids(folder: Path) -> list[dict[str, Any]]:
    """Rows for 20 questions about 10 images."""
    return [row | {"id": f"q{i}"} for i, row in enumerate(write_photos(folder, images=10))]


def check(folder: Path, limit: int = 10, **files: list[dict[str, Any]]) -> DataCheck:
    """Writes the rows to train, validation and test files and checks them."""
    paths = {name: str(write_rows(folder / f"{name}.jsonl", r)) for name, r in files.items()}
    data = CustomDataset(paths.pop("train"), images=folder / "photos", **paths)
    return check_data(VQADataModule(data), limit)


def only(found: DataCheck, kind: str, warning: bool = False) -> str:
    """Returns the message of the only problem found."""
    problems, others = (found.errors, found.warnings)[:: -1 if warning else 1]
    assert problems.counts == {kind: 1}
    assert not others.counts
    assert list(problems.kept) == [kind]
    return problems.kept[kind][0]


def cut(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Splits the rows: six images for training, two for validation, two for testing."""
    return {"train": rows[:12], "validation": rows[12:16], "test": rows[16:]}
