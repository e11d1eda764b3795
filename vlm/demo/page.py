"""The page, in Gradio: ask about one image, or answer a table."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import gradio as gr

from vlm.adapters.image_text_to_text import ImageTextToText
from vlm.demo import view
from vlm.demo.api import QUEUE, add_api, content_of
from vlm.demo.asker import Asker
from vlm.demo.examples import Example, examples_for
from vlm.demo.facts import kinds_of
from vlm.demo.reasons import EXPLAINED, Asked, Reasons
from vlm.demo.table_tab import add_table_tab
from vlm.demo.uploads import VISITOR_UPLOADS, Uploads
from vlm.heads.multi_task import answering
from vlm.image.as_text import in_words
from vlm.inference import VQA
from vlm.serve.questions import MAX_QUESTION
from vlm.serve.reader import digest_of

SIDE_BY_SIDE = 2
WAITING = 32
"""Questions that may wait; one more is refused."""
EMPTY = "Choose an image, then ask about it."
READY = "The image is ready: ask a question about it."
PRIVATE: dict[str, Any] = {
    "concurrency_id": QUEUE,
    "concurrency_limit": 1,
    "api_visibility": "private",
    "preprocess": False,  # Gradio's would decode any image, and write it to disk
    "postprocess": False,
    "show_progress": "hidden",
}
"""Of every event of the page."""
REFUSED, PICKED = "refused", "picked"
ASKING = """() => document.querySelectorAll("#result, #reasons").forEach(
    (part) => part.setAttribute("aria-busy", "true"))"""
"""The last answer is grey until the next is there."""
REVEAL = """() => {
    const result = document.querySelector("#result");
    result.setAttribute("aria-busy", "false");
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    result.scrollIntoView({block: "nearest", behavior: still ? "auto" : "smooth"});
}"""
"""On a phone the answer may be below what is seen."""


def build_page(asker: Asker, uploads: Uploads) -> gr.Blocks:
    """The page for an asker's models; the examples' images become uploads."""
    with gr.Blocks(title="vlm: ask about images") as page:
        gr.HTML(view.head(), apply_default_css=False)
        with gr.Tabs():
            with gr.Tab("Ask"):
                _AskTab(asker, uploads)
            with gr.Tab("Ask many questions"):
                add_table_tab(asker, uploads)
        add_api(asker, uploads)
    page.queue(max_size=WAITING, default_concurrency_limit=1)
    return page


class _AskTab:
    """One image, its answers, and why; below, what can be asked, and the images of this visit."""

    def __init__(self, asker: Asker, uploads: Uploads) -> None:
        self.asker, self.uploads = asker, uploads
        names = list(asker.models)
        examples = examples_for(asker.models.values())
        self.examples = examples
        self.images = [_shown(example, uploads) for example in examples]
        first = self._first(names)
        self.asked = gr.State(first)
        # Digest of the image that the result is about, or how the image came: so that a change of
        # the image does not replace the answer to a question about it.
        self.about = gr.State(None)
        self.mine = gr.State([])
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                self._add_question(names, first)
            with gr.Column(scale=7, min_width=300):
                self.result = gr.HTML(
                    view.results(first.replies)
                    if first
                    else view.hint(READY if examples else EMPTY),
                    apply_default_css=False,
                    min_height=250,
                    elem_id="result",
                    elem_classes=[] if first else ["vlm-unasked"],  # see page.css
                )
                least = asker.least_risk
                self.risk = gr.Slider(
                    100 * (least or 0.01),
                    100,
                    value=100,
                    step=1,
                    label="How many of 100 answers may be wrong?",
                    info='Below 100, a model that is not certain enough says "I don\'t know".',
                    visible=least is not None,
                    buttons=[],
                    elem_id="risk",
                )
                sides = min(len(names), SIDE_BY_SIDE)
                self.reasons = Reasons(asker, uploads, sides, first)
        with gr.Tabs():
            with gr.Tab("What can I ask?"):
                picks = [self._add_facts(name) for name in names]
                if examples:
                    gr.HTML(view.licences(examples), apply_default_css=False)
            with gr.Tab("My images"):
                self.gallery = gr.Gallery(
                    label="Images of this visit, with their last answers",
                    show_label=False,
                    columns=3,
                    fit_columns=False,
                    height="auto",
                    object_fit="contain",
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    elem_id="mine",
                )
        self._connect(picks)

    def _add_question(self, names: list[str], first: Asked | None) -> None:
        self.image = gr.Image(
            show_label=False,
            sources=["upload", "clipboard", "webcam"],
            format="png",
            height=240,
            elem_id="image",
            alt_text="The image that is asked about",
            buttons=[],
        )
        # Not as an argument: Gradio would write the image to disk.
        self.image.value = self.images[0] if self.images else None
        several = any(vqa.max_images != 1 for vqa in self.asker.models.values())
        self.others = gr.File(
            label="Further images of the question, in their order",
            file_count="multiple",
            file_types=["image"],
            height=100,
            visible=several,
            elem_id="others",
        )
        self.question = gr.Textbox(
            value=self.examples[0].question if self.examples else "",
            label="Question",
            placeholder="What would you like to know about the image?",
            max_length=MAX_QUESTION,
            max_lines=3,
            submit_btn=False,
            elem_id="question",
        )
        self.choices = gr.Textbox(
            label="Choices, one a line",
            placeholder="a cat\na dog",
            lines=3,
            visible=any(map(self.asker.takes_choices, names)),
            elem_id="choices",
        )
        self.models = gr.Dropdown(
            names,
            value=[reply.model for reply in first.replies] if first else names[:SIDE_BY_SIDE],
            multiselect=True,
            max_choices=SIDE_BY_SIDE,
            label="Models, up to two side by side",
            visible=len(names) > 1,
            elem_id="models",
        )
        self.ask = gr.Button("Ask", variant="primary", elem_id="ask")

    def _add_facts(self, name: str) -> tuple[gr.Dataset, list[int], str]:
        """What can be asked of a model, with examples that ask it; the examples' numbers."""
        vqa = self.asker.models[name]
        gr.HTML(view.facts(name, vqa), apply_default_css=False)
        kinds = [(kind, example) for kind in kinds_of(vqa) for example in kind.examples]
        samples = []
        for kind, example in kinds:
            shown = self.uploads.show(view.thumbnail(example))
            samples.append([view.example(example, kind, f"gradio_api/file={shown}")])
        dataset = gr.Dataset(
            label=f"Ask {name} one of these",
            components=[gr.HTML(visible=False)],
            samples=samples,
            type="index",
            samples_per_page=len(samples) + 1,
            visible=bool(samples),
            elem_classes="vlm-examples",
        )
        return dataset, [self.examples.index(example) for _, example in kinds], name

    def _connect(self, picks: Sequence[tuple[gr.Dataset, list[int], str]]) -> None:
        shown = [
            self.image,
            self.others,
            self.question,
            self.choices,
            self.models,
            self.risk,
            self.mine,
        ]
        made = [self.result, self.about, self.asked, self.mine, self.gallery]
        made += self.reasons.announced

        def then_answer(event: Any) -> None:
            inputs = [self.asked, self.reasons.method, self.reasons.opacity]
            event.then(None, js=REVEAL).then(
                self.reasons.explain, inputs, self.reasons.outputs, **PRIVATE
            ).then(None, js=EXPLAINED)

        # A question that is asked while the last one runs is asked after it.
        asking = [self.ask.click, self.question.submit, self.risk.change]
        gr.on([*asking, *(dataset.click for dataset, *_ in picks), self.gallery.select], js=ASKING)
        then_answer(gr.on(asking, self.on_ask, shown, made, trigger_mode="always_last", **PRIVATE))
        # Of Gradio's events for images, only this one has the new value whatever happened.
        self.image.change(
            self.on_image,
            [self.image, self.models, self.about, self.mine],
            [self.result, self.image, self.about, self.mine, self.gallery],
            **PRIVATE,
        )
        picked = [self.image, self.others, self.question, self.models, self.about]
        for dataset, numbers, name in picks:
            pick = partial(self.on_pick, numbers, name)
            then_answer(
                dataset.click(pick, dataset, picked, **PRIVATE).then(
                    self.on_ask, shown, made, **PRIVATE
                )
            )
        then_answer(
            self.gallery.select(
                self.on_mine, self.mine, [self.image, self.others, self.about], **PRIVATE
            ).then(self.on_ask, shown, made, **PRIVATE)
        )
        self.reasons.connect(self.asked, PRIVATE)

    def on_ask(
        self,
        sent: Any,
        more: Any,
        question: str,
        listed: Any,
        names: list[str],
        percent: Any,
        mine: Any,
    ) -> tuple[Any, ...]:
        content = content_of(sent, self.uploads)
        more = more if isinstance(more, list) else []
        found = [content_of(one, self.uploads) for one in more]
        others = [one for one in found if one is not None]
        lines = listed.splitlines() if isinstance(listed, str) else []
        lines = [line.strip() for line in lines if line.strip()]
        accepted = percent / 100 if isinstance(percent, (int, float)) else None
        accepted = None if accepted == 1 else accepted
        try:
            if content is None:
                raise ValueError("There is no image yet: upload one, or pick an example below.")
            replies = self.asker.ask(content, question, names, lines, accepted, others)
        except ValueError as error:
            digest = None if content is None else digest_of(content)
            kept = gr.skip(), gr.skip()
            return view.failure(str(error)), digest, None, *kept, *self.reasons.announce([])
        image = _file(sent["path"])
        said = ", ".join(dict.fromkeys(in_words(reply.headline) for reply in replies))
        mine = _with(mine, image["path"], f"{question} {said}")
        asked = Asked(image, question, lines, replies, [_file(one["path"]) for one in more])
        shown = view.results(replies), digest_of(content), asked, mine, _entries(mine)
        return *shown, *self.reasons.announce(replies)

    def on_image(self, sent: Any, who: Any, last: str | None, mine: Any) -> tuple[Any, ...]:
        content = content_of(sent, self.uploads)
        kept = (gr.skip(), gr.skip())
        if content is None:
            # An image that cannot be read was removed below; its error stays.
            hint = gr.skip() if last == REFUSED else view.hint(EMPTY)
            return hint, gr.skip(), None, *kept
        if last in (PICKED, digest_of(content)):
            return gr.skip(), gr.skip(), digest_of(content), *kept
        try:
            self.asker.look(content, who)
        except ValueError as error:
            return view.failure(str(error)), None, REFUSED, *kept
        mine = _with(mine, sent["path"], "not asked yet")
        return view.hint(READY), gr.skip(), digest_of(content), mine, _entries(mine)

    def on_pick(self, numbers: list[int], name: str, index: Any) -> tuple[Any, ...]:
        # The number comes from the browser, where anything can be sent.
        if not isinstance(index, int) or not 0 <= index < len(numbers):
            raise gr.Error("There is no such example.", print_exception=False)
        number = numbers[index]
        names = [name, *(other for other in self._fitting(number) if other != name)]
        question = self.examples[number].question
        return self.images[number], None, question, names[:SIDE_BY_SIDE], PICKED

    def on_mine(self, mine: Any, event: gr.EventData) -> tuple[Any, None, str]:
        index = event._data.get("index") if isinstance(event._data, dict) else None
        if not isinstance(index, int) or not 0 <= index < len(mine):
            raise gr.Error("There is no such image.", print_exception=False)
        return _file(mine[index][0]), None, PICKED

    def _fitting(self, number: int) -> list[str]:
        """The models that an example suits."""
        models = self.asker.models.items()
        return [name for name, vqa in models if self.examples[number] in examples_for([vqa])]

    def _first(self, names: list[str]) -> Asked | None:
        """A question about the first example, so that the page opens with an answer; none for
        models that would take seconds or minutes for it."""
        slow = any(is_slow(self.asker.models[name]) for name in names)
        if slow or not self.examples or "choices" in map(self.asker.kind, names):
            return None
        example, content = self.examples[0], self.examples[0].read()
        asked = self._fitting(0)[:SIDE_BY_SIDE]
        self.asker.ask(content, example.question, asked)  # the first time takes longer
        replies = self.asker.ask(content, example.question, asked)
        return Asked(self.images[0], example.question, [], replies)


def is_slow(vqa: VQA | ImageTextToText) -> bool:
    """Whether a model's answer may take seconds: a language model's."""
    return isinstance(vqa, ImageTextToText) or answering(vqa.model.head).reads_prompt


def _shown(example: Example, uploads: Uploads) -> view.File:
    """An example as the value of Gradio's image, with a name that every visitor may use."""
    return _file(uploads.show(example.read()), example.file.rpartition("/")[2])


def _file(name: str, original: str = "image") -> view.File:
    """An upload as the value of Gradio's image."""
    return {"path": name, "url": f"gradio_api/file={name}", "orig_name": original}


def _with(mine: Any, name: str, caption: str) -> list[tuple[str, str]]:
    """The images of a visit, with another one or with another caption."""
    return list((dict(mine) | {name: caption}).items())[-VISITOR_UPLOADS:]


def _entries(mine: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """They as the value of Gradio's gallery."""
    return [{"image": _file(name), "caption": caption} for name, caption in mine]
