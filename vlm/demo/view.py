"""What the page shows beside Gradio's components: HTML from `assets/templates.html`, which escapes
every value, and images as data: URLs."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from jinja2 import Environment
from PIL import Image

from vlm.adapters.image_text_to_text import ImageTextToText
from vlm.asking import percent
from vlm.demo import ASSETS
from vlm.demo.asker import parameters
from vlm.demo.examples import Example
from vlm.demo.facts import Kind, facts_of
from vlm.demo.reply import Reply, agreement, differing
from vlm.image.as_text import in_words, is_picture
from vlm.image.load import load_image
from vlm.inference import VQA

THUMBNAIL = 160
SHOWN_ANSWERS = 3

File = dict[str, str]
"""A file as Gradio's components have it."""


def head() -> str:
    """The title."""
    return str(_TEMPLATES.head())


def results(replies: Sequence[Reply]) -> str:
    """The answers side by side."""
    texts = [in_words(reply.best) for reply in replies]
    return str(_TEMPLATES.results(replies, agreement(replies), texts))


def failure(message: str) -> str:
    """What went wrong, in place of the answers."""
    return str(_TEMPLATES.failure(message))


def hint(message: str) -> str:
    """What to do next, in place of the answers."""
    return str(_TEMPLATES.hint(message))


def reasons(reply: Reply, word: int | None) -> str:
    """What a map shows: of a word of the question, or of all of it."""
    return str(_TEMPLATES.reasons(reply, word))


def reasons_to_come(reply: Reply) -> str:
    """The same while the map is being made."""
    return str(_TEMPLATES.reasons_to_come(reply))


def facts(name: str, vqa: VQA | ImageTextToText) -> str:
    """What is known about a model."""
    return str(_TEMPLATES.facts(name, vqa, facts_of(vqa)))


def example(of: Example, kind: Kind, thumbnail: str) -> str:
    """An example to choose, with its image at the address `thumbnail`."""
    return str(_TEMPLATES.example(of, kind, thumbnail))


def licences(examples: Sequence[Example]) -> str:
    """Where the images come from."""
    return str(_TEMPLATES.licences(examples))


def thumbnail(of: Example) -> bytes:
    """A small copy of an example's image, as PNG."""
    assert of.path is not None
    copy = load_image(of.path)
    copy.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = BytesIO()
    copy.save(buffer, "PNG")
    return buffer.getvalue()


def image_file(image: Image.Image, name: str) -> File:
    """An image inside the page: no file of the server is named."""
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return inline(buffer.getvalue(), f"{name}.png", "image/png")


def json_file(content: Any, name: str) -> File:
    """JSON to download."""
    return inline(json.dumps(content, indent=1).encode(), f"{name}.json", "application/json")


def inline(content: bytes, name: str, kind: str) -> File:
    """A file inside the page, for Gradio's components without their postprocessing."""
    url = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return {"path": name, "url": url, "orig_name": name}


def duration(milliseconds: float) -> str:
    """A time for people to read.

    >>> duration(0.42), duration(12.3), duration(4321)
    ('0.4 ms', '12 ms', '4.3 s')
    """
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.1f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"


_environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
_environment.filters |= {
    "percent": percent,
    "duration": duration,
    "differing": differing,
    "class_name": lambda part: type(part).__name__,
    "parameters": parameters,
    "in_words": in_words,
}
_environment.tests["picture"] = is_picture
_environment.globals["shown_answers"] = SHOWN_ANSWERS
_TEMPLATES: Any = _environment.from_string(
    (ASSETS / "templates.html").read_text(encoding="utf-8")
).module
