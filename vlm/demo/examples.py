"""Questions to begin with, about easy-VQA's images, vlm's own, and photos in Python packages."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from vlm.adapters.image_text_to_text import ImageTextToText
from vlm.demo import ASSETS
from vlm.inference import VQA
from vlm.serve.reader import digest_of

WORLDS = {"EasyVQA": "shapes", "Scenes": "scenes"}
"""The kind of image in a data set; all others hold photos."""
ANYTHING = {"CustomDataset", "Mixture"}
"""Data sets that may hold any images: their models are only asked what they can read."""
WORDS = {
    "shapes": "drawings of one colored shape",
    "scenes": "drawings of six colored circles, squares and triangles",
}


@dataclass(frozen=True)
class Example:
    """A question that suits an image in a package.

    Attributes:
        shows: what is in the image, for those who cannot see it.
        licence: licence of the image, with its source.
        world: the kind of image, "shapes", "scenes" or "photos".
        kind: the question's type in the data set of that world; empty for photos.
    """

    package: str
    file: str
    shows: str
    question: str
    licence: str
    world: str
    kind: str

    @property
    def path(self) -> Path | None:
        """Where the file is; None if the package is not installed."""
        spec = find_spec(self.package)
        if spec is None or spec.origin is None:
            return None
        path = Path(spec.origin).parent / self.file
        return path if path.is_file() else None

    def read(self) -> bytes:
        """The file's content."""
        assert self.path is not None
        return self.path.read_bytes()


with (ASSETS / "examples.tsv").open(encoding="utf-8", newline="") as _table:
    EXAMPLES = tuple(Example(**row) for row in csv.DictReader(_table, delimiter="\t"))


def data_of(vqa: VQA | ImageTextToText) -> str:
    """The class name of the data set that a model was trained on; empty if it is not known."""
    return str(vqa.about.get("data") or "").rpartition(".")[2]


def world_of(vqa: VQA | ImageTextToText) -> str:
    """The kind of image that a model was trained on, according to its checkpoint."""
    return WORLDS.get(data_of(vqa), "photos")


def examples_for(models: Iterable[VQA | ImageTextToText]) -> list[Example]:
    """The questions that suit one of the models and whose images are installed, world by world."""
    models = list(models)
    worlds = dict.fromkeys(world_of(vqa) for vqa in models)
    return [
        example
        for world in worlds
        for example in EXAMPLES
        if example.world == world and example.path is not None
        if any(_suits(example, vqa) for vqa in models)
    ]


def _suits(example: Example, vqa: VQA | ImageTextToText) -> bool:
    if example.world != world_of(vqa):
        return False
    if data_of(vqa) not in ANYTHING or isinstance(vqa, ImageTextToText):
        return True
    return not vqa.model.text_encoder.tokenizer.unknown(example.question)


@cache
def worlds_of_images() -> dict[str, str]:
    """The world of each example, by the digest of its content."""
    return {digest_of(e.read()): e.world for e in EXAMPLES if e.path is not None}


def unlike(vqa: VQA | ImageTextToText, digest: str) -> list[str]:
    """A warning about an image, given by the digest of its content, that is an example of another
    kind than the model was trained on. Nothing is known about other images."""
    shown = worlds_of_images().get(digest)
    if data_of(vqa) not in WORLDS or shown in (None, world_of(vqa)):
        return []
    return [f"It was trained on {WORDS[world_of(vqa)]}, and this image is of another kind."]
