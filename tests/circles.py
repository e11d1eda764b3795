"""A tiny task with two images a question: which of them has the circle?"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

QUESTION = "which image has the circle?"


def draw(shape: str, rng: random.Random) -> Image.Image:
    """A dark circle or square on light ground, of any size and place."""
    image = Image.new("RGB", (32, 32), (230, 230, 230))
    side = rng.randint(12, 20)
    x, y = (rng.randint(1, 31 - side) for _ in "xy")
    color = tuple(rng.randint(0, 150) for _ in "rgb")
    canvas = ImageDraw.Draw(image)
    (canvas.ellipse if shape == "circle" else canvas.rectangle)((x, y, x + side, y + side), color)
    return image


def write_circles(folder: Path, pairs: int, seed: int = 0) -> list[dict[str, Any]]:
    """Write `pairs` of images and `my.jsonl`, and return its rows: a question about each pair, and
    for every other pair one about its first image alone."""
    folder.mkdir(exist_ok=True)
    rng, rows = random.Random(seed), []
    for number in range(pairs):
        right = rng.randrange(2)
        names = [f"{seed}-{number}-{place}.png" for place in range(2)]
        for place, name in enumerate(names):
            draw("circle" if place == right else "square", rng).save(folder / name)
        answer = ["first", "second"][right]
        rows.append({"image": names, "question": QUESTION, "answer": answer})
        if number % 2:
            said = ["yes", "no"][right]
            rows.append({"image": names[0], "question": "is it a circle?", "answer": said})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "my.jsonl").write_text(lines)
    return rows
