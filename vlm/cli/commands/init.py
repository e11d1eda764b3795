"""`vlm init`: a small project with data, a configuration and a custom fusion."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from vlm.cli.command_parser import command_parser

PROJECT = Path(__file__).parents[1] / "project"
COLOURS = {"red": (220, 40, 40), "green": (40, 160, 60), "blue": (40, 80, 220)}
IMAGES = 60


def init(arguments: Sequence[str]) -> None:
    """Write the project."""
    parser = command_parser(
        "init",
        "Write a small project with a configuration, questions, images and a fusion of your own.",
        "example:\n  vlm init my_project",
    )
    parser.add_argument("folder", type=Path, help="new or empty folder to write")
    folder: Path = parser.parse_args(arguments).folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        sys.exit(f"vlm init: {folder}: not empty; expected a new or empty folder.")
    try:
        compiled = shutil.ignore_patterns("__pycache__")  # pip's, of what it installs
        shutil.copytree(PROJECT, folder, dirs_exist_ok=True, ignore=compiled)
        _write_data(folder)
    except OSError as error:
        sys.exit(f"vlm init: {folder}: cannot be written ({error.strerror or error}).")
    print((PROJECT / "README.md").read_text(encoding="utf-8"))
    print(f"Written to {folder}.")


def _write_data(folder: Path) -> None:
    """Write images of a coloured square on the left or right, with three questions each."""
    # Here and not above: `--help` and a mistake need not wait for Pillow.
    from PIL import Image

    (folder / "images").mkdir()
    lines = []
    for number in range(IMAGES):
        colour, side = list(COLOURS)[number % 3], ("left", "right")[number // 3 % 2]
        image = Image.new("RGB", (64, 64), (240, 240, 240))
        image.paste(
            COLOURS[colour], (4 if side == "left" else 36, 20, 28 if side == "left" else 60, 44)
        )
        image.save(folder / "images" / f"{number}.png")
        other = list(COLOURS)[number // 6 % 3]
        asked = {
            "what color is the square?": colour,
            "where is the square?": side,
            f"is the square {other}?": "yes" if other == colour else "no",
        }
        lines += [
            json.dumps({"image": f"{number}.png", "question": question, "answer": answer})
            for question, answer in asked.items()
        ]
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
