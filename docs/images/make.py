"""Draw the images of the README and of docs/choosing_a_fusion.md: `python docs/images/make.py`.

`answers.png` is what `vlm explain` draws for the two bundled models. `learning.png` and `cost.png`
read `docs/benchmarks/learning/scenes.json`, which `benchmarks/learning.py` wrote. `browse.png`
shows what `vlm browse` writes, in Debian's Chromium. `demo.png` and `demo-phone.png` are
screenshots that `VLM_SCREENSHOTS=1 pytest tests/demo/test_demo_page.py -k axe` takes.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import chdir
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import torch
from PIL import Image
from playwright.sync_api import sync_playwright
from torch.utils.flop_counter import FlopCounterMode

import vlm
from vlm.core.features import Features
from vlm.datasets import EasyVQA, Scenes
from vlm.evaluation.browse import browse
from vlm.explain import draw, explain

HERE = Path(__file__).parent
LEARNING = HERE.parent / "benchmarks/learning/scenes.json"
SCENE = Path(vlm.__file__).parent / "bundled/scenes/example.png"


def draw_answers() -> None:
    """What `vlm explain` writes for a question of each bundled model, side by side."""
    shape = EasyVQA().table("test")["image"][0].as_py()
    asked = {
        "scenes": (SCENE, "What shape is the gray object?"),
        "easy_vqa": (shape, "What color is the shape?"),
    }
    drawn = [
        draw(explain(vlm.load(name), image, question), image)
        for name, (image, question) in asked.items()
    ]
    sheet = Image.new("RGB", (sum(d.width for d in drawn), max(d.height for d in drawn)), "white")
    left = 0
    for each in drawn:
        sheet.paste(each, (left, 0))
        left += each.width
    sheet.save(HERE / "answers.png", optimize=True)


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


IMAGES, QUESTIONS = 16, 4
"""Of the batch whose FLOPs are counted: as in training, four questions about each image."""


def megaflops(fusion: str) -> float:
    """Forward and backward of a fusion for one question, at the sizes of these runs: 16 tokens
    of width 144 and 8 words of width 128. A multiply-add counts as two."""
    made = getattr(vlm.fusion, fusion)(144, 128)
    image = Features(torch.randn(IMAGES, 16, 144, requires_grad=True))
    text = Features(torch.randn(IMAGES * QUESTIONS, 8, 128, requires_grad=True))
    index = torch.arange(IMAGES).repeat_interleave(QUESTIONS)
    with FlopCounterMode(display=False) as counter:
        fused = made(image, text, image_index=index)
        (fused.pooled.sum() + fused.tokens.sum()).backward()
    return counter.get_total_flops() / (IMAGES * QUESTIONS) / 1e6


def draw_cost() -> None:
    """How soon a fusion learns the shapes of Scenes, over what a question costs in it."""
    results = json.loads(LEARNING.read_text(encoding="utf-8"))
    figure, axes = plt.subplots(figsize=(8, 4.2))
    drawn: list[tuple[float, int]] = []
    for cost, fusion in sorted((megaflops(fusion), fusion) for fusion in results):
        curve = next(iter(results[fusion].values()))["validation"]
        epoch = next(number for number, found in enumerate(curve, start=1) if found >= 95)
        axes.plot(cost, epoch, "o", color=NAMED.get(fusion, "#868e96"), ms=5)
        crowded = any(epoch == other and cost < 1.5 * near for near, other in drawn)
        axes.annotate(
            fusion,
            (cost, epoch),
            (0, -11 if crowded else 5),
            textcoords="offset points",
            ha="center",
            fontsize=7,
        )
        drawn.append((cost, epoch))
    axes.set_xscale("log")
    ticks = [2, 5, 10, 20, 50, 100, 200]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set(
        ylim=(2, 13),
        xlabel="million FLOPs of the fusion for a question, forward and backward",
        ylabel="first epoch with 95 % validation accuracy",
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(HERE / "cost.png", dpi=110)


BROWSED = 3300
"""Validation questions whose answers `browse.png` shows: those about the first 100 images."""


def draw_browse() -> None:
    """The most confident errors of the bundled model on Scenes, on the page of `vlm browse`."""
    data, model = Scenes(), vlm.load("scenes")
    rows = data.table("validation").slice(0, BROWSED).to_pylist()
    with tempfile.TemporaryDirectory() as folder, chdir(folder), sync_playwright() as play:
        predictions, page = Path("scenes.jsonl"), Path("browse.html")  # as the page names them
        with predictions.open("w", encoding="utf-8") as file:
            for row in rows:
                answer = model.answer(row["image"], row["question"])
                found = {"answer": answer.text, "probability": answer.probability}
                found |= {"id": row["id"], "calibrated": answer.calibrated}
                file.write(json.dumps(found) + "\n")
        browse(data, "validation", [predictions], page, limit=len(data.table("validation")))
        browser = play.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        shown = browser.new_page(viewport={"width": 1280, "height": 720})
        shown.goto(page.absolute().as_uri())
        shown.select_option("#result", "wrong")
        shown.select_option("#sort", "errors")
        shown.wait_for_timeout(500)
        shown.screenshot(path=HERE / "browse.png")
        browser.close()


if __name__ == "__main__":
    draw_answers()
    draw_browse()
    draw_learning()
    draw_cost()
