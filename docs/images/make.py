"""Draw the images of the README and of docs/choosing_a_fusion.md: `python docs/images/make.py`.

`answers.png` is what `vlm explain scenes` draws. `fusions.png` reads its figures from
`docs/compare/easy_vqa/report.md`, which `vlm compare` wrote. `demo.png` is a screenshot by
`tests/demo/screenshot.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

import vlm
from vlm.explain import draw, explain

HERE = Path(__file__).parent
REPORT = HERE.parent / "compare/easy_vqa/report.md"
SCENE = Path(vlm.__file__).parent / "bundled/scenes/example.png"


def draw_answer() -> None:
    """What `vlm explain scenes` writes for the README's question."""
    why = explain(vlm.load("scenes"), SCENE, "Is the gray object left of the brown object?")
    draw(why, SCENE).save(HERE / "answers.png", optimize=True)


# Labels that would lie on each other, in points from the place of the others.
MOVED = {"dfaf": (0, 9), "mcan": (-38, 5), "qformer": (-42, -11)}


class Fusion(NamedTuple):
    name: str
    accuracy: float
    low: float
    high: float
    milliseconds: float


def read_report() -> list[Fusion]:
    """The accuracy and the cost of each fusion, from the two tables of the report."""
    text = REPORT.read_text(encoding="utf-8")
    accuracy = re.findall(r"^\| \d+ (\w+) \| ([\d.]+) \(([\d.]+) - ([\d.]+)\)", text, re.MULTILINE)
    costs = text[text.index("## Cost") :]
    rows = re.findall(r"^\| \d+ (\w+) \|((?: [^|]+\|){5})", costs, re.MULTILINE)
    steps = {name: float(cells.split("|")[4]) for name, cells in rows}
    return [Fusion(name, *map(float, figures), steps[name]) for name, *figures in accuracy]


def draw_fusions() -> None:
    """Test accuracy over the time of a training step, on easy-VQA."""
    fusions = sorted(read_report(), key=lambda fusion: fusion.milliseconds)
    figure, axes = plt.subplots(figsize=(8, 4.6))
    for fusion in fusions:
        errors = [[fusion.accuracy - fusion.low], [fusion.high - fusion.accuracy]]
        axes.errorbar(
            fusion.milliseconds, fusion.accuracy, errors, fmt="o", color="#0b7285", ecolor="#c5d8dc"
        )
    # The best are as good as each other; their labels stand side by side above them.
    for number, fusion in enumerate(each for each in fusions if each.accuracy >= 99.5):
        axes.annotate(
            fusion.name,
            (fusion.milliseconds, fusion.accuracy),
            (fusions[0].milliseconds * 1.12**number, 104),
            rotation=45,
            fontsize=8,
            arrowprops={"arrowstyle": "-", "color": "#adb5bd", "lw": 0.7, "relpos": (0, 0)},
        )
    for fusion in fusions:
        if fusion.accuracy < 89.5:
            axes.annotate(
                fusion.name,
                (fusion.milliseconds, fusion.accuracy),
                tuple(map(sum, zip((6, -3), MOVED.get(fusion.name, (0, 0)), strict=True))),
                textcoords="offset points",
                fontsize=8,
            )
    axes.axhline(67.06, color="#868e96", linestyle="--", lw=1)
    axes.text(260, 67.4, "answer from the question alone", ha="right", fontsize=8, color="#495057")
    axes.set(xscale="log", xlim=(17, 280), ylim=(60, 103))
    axes.set_xticks([20, 30, 50, 100, 200], ["20", "30", "50", "100", "200"])
    axes.minorticks_off()
    axes.set(xlabel="milliseconds per training step (one CPU thread)", ylabel="test accuracy %")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(HERE / "fusions.png", dpi=110)


if __name__ == "__main__":
    draw_answer()
    draw_fusions()
