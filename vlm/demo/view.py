"""What the page shows, as HTML from `assets/templates.html`, which escapes every value."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from jinja2 import Environment
from PIL import Image

from vlm.adapters.image_text_to_text import ImageTextToText
from vlm.demo import ASSETS
from vlm.demo.asker import Look, Reply, agreement, parameters, percent
from vlm.demo.examples import Example
from vlm.explain import Explanation
from vlm.image.load import load_image
from vlm.inference import VQA

THUMBNAIL = 160


def head(models: Mapping[str, VQA | ImageTextToText]) -> str:
    """The title, with the parts and the size of each model."""
    return str(_TEMPLATES.head(models))


def results(replies: Sequence[Reply], look: Look, waiting: bool) -> str:
    """The answers side by side; `waiting` while their reasons are computed."""
    source = data_url(look.shown)
    return str(_TEMPLATES.results(replies, agreement(replies), look, source, waiting))


def failure(message: str) -> str:
    """What went wrong, in place of the answers."""
    return str(_TEMPLATES.failure(message))


def hint(message: str) -> str:
    """What to do next, in place of the answers."""
    return str(_TEMPLATES.hint(message))


def gallery(examples: Sequence[Example]) -> str:
    """A button with an image for each example."""
    return str(
        _TEMPLATES.gallery([(example, data_url(_thumbnail(example))) for example in examples])
    )


def map_data(found: Explanation) -> dict[str, Any]:
    """What the page draws: boxes in shares of the image, relevances scaled to [-1, 1]."""
    width, height = found.image_size
    boxes = found.boxes / np.array([width, height, width, height], np.float32)
    return {
        "boxes": np.round(boxes, 4).tolist(),
        "grid": found.grid,
        "all": _scaled(found.patches),
        "words": [] if found.word_patch is None else _scaled(found.word_patch),
        "texts": list(found.words),
    }


def data_url(image: Image.Image) -> str:
    """The image inside the page: no file of the server is named."""
    buffer = BytesIO()
    # Small drawings lose their colours in JPEG, photos weigh too much in PNG.
    kind = "PNG" if max(image.size) <= 128 else "JPEG"
    image.save(buffer, kind, quality=88)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def duration(milliseconds: float) -> str:
    """A time for people to read.

    >>> duration(0.42), duration(12.3), duration(4321)
    ('0.4 ms', '12 ms', '4.3 s')
    """
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.1f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"


def _thumbnail(example: Example) -> Image.Image:
    assert example.path is not None
    copy = load_image(example.path)
    copy.thumbnail((THUMBNAIL, THUMBNAIL))
    return copy


def _scaled(values: np.ndarray) -> Any:
    strongest = float(np.abs(values).max(initial=0)) or 1.0
    return np.round(values / strongest, 3).tolist()


def _weight(share: float) -> str:
    if abs(share) < 0.02:
        return "does not matter"
    return f"{'speaks for' if share > 0 else 'speaks against'} the answer, {abs(share):.0%}"


_environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
_environment.filters |= {
    "percent": percent,
    "duration": duration,
    "map_data": map_data,
    "scaled": _scaled,
    "weight": _weight,
    "class_name": lambda part: type(part).__name__,
    "parameters": parameters,
}
_TEMPLATES: Any = _environment.from_string(
    (ASSETS / "templates.html").read_text(encoding="utf-8")
).module
