"""Pictures to begin with: easy-VQA's own, and photos that Python packages bring along."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from vlm.inference import VQA

World = Literal["shapes", "photos"]
"""The kind of picture that a model was trained for."""

EASY_VQA = "easy-VQA by Victor Zhou, MIT licence"


@dataclass(frozen=True)
class Example:
    """A picture with a question about it.

    Attributes:
        package: that brings the file.
        file: its path inside the package.
        shows: what is in it, for those who cannot see it.
        question: that it is a good answer to.
        licence: of the picture, with its source.
        world: the kind of picture.
    """

    package: str
    file: str
    shows: str
    question: str
    licence: str
    world: World

    @property
    def path(self) -> Path | None:
        """Where the file is; None if the package is not installed."""
        spec = find_spec(self.package)
        if spec is None or spec.origin is None:
            return None
        path = Path(spec.origin).parent / self.file
        return path if path.is_file() else None


def _shape(number: int, shows: str, question: str) -> Example:
    return Example(
        "easy_vqa", f"data/test/images/{number}.png", shows, question, EASY_VQA, "shapes"
    )


def _photo(package: str, file: str, shows: str, question: str, licence: str) -> Example:
    return Example(package, file, shows, question, licence, "photos")


EXAMPLES = (
    _shape(6, "a blue circle", "What color is the shape?"),
    _shape(0, "a red triangle", "What shape is in the image?"),
    _shape(39, "a yellow circle", "Is there a yellow shape?"),
    _shape(38, "a teal rectangle", "What is the color of the rectangle?"),
    _shape(41, "a green triangle", "Is there a circle?"),
    _shape(11, "a black rectangle", "Is there not a triangle?"),
    _shape(46, "a brown rectangle", "What color is the rectangle?"),
    _shape(69, "a gray triangle", "What is the gray shape?"),
    _photo(
        "skimage",
        "data/chelsea.png",
        "a cat",
        "What animal is this?",
        "Stéfan van der Walt, CC0, from scikit-image",
    ),
    _photo(
        "skimage",
        "data/coffee.png",
        "a cup of coffee on a wooden table",
        "What is in the cup?",
        "Rachel Michetti, CC0, from scikit-image",
    ),
    _photo(
        "skimage",
        "data/astronaut.png",
        "an astronaut in an orange suit",
        "What color is the suit?",
        "NASA, public domain, from scikit-image",
    ),
    _photo(
        "skimage",
        "data/rocket.jpg",
        "a rocket on its launch pad",
        "Is it day or night?",
        "SpaceX, public domain, from scikit-image",
    ),
    _photo(
        "matplotlib",
        "mpl-data/sample_data/grace_hopper.jpg",
        "a woman in uniform",
        "Is the person wearing a hat?",
        "US Navy, public domain, from Matplotlib",
    ),
    _photo(
        "sklearn",
        "datasets/images/china.jpg",
        "a Chinese temple",
        "What is in the background?",
        "danielbuechele, CC BY 2.0, from scikit-learn",
    ),
    _photo(
        "sklearn",
        "datasets/images/flower.jpg",
        "a flower",
        "What color is the flower?",
        "vultilion, CC BY 2.0, from scikit-learn",
    ),
)


def world_of(vqa: VQA) -> World:
    """The kind of picture that a model was trained for, as far as its checkpoint tells."""
    return "shapes" if str(vqa.about.get("data", "")).endswith("EasyVQA") else "photos"


def examples_for(models: Iterable[VQA]) -> list[Example]:
    """The pictures of the models' worlds whose packages are installed."""
    worlds = {world_of(vqa) for vqa in models}
    return [e for e in EXAMPLES if e.world in worlds and e.path is not None]
