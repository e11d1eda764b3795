"""Explanations as one self-contained HTML file."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment
from PIL import Image

from vlm.explain.contours import FOR, shares, swatch
from vlm.explain.drawing import SIDE, headline, heat_map, notes, picture, scales, tint
from vlm.explain.explanation import Explanation

TEMPLATE = Path(__file__).parent / "assets/page.html"


def to_html(explanations: Explanation | Sequence[Explanation], image: Any = None) -> str:
    """The drawing of `draw` as an HTML page that needs no other file and no network.

    Args:
        explanations: one explanation, or several of one answer by different methods.
        image: the explained image, as for `explain`; None (region features) draws on grey.

    Example:
        >>> vqa = vlm.load("my_model")
        >>> found = vlm.explain.explain(vqa, "photo.png", "what color is it?")
        >>> vlm.explain.to_html(found, "photo.png").startswith("<!doctype html>")
        True
    """
    several = [explanations] if isinstance(explanations, Explanation) else list(explanations)
    return str(
        _PAGE.render(
            first=several[0],
            image=_data_url(picture(several[0], image)),
            maps=[(each, _data_url(heat_map(each, image))) for each in several],
            notes=notes(several),
        )
    )


def _data_url(image: Image.Image) -> str:
    buffer = BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _words(explanation: Explanation) -> Iterator[tuple[str, float, float]]:
    relevance = explanation.word_relevance
    return zip(explanation.words, relevance.tolist(), shares(relevance).tolist(), strict=True)


_environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
_environment.filters |= {"headline": headline, "scales": scales}
_environment.globals |= {
    "orange": FOR,
    "swatch": lambda sign, level, signed: _data_url(swatch(sign, level, signed, SIDE)),
    "tint": tint,
    "words": _words,
}
_PAGE = _environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
