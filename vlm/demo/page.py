"""The page, in Gradio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from vlm.demo import view
from vlm.demo.api import add_api, content_of
from vlm.demo.asker import MAX_QUESTION, NO_REASONS, Asker
from vlm.demo.gallery import Example, examples_for
from vlm.demo.photo import digest_of
from vlm.demo.uploads import Uploads

ASSETS = Path(__file__).parent / "assets"
SIDE_BY_SIDE = 2
QUEUE = 32
"""Questions that may wait; one more is told to try again."""
EMPTY = "Choose a picture, then ask about it."
REFUSED, PICKED = "refused", "picked"

METHOD_LABELS = {
    "occlusion": "Occlusion: hide each part",
    "integrated_gradients": "Integrated gradients",
    "grad_cam": "Grad-CAM",
    "attention": "Attention",
    "rollout": "Attention rollout",
    "attention_gradient": "Attention x gradient",
    NO_REASONS: "None",
}


def build_page(asker: Asker, uploads: Uploads) -> gr.Blocks:
    """The page for an asker's models.

    Args:
        asker: of the models.
        uploads: of the visitors; the examples' images are added.
    """
    names = list(asker.models)
    examples = examples_for(asker.models.values())
    kinds = {asker.kind(name) for name in names}
    first = _first_look(asker, examples, names[:SIDE_BY_SIDE])
    pictures = [_shown(example, uploads) for example in examples]
    with gr.Blocks(title="vlm: ask about pictures") as page:
        gr.HTML(_head(asker), apply_default_css=False)
        with gr.Row():
            with gr.Column(scale=4, min_width=320):
                picture = gr.Image(
                    label="Picture",
                    sources=["upload", "clipboard", "webcam"],
                    format="png",
                    height=300,
                    elem_id="picture",
                    buttons=[],
                )
                # Not as an argument: Gradio would write the picture to disk.
                picture.value = pictures[0] if pictures else None
                question = gr.Textbox(
                    value=first[0],
                    label="Question",
                    placeholder="What would you like to know about the picture?",
                    max_length=MAX_QUESTION,
                    max_lines=3,
                    submit_btn=False,
                    elem_id="question",
                )
                choices = gr.Textbox(
                    label="Choices, one a line",
                    placeholder="a cat\na dog",
                    lines=3,
                    visible="choices" in kinds,
                    elem_id="choices",
                )
                models = gr.Dropdown(
                    names,
                    value=names[:SIDE_BY_SIDE],
                    multiselect=True,
                    max_choices=SIDE_BY_SIDE,
                    label="Models, up to two side by side",
                    visible=len(names) > SIDE_BY_SIDE,
                    elem_id="models",
                )
                method = gr.Dropdown(
                    [(METHOD_LABELS.get(m, m), m) for m in (*asker.methods, NO_REASONS)],
                    value=asker.methods[0],
                    label="Reasons found by",
                    filterable=False,
                    elem_id="method",
                )
                ask = gr.Button("Ask", variant="primary", elem_id="ask")
                if examples:
                    gr.HTML(
                        '<h2 class="vlm-title">Or start from one of these</h2>',
                        apply_default_css=False,
                    )
                    picks = gr.HTML(
                        view.gallery(examples),
                        js_on_load=(ASSETS / "gallery.js").read_text(encoding="utf-8"),
                        apply_default_css=False,
                        elem_id="gallery",
                    )
            with gr.Column(scale=7, min_width=320):
                result = gr.HTML(
                    first[1],
                    js_on_load=(ASSETS / "viewer.js").read_text(encoding="utf-8"),
                    apply_default_css=False,
                    elem_id="result",
                )

        asked = [picture, question, choices, method, models]

        # Digest of the picture that the result is about, or how it came: so that a change of the
        # picture knows whether somebody asks about it already.
        about = gr.State(None)

        def on_ask(sent: Any, *given: Any) -> Iterator[tuple[str, str | None]]:
            content = content_of(sent, uploads)
            text, listed, how, who = given
            for html in _answers(asker, content, text, _lines(listed), how, who):
                yield html, None if content is None else digest_of(content)

        def on_picture(sent: Any, who: Any, last: str | None) -> tuple[Any, Any, str | None]:
            content = content_of(sent, uploads)
            if content is None:
                # Below, a picture that cannot be read is taken away; what was said of it stays.
                found = gr.skip() if last == REFUSED else view.hint(EMPTY)
                return found, gr.skip(), None
            if last in (PICKED, digest_of(content)):
                return gr.skip(), gr.skip(), digest_of(content)
            try:
                asker.look(content, who)
            except ValueError as error:
                return view.failure(str(error)), None, REFUSED
            ready = "The picture is ready: ask a question about it."
            return view.hint(ready), gr.skip(), digest_of(content)

        def on_pick(event: gr.EventData) -> tuple[dict[str, str], str, str]:
            # The number comes from the browser, where anything can be sent.
            index = event._data.get("index") if isinstance(event._data, dict) else None
            if not isinstance(index, int) or not 0 <= index < len(examples):
                raise gr.Error("There is no such example.", print_exception=False)
            return pictures[index], examples[index].question, PICKED

        # One question at a time for all visitors, in the order in which they came: the models
        # share the cores. A question that is asked while the last one runs is asked after it.
        in_turn: dict[str, Any] = {
            "concurrency_id": "models",
            "concurrency_limit": 1,
            "api_visibility": "private",
            "preprocess": False,
            "show_progress": "minimal",
        }
        gr.on(
            [ask.click, question.submit],
            on_ask,
            asked,
            [result, about],
            trigger_mode="always_last",
            **in_turn,
        )
        # Of Gradio's events for pictures, only this one has the new value whatever happened.
        picture.change(on_picture, [picture, models, about], [result, picture, about], **in_turn)
        if examples:
            picks.select(
                on_pick,
                None,
                [picture, question, about],
                api_visibility="private",
                concurrency_limit=None,
                postprocess=False,
            ).then(on_ask, asked, [result, about], **in_turn)
        add_api(asker, uploads)
    page.queue(max_size=QUEUE, default_concurrency_limit=1)
    return page


def _answers(
    asker: Asker,
    content: bytes | None,
    question: str,
    choices: list[str],
    method: str,
    names: list[str],
) -> Iterator[str]:
    """The answers at once, and then again with their reasons."""
    if content is None:
        yield view.failure("There is no picture yet: upload one, or pick an example below.")
        return
    try:
        replies = asker.ask(content, question, names, choices)
        look = asker.look(content, names)
        wanted = method != NO_REASONS
        yield view.results(replies, look, waiting=wanted)
        if wanted:
            explained = [asker.explain(content, question, r, method, choices) for r in replies]
            yield view.results(explained, look, waiting=False)
    except ValueError as error:
        yield view.failure(str(error))


def _lines(text: Any) -> list[str]:
    lines = text.splitlines() if isinstance(text, str) else []
    return [line.strip() for line in lines if line.strip()]


def _shown(example: Example, uploads: Uploads) -> dict[str, str]:
    """An example as the value of Gradio's image, with a name that every visitor may use."""
    assert example.path is not None
    name = uploads.show(example.path.read_bytes())
    return {"path": name, "url": f"gradio_api/file={name}", "orig_name": example.path.name}


def _first_look(asker: Asker, examples: Sequence[Example], names: Sequence[str]) -> tuple[str, str]:
    """The first example, asked already, so that the page opens with an answer."""
    if not examples:
        return "", view.hint(EMPTY)
    question = examples[0].question
    if any(asker.kind(name) == "choices" for name in names):
        return question, view.hint("Write what to choose from, then ask.")
    assert examples[0].path is not None
    content = examples[0].path.read_bytes()
    asker.ask(content, question, names)  # the first time takes longer
    *_, html = _answers(asker, content, question, [], asker.methods[0], list(names))
    return question, html


def _head(asker: Asker) -> str:
    about = []
    for name, vqa in asker.models.items():
        model = vqa.model
        parts = (model.image_encoder, model.text_encoder, model.fusion, model.head)
        size = sum(parameter.numel() for parameter in model.parameters())
        made_of = " · ".join(type(part).__name__ for part in parts)
        about.append(f"<b>{escape(name)}</b> {escape(made_of)}, {size:,} parameters")
    return f'<div class="vlm-head"><h1>Ask about a picture</h1><p>{"<br>".join(about)}</p></div>'
