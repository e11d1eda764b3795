"""The page, in Gradio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import gradio as gr

from vlm.adapters.image_text_to_text import ImageTextToText
from vlm.demo import ASSETS, view
from vlm.demo.api import QUEUE, add_api, content_of
from vlm.demo.asker import NO_REASONS, Asker
from vlm.demo.examples import Example, examples_for
from vlm.demo.uploads import Uploads
from vlm.serve.questions import MAX_QUESTION
from vlm.serve.reader import digest_of

SIDE_BY_SIDE = 2
WAITING = 32
"""Questions that may wait; one more is refused."""
EMPTY = "Choose an image, then ask about it."
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
    """The page for an asker's models; the examples' images become uploads."""
    names = list(asker.models)
    examples = examples_for(asker.models.values())
    first_question, first_result = _first_look(asker, examples, names[:SIDE_BY_SIDE])
    images = [_shown(example, uploads) for example in examples]
    html = partial(gr.HTML, apply_default_css=False)
    with gr.Blocks(title="vlm: ask about images") as page:
        html(view.head(asker.models))
        with gr.Row():
            with gr.Column(scale=4, min_width=320):
                image = gr.Image(
                    label="Image",
                    sources=["upload", "clipboard", "webcam"],
                    format="png",
                    height=300,
                    elem_id="image",
                    buttons=[],
                )
                # Not as an argument: Gradio would write the image to disk.
                image.value = images[0] if images else None
                question = gr.Textbox(
                    value=first_question,
                    label="Question",
                    placeholder="What would you like to know about the image?",
                    max_length=MAX_QUESTION,
                    max_lines=3,
                    submit_btn=False,
                    elem_id="question",
                )
                choices = gr.Textbox(
                    label="Choices, one a line",
                    placeholder="a cat\na dog",
                    lines=3,
                    visible=any(map(asker.takes_choices, names)),
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
                least = asker.least_risk
                risk = gr.Slider(
                    100 * (least or 0.01),
                    100,
                    value=100,
                    step=1,
                    label="Accepted risk, % of answers that may be wrong (100: answer all)",
                    visible=least is not None,
                    elem_id="risk",
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
                    html('<h2 class="vlm-title">Or start from one of these</h2>')
                    gallery = html(
                        view.gallery(examples),
                        js_on_load=(ASSETS / "gallery.js").read_text(encoding="utf-8"),
                        elem_id="gallery",
                    )
            with gr.Column(scale=7, min_width=320):
                result = html(
                    first_result,
                    js_on_load=(ASSETS / "viewer.js").read_text(encoding="utf-8"),
                    elem_id="result",
                )

        # Digest of the image that the result is about, or how the image came: so that a change of
        # the image does not replace the answer to a question about it.
        about = gr.State(None)

        def on_ask(sent: Any, *given: Any) -> Iterator[tuple[str, str | None]]:
            content = content_of(sent, uploads)
            text, listed, how, who, percent = given
            lines = listed.splitlines() if isinstance(listed, str) else []
            lines = [line.strip() for line in lines if line.strip()]
            accepted = percent / 100 if isinstance(percent, (int, float)) else None
            accepted = None if accepted == 1 else accepted
            for shown in _answers(asker, content, text, lines, how, who, accepted):
                yield shown, None if content is None else digest_of(content)

        def on_image(sent: Any, who: Any, last: str | None) -> tuple[Any, Any, str | None]:
            content = content_of(sent, uploads)
            if content is None:
                # An image that cannot be read was removed below; its error stays.
                return gr.skip() if last == REFUSED else view.hint(EMPTY), gr.skip(), None
            if last in (PICKED, digest_of(content)):
                return gr.skip(), gr.skip(), digest_of(content)
            try:
                asker.look(content, who)
            except ValueError as error:
                return view.failure(str(error)), None, REFUSED
            ready = "The image is ready: ask a question about it."
            return view.hint(ready), gr.skip(), digest_of(content)

        def on_pick(event: gr.EventData) -> tuple[dict[str, str], str, str]:
            # The number comes from the browser, where anything can be sent.
            index = event._data.get("index") if isinstance(event._data, dict) else None
            if not isinstance(index, int) or not 0 <= index < len(examples):
                raise gr.Error("There is no such example.", print_exception=False)
            return images[index], examples[index].question, PICKED

        private: dict[str, Any] = {
            "concurrency_id": QUEUE,
            "concurrency_limit": 1,
            "api_visibility": "private",
            "preprocess": False,  # Gradio's would decode any image, and write it to disk
            "show_progress": "minimal",
        }
        answer = {"fn": on_ask, "outputs": [result, about], **private}
        answer["inputs"] = [image, question, choices, method, models, risk]
        # A question that is asked while the last one runs is asked after it.
        gr.on([ask.click, question.submit], trigger_mode="always_last", **answer)
        # Of Gradio's events for images, only this one has the new value whatever happened.
        image.change(on_image, [image, models, about], [result, image, about], **private)
        if examples:
            gallery.select(
                on_pick,
                None,
                [image, question, about],
                api_visibility="private",
                concurrency_limit=None,
                postprocess=False,
            ).then(**answer)
        add_api(asker, uploads)
    page.queue(max_size=WAITING, default_concurrency_limit=1)
    return page


def _answers(
    asker: Asker,
    content: bytes | None,
    question: str,
    choices: list[str],
    method: str,
    names: list[str],
    max_risk: float | None = None,
) -> Iterator[str]:
    """The answers at once, and then again with their reasons."""
    try:
        if content is None:
            raise ValueError("There is no image yet: upload one, or pick an example below.")
        replies = asker.ask(content, question, names, choices, max_risk)
        look = asker.look(content, names)
        yield view.results(replies, look, waiting=method != NO_REASONS)
        if method != NO_REASONS:
            explained = [asker.explain(content, question, r, method, choices) for r in replies]
            yield view.results(explained, look, waiting=False)
    except ValueError as error:
        yield view.failure(str(error))


def _shown(example: Example, uploads: Uploads) -> dict[str, str]:
    """An example as the value of Gradio's image, with a name that every visitor may use."""
    name = uploads.show(example.read())
    return {
        "path": name,
        "url": f"gradio_api/file={name}",
        "orig_name": example.file.rpartition("/")[2],
    }


def _first_look(asker: Asker, examples: Sequence[Example], names: list[str]) -> tuple[str, str]:
    """A question about the first example with its answer, so that the page opens with one."""
    if not examples:
        return "", view.hint(EMPTY)
    content, question = examples[0].read(), examples[0].question
    if "choices" in map(asker.kind, names):
        return question, view.hint("Write what to choose from, then ask.")
    asker.ask(content, question, names)  # the first time takes longer
    slow = any(isinstance(vqa, ImageTextToText) for vqa in asker.models.values())
    method = NO_REASONS if slow else asker.methods[0]
    *_, html = _answers(asker, content, question, [], method, names)
    return question, html
