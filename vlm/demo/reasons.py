"""The part of the page that shows what an answer rests on: a map and the question's words for each
model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from PIL import Image

from vlm.demo import view
from vlm.demo.api import answer_dict, content_of
from vlm.demo.asker import NO_REASONS, Asker
from vlm.demo.reply import Reply
from vlm.demo.uploads import Uploads
from vlm.explain import draw, overlay
from vlm.explain.drawing import tint
from vlm.image.as_text import in_words

LABELS = {
    "occlusion": "Hide each part",
    "integrated_gradients": "Integrated gradients",
    "grad_cam": "Grad-CAM",
    "attention": "Attention",
    "rollout": "Attention rollout",
    "attention_gradient": "Attention x gradient",
    NO_REASONS: "None",
}
WEAK, STRONG = 0.1, 0.5
"""Shares of the strongest word from which a word counts, and counts as strong."""
HEIGHT = 320
SIDE = 512
"""Pixels of a map's longer side."""

EXPLAINING = """() => document.querySelector("#reasons")?.setAttribute("aria-busy", "true")"""
EXPLAINED = """() => document.querySelector("#reasons")?.setAttribute("aria-busy", "false")"""
"""The reasons are grey until the next ones are there, which may take seconds."""

Words = list[int | None]
"""The word that each model's map is of; None for the whole question."""


class Asked(NamedTuple):
    """What the answers on the page are about.

    Attributes:
        image: the image as Gradio's component has it.
        question: the question, as it was asked.
        choices: for models that choose.
        replies: one of each model that was asked.
        others: further images of the question, in their order.
    """

    image: view.File
    question: str
    choices: list[str]
    replies: list[Reply]
    others: Sequence[view.File] = ()


class Reasons:
    """The components, and the functions that fill them.

    Args:
        asker: has the models.
        uploads: visitors' images.
        sides: the number of models side by side.
        first: what the page shows when it opens.
    """

    def __init__(self, asker: Asker, uploads: Uploads, sides: int, first: Asked | None) -> None:
        self.asker, self.uploads, self.sides = asker, uploads, sides
        self.words = gr.State([None] * sides)
        self.columns, self.captions, self.texts, self.maps = [], [], [], []
        # Without an answer there is nothing to show.
        with gr.Column(visible=first is not None, elem_id="reasons") as self.area:
            with gr.Row():
                for side in range(sides):
                    with gr.Column(
                        min_width=240, visible=first is None or side < len(first.replies)
                    ) as column:
                        self.captions.append(gr.HTML(apply_default_css=False, min_height=70))
                        self.texts.append(
                            gr.HighlightedText(
                                label="Words that speak for and against the answer",
                                show_label=False,
                                color_map=_COLORS,
                                show_inline_category=False,
                                show_legend=True,
                                buttons=[],
                                elem_id=f"words-{side}",
                            )
                        )
                        self.maps.append(
                            gr.Image(
                                show_label=False,
                                height=HEIGHT,
                                interactive=False,
                                buttons=["fullscreen"],
                                alt_text="The image, with the places that decided in color",
                                elem_id=f"map-{side}",
                            )
                        )
                    self.columns.append(column)
            self.opacity = gr.Slider(
                0, 100, value=100, step=5, label="Strength of the map over the image, %",
                buttons=[], elem_id="opacity",
            )  # fmt: skip
            self.method = gr.Radio(
                [(LABELS.get(m, m), m) for m in (*asker.methods, NO_REASONS)],
                value=asker.methods[0],
                label="How the reasons are found",
                elem_id="method",
            )
            with gr.Row():
                self.downloads = [
                    gr.DownloadButton("Download the image", size="md", elem_id="download-image"),
                    gr.DownloadButton("Download as JSON", size="md", elem_id="download-json"),
                ]

        if first is not None:
            made = self.explain(first, self.method.value, self.opacity.value)
            # Not as arguments: Gradio would write the images to disk.
            for component, value in list(zip(self.outputs, made, strict=True))[1 + sides :]:
                component.value = value

    @property
    def outputs(self) -> list[Any]:
        """What `explain` fills."""
        return [*self.announced, *self.texts, *self.maps, *self.downloads, self.words]

    @property
    def announced(self) -> list[Any]:
        """What `announce` fills."""
        return [self.area, *self.columns, *self.captions]

    def connect(self, asked: gr.State, events: dict[str, Any]) -> None:
        """Redraw when a control is used, without asking again; `asked` holds an `Asked`."""
        shared: dict[str, Any] = {"trigger_mode": "always_last", **events}
        inputs = [asked, self.method, self.opacity]
        self.method.change(None, js=EXPLAINING)
        self.method.change(self.explain, inputs, self.outputs, **shared).then(None, js=EXPLAINED)
        drawn = [*self.captions, *self.maps]
        self.opacity.change(self.redraw, [*inputs, self.words], drawn, **shared)
        for side, words in enumerate(self.texts):
            words.select(self._chooser(side), [self.words, asked], self.words, **shared).then(
                self.redraw, [*inputs, self.words], drawn, **events
            )

    def announce(self, replies: Sequence[Reply]) -> list[Any]:
        """A place for each reply, with a heading until `explain` is done."""
        return [
            gr.update(visible=True),
            *(gr.update(visible=side < len(replies)) for side in range(self.sides)),
            *self._each(replies, view.reasons_to_come),
        ]

    def explain(self, asked: Asked | None, method: str, opacity: float) -> list[Any]:
        """Everything anew, of the whole question."""
        if asked is None:
            return [gr.skip()] * len(self.outputs)
        replies = self._explained(asked, method)
        words: Words = [None] * self.sides
        captions, maps = self._drawn(asked, replies, opacity, words)
        return [
            *self.announce(replies)[: -self.sides],
            *captions,
            *self._each(replies, _said),
            *maps,
            *self._files(asked, replies),
            words,
        ]

    def redraw(self, asked: Asked | None, method: str, opacity: float, words: Words) -> list[Any]:
        """The maps with another word or opacity; the explanations are kept by the asker."""
        if asked is None:
            return [gr.skip()] * 2 * self.sides
        captions, maps = self._drawn(asked, self._explained(asked, method), opacity, words)
        return [*captions, *maps]

    def _chooser(self, side: int) -> Callable[..., Words]:
        def choose(words: Words, asked: Asked | None, event: gr.EventData) -> Words:
            # The number comes from the browser, where anything can be sent.
            index = event._data.get("index") if isinstance(event._data, dict) else None
            if not isinstance(index, int) or index < 0 or asked is None:
                raise gr.Error("There is no such word.", print_exception=False)
            chosen = None if words[side] == index else index
            return [*words[:side], chosen, *words[side + 1 :]]

        return choose

    def _explained(self, asked: Asked, method: str) -> list[Reply]:
        content, *others = self._contents(asked)
        try:
            return [
                self.asker.explain(content, asked.question, reply, method, asked.choices, others)
                for reply in asked.replies
            ]
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error

    def _drawn(
        self, asked: Asked, replies: Sequence[Reply], opacity: float, words: Words
    ) -> tuple[list[Any], list[Any]]:
        image = self._image(asked, replies)
        words = [_word(reply, word) for reply, word in zip(replies, words, strict=False)]
        share = opacity / 100 if isinstance(opacity, (int, float)) else 1.0
        maps = iter([
            view.image_file(_map(reply, image, word, min(max(share, 0.0), 1.0)), "map")
            for reply, word in zip(replies, words, strict=True)
        ])  # fmt: skip
        chosen = iter(words)
        captions = self._each(replies, lambda reply: view.reasons(reply, next(chosen)))
        return captions, self._each(replies, lambda _: next(maps))

    def _each(self, replies: Sequence[Reply], made: Any) -> list[Any]:
        """What is made of each reply, and nothing for each side without one."""
        return [*map(made, replies), *[None] * (self.sides - len(replies))]

    def _image(self, asked: Asked, replies: Sequence[Reply]) -> Image.Image:
        content, *others = self._contents(asked)
        names = [reply.model for reply in replies]
        return self.asker.look(content, names, others).shown.convert("RGB")

    def _contents(self, asked: Asked) -> list[bytes]:
        found = [content_of(sent, self.uploads) for sent in (asked.image, *asked.others)]
        return [content for content in found if content is not None]

    def _files(self, asked: Asked, replies: Sequence[Reply]) -> list[view.File]:
        image = self._image(asked, replies)
        # Each with its model, and with what the page says in place of an answer.
        found = [
            replace(
                reply.explanation,
                warnings=[f"{reply.model}: {in_words(reply.headline)}", *reply.warnings],
            )
            for reply in replies
            if reply.explanation is not None
        ]
        drawn = [draw(one, image) for one in found] or [image]
        return [
            view.image_file(_below(drawn), "answer"),
            view.json_file(answer_dict(asked.question, replies), "answer"),
        ]


def _map(reply: Reply, image: Image.Image, word: int | None, opacity: float) -> Image.Image:
    scale = SIDE / max(image.size)
    width, height = (max(round(side * scale), 1) for side in image.size)
    drawn = image.resize((width, height), Image.Resampling.LANCZOS)
    if reply.explanation is not None:
        lines = overlay(reply.explanation, drawn.size, word)
        drawn.paste(lines, (0, 0), lines.getchannel("A").point(lambda alpha: alpha * opacity))
    return drawn


def _below(drawn: Sequence[Image.Image]) -> Image.Image:
    sheet = Image.new(
        "RGB", (max(one.width for one in drawn), sum(one.height for one in drawn)), "white"
    )
    top = 0
    for one in drawn:
        sheet.paste(one, (0, top))
        top += one.height
    return sheet


def _word(reply: Reply, word: int | None) -> int | None:
    """The word, unless there is no map of it."""
    found = reply.explanation
    if found is None or word is None or found.word_patch is None:
        return None
    return word if word < len(found.words) else None


def _said(reply: Reply) -> Any:
    """The words as Gradio's component has them, each with how it speaks."""
    found = reply.explanation
    if found is None:
        return None
    shares = found.word_relevance / (np.abs(found.word_relevance).max(initial=0) or 1.0)
    return [
        {"token": f"{word} ", "class_or_confidence": _class(float(share), found.words_signed)}
        for word, share in zip(found.words, shares, strict=True)
    ]


def _class(share: float, signed: bool) -> str | None:
    if abs(share) < WEAK:
        return None
    side = "matters" if not signed else "for" if share > 0 else "against"
    return f"{side}, strongly" if abs(share) >= STRONG else side


def _color(share: float, signed: bool) -> str:
    """The tint of a drawing, which Gradio mixes half and half with the white below the words."""
    return "#" + "".join(f"{2 * part - 255:02x}" for part in tint(share, signed))


_COLORS = {
    str(_class(share, signed)): _color(share, signed)
    for signed, several in ((True, (0.8, 0.3, -0.3, -0.8)), (False, (0.8, 0.3)))
    for share in several
}
