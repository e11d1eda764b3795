"""One question on one core: `VQA.answer` beside the model alone, and beside ViLT and BLIP.

    python benchmarks/ask.py [--turns 6]

Weights are random; the image is in memory. Ours is ViT-S (224 x 224 pixels) x bag of words x
product with the 3,129 answers of VQA v2. ViLT and BLIP are transformers' own classes with their
base configurations and image processors; BLIP writes four tokens. The models take turns of five
questions, all different, so that a busy machine slows all alike.

How to read the table:
  answer    an image and a question in, the likeliest answers out. To reach for an image that was
            encoded before: 1 ms
  forward   the model inside that call; of BLIP its `generate`
  added     what is left: reading image and question, checks, the answers' texts. To reach: 0.5
In brackets are the 95 % bootstrap intervals of the medians, over the questions of this run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from pairs import Pairs, machine, median_interval
from PIL import Image
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForQuestionAnswering,
    ViltConfig,
    ViltForQuestionAnswering,
)
from transformers.models.blip.image_processing_blip import BlipImageProcessor
from transformers.models.vilt.image_processing_vilt import ViltImageProcessor

import vlm
from vlm.fusion import Pooled
from vlm.heads import Classification
from vlm.image import TimmEncoder
from vlm.text import BagOfWords

ANSWERS = [f"answer {number}" for number in range(3129)]
WORDS = ["what", "color", "is", "the", "dog", "beside", *(f"thing{n}" for n in range(10_000))]
TURN = 5
"""Questions that a model answers before it is another one's turn."""


class Side:
    """A way to ask, with the time that its model takes inside.

    Args:
        ask: puts a question.
        model: what it calls.
        name: the model's method that is timed.
    """

    def __init__(self, ask: Callable[[str], object], model: Any, name: str = "forward") -> None:
        self.ask, self.inside, run = ask, 0.0, getattr(model, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            made = run(*args, **kwargs)
            self.inside += time.perf_counter() - started
            return made

        setattr(model, name, timed)

    @torch.inference_mode()
    def milliseconds(self, number: int) -> tuple[float, float]:
        """Of the whole, and of the model alone."""
        asked = f"what color is the dog beside the {WORDS[-number]}?"
        self.inside, started = 0.0, time.perf_counter()
        self.ask(asked)
        return 1000 * (time.perf_counter() - started), 1000 * self.inside


def ours(image: Image.Image) -> dict[str, Side]:
    encoder, text = TimmEncoder("vit_small_patch16_224", fit="squash"), BagOfWords(WORDS)
    fusion = Pooled(encoder.dim, text.dim)
    head = Classification(fusion.out_dim, ANSWERS)
    vqa = vlm.VQA(vlm.VQAModel(encoder, text, fusion, head))
    small, seen = image.resize((224, 224)), vqa.see(image)
    return {
        f"ours, {name}": Side(partial(vqa.answer, given), vqa.model)
        for name, given in {
            "640 x 480": image,
            "224 x 224": small,
            "an image seen before": seen,
        }.items()
    }


def vilt(image: Image.Image, tokenizer: Any) -> Side:
    config = ViltConfig(id2label=dict(enumerate(ANSWERS)))
    model, images = ViltForQuestionAnswering(config).eval(), ViltImageProcessor()

    def answer(asked: str) -> str:
        words, pixels = tokenizer(asked, return_tensors="pt"), images(image, return_tensors="pt")
        return config.id2label[int(model(**words, **pixels).logits.argmax(-1))]

    return Side(answer, model)


def blip(image: Image.Image, tokenizer: Any) -> Side:
    model, images = BlipForQuestionAnswering(BlipConfig()).eval(), BlipImageProcessor()

    def answer(asked: str) -> str:
        words = tokenizer(asked, return_tensors="pt", return_token_type_ids=False)
        pixels = images(image, return_tensors="pt")
        written = model.generate(**words, **pixels, min_new_tokens=4, max_new_tokens=4)
        return tokenizer.decode(written[0], skip_special_tokens=True)

    return Side(answer, model, "generate")


def tokenizer_of_bert() -> Any:
    """One with as many word pieces as the base configurations have."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "?"]
    pieces = [*special, *WORDS]
    pieces += [f"piece{number}" for number in range(30_522 - len(pieces))]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "vocab.txt"
        vocabulary.write_text("\n".join(pieces))
        return BertTokenizerFast(vocab=str(vocabulary))


def measure(turns: int) -> dict[str, list[tuple[float, float]]]:
    """The milliseconds of each model's questions, those of one turn after the other."""
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(256, size=(480, 640, 3), dtype=np.uint8)
    image, tokenizer = Image.fromarray(pixels), tokenizer_of_bert()
    sides = ours(image) | {"ViLT": vilt(image, tokenizer), "BLIP": blip(image, tokenizer)}
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    numbers = count(1)
    for _ in range(turns):
        for name, side in sides.items():
            side.milliseconds(next(numbers))  # another model has used the caches
            rows[name] += [side.milliseconds(next(numbers)) for _ in range(TURN)]
    return rows


def compare_all(pairs: int) -> list[Pairs]:
    """A pair is a turn of each."""
    turns = {
        name: [
            statistics.median(whole for whole, _ in row[start : start + TURN]) / 1000
            for start in range(0, len(row), TURN)
        ]
        for name, row in measure(pairs).items()
    }
    return [
        Pairs(f"an answer: {side} / {name}", turns[side], turns[name])
        for name in ("ViLT", "BLIP")
        for side in turns
        if side.startswith("ours")
    ]


def shown(values: list[float]) -> str:
    low, high = median_interval(values)
    return f"{statistics.median(values):.2f} [{low:.2f} - {high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=6, help=f"of {TURN} questions (6)")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = measure(given.turns)
    print(
        f"{machine()}, transformers {transformers.__version__}; ms, {given.turns * TURN} questions"
        "\n\n| model | answer | forward | added |\n|---|---|---|---|"
    )
    for name, row in rows.items():
        answer, forward = (list(column) for column in zip(*row, strict=True))
        added = [whole - inside for whole, inside in row]
        print(f"| {name} | {' | '.join(map(shown, (answer, forward, added)))} |")


if __name__ == "__main__":
    main()
