"""Images to begin with: easy-VQA's own, and photos that Python packages contain."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from vlm.adapters.image_text_to_text import ImageTextToText
from vlm.demo import ASSETS
from vlm.inference import VQA


@dataclass(frozen=True)
class Example:
    """An image in a package, with a question that suits it.

    Attributes:
        shows: what is in the image, for those who cannot see it.
        licence: licence of the image, with its source.
        world: the kind of image, "shapes", "scenes" or "photos".
    """

    package: str
    file: str
    shows: str
    question: str
    licence: str
    world: str

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


def world_of(vqa: VQA | ImageTextToText) -> str:
    """The kind of image that a model was trained on, according to its checkpoint."""
    data = str(vqa.about.get("data", "")).rpartition(".")[2]
    return {"EasyVQA": "shapes", "Scenes": "scenes"}.get(data, "photos")


def examples_for(models: Iterable[VQA | ImageTextToText]) -> list[Example]:
    """The images of the models' worlds whose packages are installed."""
    worlds = {world_of(vqa) for vqa in models}
    return [e for e in EXAMPLES if e.world in worlds and e.path is not None]
