"""What the page shows, as HTML. Every text that is not ours is escaped."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from vlm.demo.asker import Look, Reply, agreement, percent
from vlm.demo.gallery import Example
from vlm.explain import Explanation
from vlm.image.load import load_image

THUMBNAIL = 160


def results(replies: Sequence[Reply], look: Look, waiting: bool) -> str:
    """The answers, side by side where there are several.

    Args:
        replies: of each model.
        look: the picture, to draw on.
        waiting: whether their reasons are still being looked for.
    """
    banner = ""
    agree = agreement(replies)
    if agree is not None:
        said = " and ".join(f"“{r.answer.text}”" for r in replies)
        text = (
            f"The models agree: “{replies[0].answer.text}”." if agree else f"They differ: {said}."
        )
        banner = (
            f'<p class="vlm-agree" data-agree="{str(agree).lower()}">'
            f"{'=' if agree else '≠'} {escape(text)}</p>"
        )
    source = data_url(look.shown)
    cards = "".join(_card(reply, look, source, waiting) for reply in replies)
    return f'<div class="vlm-results">{banner}<div class="vlm-cards">{cards}</div></div>'


def _card(reply: Reply, look: Look, source: str, waiting: bool) -> str:
    name = escape(reply.model)
    notes = "".join(f'<p class="vlm-note">{escape(note)}</p>' for note in reply.notes)
    reasons = ""
    if reply.explanation is not None:
        reasons = _reasons(reply.explanation, look, source)
    elif waiting and not reply.answer.is_guess:
        reasons = '<p class="vlm-fine vlm-wait" role="status">Looking for the reasons …</p>'
    return (
        f'<section class="vlm-card" aria-label="What {name} says">'
        f"<header><h3>{name}</h3>"
        f'<span class="vlm-time" title="From question to answer in the model">'
        f"{duration(reply.milliseconds)}</span></header>"
        f"{_guess(reply, notes) if reply.answer.is_guess else _answer(reply, notes)}"
        f"{reasons}</section>"
    )


def _answer(reply: Reply, notes: str) -> str:
    text = escape(reply.answer.text) or "(nothing)"
    return (
        f'<p class="vlm-answer" role="status">{text}</p>{_bars(reply)}{notes}'
        f'<p class="vlm-fine">{escape(reply.scale)}</p>'
    )


def _guess(reply: Reply, notes: str) -> str:
    return (
        f'<p class="vlm-unknown" role="status">No answer: this question is beyond the model.</p>'
        f'{notes}<p class="vlm-fine">Its guess: {escape(reply.answer.text)}</p>'
    )


def _bars(reply: Reply) -> str:
    rows = "".join(
        f'<li><span class="vlm-label">{escape(text)}</span>'
        f'<span class="vlm-bar" aria-hidden="true">'
        f'<span style="width:{100 * min(max(p, 0), 1):.2f}%"></span></span>'
        f'<span class="vlm-share">{percent(p)}</span></li>'
        for text, p in reply.answer.top
    )
    return f'<ol class="vlm-bars" aria-label="Most likely answers">{rows}</ol>'


def _reasons(found: Explanation, look: Look, source: str) -> str:
    width, height = look.shown.size
    data = escape(json.dumps(map_data(found)), quote=True)
    strongest = float(np.abs(found.word_relevance).max(initial=0)) or 1.0
    words = "".join(
        f'<button type="button" class="vlm-word" aria-pressed="false" data-word="{i}"'
        f' data-relevance="{value / strongest:.3f}"'
        f' title="{_weight(value / strongest)}"'
        f' aria-label="{escape(word)}: {_weight(value / strongest)}">'
        f"<span>{escape(word)}</span></button>"
        for i, (word, value) in enumerate(zip(found.words, found.word_relevance, strict=True))
    )
    return (
        f'<div class="vlm-reasons" data-map="{data}">'
        f"<h4>Why “{escape(found.answer)}”?</h4>"
        f'<div class="vlm-words" role="group" aria-label="Words: choose one to see its places">'
        f'<button type="button" class="vlm-word vlm-all" aria-pressed="true" data-word="-1">'
        f"<span>whole question</span></button>{words}</div>"
        f'<div class="vlm-photo" tabindex="0" role="application" '
        f'aria-label="Map of the picture: arrow keys move over it, Escape leaves" '
        f'style="aspect-ratio:{width}/{height};--ratio:{width / height:.4f}">'
        f'<img alt="The picture that was asked about" src="{source}">'
        f'<canvas width="{width}" height="{height}" aria-hidden="true"></canvas></div>'
        f'<p class="vlm-says" aria-live="polite"></p>'
        f'<p class="vlm-fine"><span class="vlm-key vlm-for"></span>for the answer '
        f'<span class="vlm-key vlm-against"></span>against it · {escape(found.method)} · '
        f"{duration(1000 * found.seconds)}</p></div>"
    )


def map_data(found: Explanation) -> dict[str, Any]:
    """What the page draws: boxes in shares of the photo, relevances scaled to [-1, 1]."""
    width, height = found.image_size
    boxes = found.boxes / np.array([width, height, width, height], np.float32)
    per_word = [] if found.word_patch is None else _scaled(found.word_patch).tolist()
    return {
        "boxes": np.round(boxes, 4).tolist(),
        "grid": found.grid,
        "all": _scaled(found.patches).tolist(),
        "words": per_word,
        "texts": list(found.words),
    }


def _scaled(values: np.ndarray) -> np.ndarray:
    strongest = float(np.abs(values).max(initial=0)) or 1.0
    return np.round(values / strongest, 3)


def _weight(share: float) -> str:
    if abs(share) < 0.02:
        return "does not matter"
    return f"{'speaks for' if share > 0 else 'speaks against'} the answer, {abs(share):.0%}"


def failure(message: str) -> str:
    """What went wrong, in the place of the answers."""
    return f'<div class="vlm-error" role="alert"><b>That did not work.</b> {escape(message)}</div>'


def hint(message: str) -> str:
    """What to do next, in the place of the answers."""
    return f'<div class="vlm-hint" role="status">{escape(message)}</div>'


def gallery(examples: Sequence[Example]) -> str:
    """Buttons with pictures; each holds its number."""
    buttons = "".join(
        f'<button type="button" class="vlm-pick" data-index="{i}" '
        f'title="{escape(e.licence)}" aria-label="Ask about {escape(e.shows)}: '
        f'{escape(e.question)}">'
        f'<img alt="" src="{data_url(_thumbnail(e))}"><span>{escape(e.question)}</span></button>'
        for i, e in enumerate(examples)
    )
    sources = "; ".join(dict.fromkeys(e.licence for e in examples))
    return (
        f'<div class="vlm-gallery" role="group" aria-label="Examples">{buttons}</div>'
        f'<p class="vlm-fine">Pictures: {escape(sources)}.</p>'
    )


def _thumbnail(example: Example) -> Image.Image:
    assert example.path is not None
    copy = load_image(example.path)
    copy.thumbnail((THUMBNAIL, THUMBNAIL))
    return copy


def data_url(image: Image.Image) -> str:
    """The picture inside the page: nothing of the server's files is named."""
    buffer = BytesIO()
    # Small drawings lose their colours in JPEG, photos weigh too much in PNG.
    kind = "PNG" if max(image.size) <= 128 else "JPEG"
    image.save(buffer, kind, quality=88)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def duration(milliseconds: float) -> str:
    """A time as people read it.

    >>> duration(0.42), duration(12.3), duration(4321)
    ('0.4 ms', '12 ms', '4.3 s')
    """
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.1f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"
