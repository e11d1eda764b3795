"""Draw the images of the README and of docs/choosing_a_fusion.md: `python docs/images/make.py`.

`answers.png` is what `vlm explain scenes` draws. `learning.png` reads
`docs/benchmarks/learning/scenes.json`, which `benchmarks/learning.py` wrote. `demo.png` is a
screenshot by `tests/demo/screenshot.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

import vlm
from vlm.explain import draw, explain

HERE = Path(__file__).parent
LEARNING = HERE.parent / "benchmarks/learning/scenes.json"
SCENE = Path(vlm.__file__).parent / "bundled/scenes/example.png"


def draw_answer() -> None:
    """What `vlm explain scenes` writes for the README's question."""
    why = explain(vlm.load("scenes"), SCENE, "Is the gray object left of the brown object?")
    draw(why, SCENE).save(HERE / "answers.png", optimize=True)


# The others are drawn in grey.
NAMED = {
    "CrossAttention": "#0b7285",
    "LXMERT": "#d9480f",
    "MCAN": "#5f3dc4",
    "QFormer": "#c2255c",
    "GatedCrossAttention": "#2b8a3e",
}


def draw_learning() -> None:
    """Validation accuracy after each epoch, of the fusions that read tokens."""
    results = json.loads(LEARNING.read_text(encoding="utf-8"))
    figure, axes = plt.subplots(figsize=(8, 4.2))
    for fusion, seeds in results.items():
        curve = next(iter(seeds.values()))["validation"]
        color = NAMED.get(fusion, "#ced4da")
        front = fusion in NAMED
        axes.plot(
            range(1, len(curve) + 1),
            curve,
            color=color,
            lw=2 if front else 1.2,
            zorder=2 + front,
            label=fusion if front else None,
        )
    axes.axhline(100 / 3, color="#868e96", linestyle="--", lw=1)
    axes.text(16, 34.5, "chance", ha="right", fontsize=8, color="#495057")
    axes.set(xlabel="epoch", ylabel="validation accuracy %", xlim=(1, 16), ylim=(30, 101))
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.1), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(HERE / "learning.png", dpi=110)


if __name__ == "__main__":
    draw_answer()
    draw_learning()
