"""Drawing on Scenes: what a model draws for sentences that it never saw, judged from the pixels.

    python benchmarks/drawing.py RUN                                        # the table
    python benchmarks/drawing.py RUN --sheet docs/images/drawings.png       # and some drawings

RUN is the folder of `vlm fit -c configs/scenes_draw.yaml`. Each different test sentence is asked
once, about the image it stands beside. No test sentence is in training or validation, nor one that
says the same. `vlm.datasets.generated.judge` decides whether a picture shows a sentence: its
things, nothing else, and the first where the sentence says.

How to read the table:
  true             the generator's own pictures: what the judge takes for right at best
  reconstructions  the same pictures as codes and back: the most that a decoder of codes can reach
  drawn, T         pictures drawn at the temperature T of `vlm.heads.Drawing`
In brackets the 95 % bootstrap interval over sentences.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

import vlm
from vlm.datasets.generated.judge import shows
from vlm.heads import Drawing
from vlm.image.as_text import picture_of
from vlm.metrics import bootstrap_interval

AT_ONCE = 64
ROWS, COLUMNS, SCALE, LINE = 2, 5, 3, 34
"""Of the sheet: drawings, pixels for each of a drawing's, and the height of a caption."""


def pictures(vqa: vlm.VQA, images: Sequence[str], asked: Sequence[str]) -> list[np.ndarray]:
    """What the model draws; a black picture where it answers in words."""
    drawn = []
    for start in range(0, len(asked), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        for answer in vqa.answer(list(images[part]), list(asked[part])):
            made = answer.drawing
            drawn.append(np.zeros((64, 64, 3), np.uint8) if made is None else np.asarray(made))
    return drawn


def line(name: str, made: Sequence[np.ndarray], asked: Sequence[str]) -> str:
    right = [float(shows(p, sentence)) for p, sentence in zip(made, asked, strict=True)]
    low, high, _ = bootstrap_interval(right)
    return f"| {name} | {100 * np.mean(right):.1f} ({100 * low:.1f} - {100 * high:.1f}) |"


def sheet(made: Sequence[np.ndarray], asked: Sequence[str]) -> Image.Image:
    """The first drawings, each above its sentence."""
    side = 64 * SCALE
    whole = Image.new("RGB", (COLUMNS * (side + 8), ROWS * (side + LINE + 8)), "white")
    pen = ImageDraw.Draw(whole)
    for number, (pixels, text) in enumerate(zip(made, asked, strict=True)):
        if number < ROWS * COLUMNS:
            x, y = number % COLUMNS * (side + 8), number // COLUMNS * (side + LINE + 8)
            whole.paste(
                Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST), (x, y)
            )
            words = text.removeprefix("Draw ").removesuffix(".").split()
            for row, half in enumerate((words[:3], words[3:])):
                pen.text((x + 2, y + side + 2 + 14 * row), " ".join(half), fill="black")
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--temperatures", nargs="+", type=float, default=[1.0, 0.5, 0.0])
    parser.add_argument("--sheet", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    vqa = vlm.load(given.run)
    head = vqa.model.head
    assert isinstance(head, Drawing)
    table = vlm.datasets.Scenes(drawings=4).table("test").to_pylist()
    rows = {row["question"]: row for row in table if row["answer_type"] == "draw"}
    asked, images = [*rows], [row["image"] for row in rows.values()]
    true = [np.array(picture_of(row["answers"][0])) for row in rows.values()]
    again = head.pictures.decode(head.pictures.encode(torch.from_numpy(np.stack(true)))).numpy()
    print(f"{len(asked)} sentences, one thread\n\n| pictures | right % |\n|---|---|")
    print(line("true", true, asked))
    print(line("reconstructions", list(again), asked))
    own = head.temperature
    for temperature in given.temperatures:
        head.temperature = temperature
        print(line(f"drawn, {temperature:g}", pictures(vqa, images, asked), asked), flush=True)
    if given.sheet is not None:
        head.temperature = own
        shown = slice(ROWS * COLUMNS)
        sheet(pictures(vqa, images[shown], asked[shown]), asked[shown]).save(given.sheet)


if __name__ == "__main__":
    main()
