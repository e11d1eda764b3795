"""A small custom data set: single-colour images and questions about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from conftest import COLORS, ROOT
from PIL import Image

CONFIG = str(ROOT / "configs/own_data.yaml")


def write_photos(folder: Path, images: int = 20, seed: int = 0) -> list[dict[str, Any]]:
    """Writes images to `photos/` and returns two questions about each, without ids."""
    (folder / "photos").mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(images):
        color = list(COLORS)[rng.integers(3)]
        name = f"{seed}-{number}.png"
        Image.new("RGB", (24, 16), COLORS[color]).save(folder / "photos" / name)
        asked = list(COLORS)[rng.integers(3)]
        rows += [
            {"image": name, "question": "what color is it?", "answer": color},
            {"image": name, "question": f"is it {asked}?", "answer": _yes(asked == color)},
        ]
    return rows


def _yes(true: bool) -> str:
    return "yes" if true else "no"


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def small(folder: Path, path: Path, *options: str) -> list[str]:
    """Options for a quick run."""
    return [
        f"--dataset.path={path}",
        f"--dataset.images={folder / 'photos'}",
        "--data.images_per_batch=4",
        f"--run.folder={folder / 'runs'}",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--trainer.accelerator=cpu",
        *options,
    ]
