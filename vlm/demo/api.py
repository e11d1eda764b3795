"""The endpoint /ask: what the page does, as JSON."""

from __future__ import annotations

from typing import Any

import gradio as gr

from vlm.demo.asker import NO_REASONS, Asker, agreement
from vlm.demo.uploads import Uploads


def content_of(payload: Any, uploads: Uploads) -> bytes | None:
    """The undecoded content of an upload, which `read_photo` checks.

    Gradio's own preprocessing is turned off in the events below, since it would decode any picture.
    So the payload is what was sent, with names of uploads in place of files.
    """
    name = payload.get("path") if isinstance(payload, dict) else None
    if payload is not None and not isinstance(name, str):
        raise gr.Error(
            f"image: got {payload!r:.80}; expected an upload (`handle_file` of gradio_client) or "
            f'{{"url": "data:..."}}.',
            print_exception=False,
        )
    content = None if name is None else uploads.read(name)
    if name is not None and content is None:  # forgotten since
        raise gr.Error(
            "image: the uploaded file is not there any more; send it again.", print_exception=False
        )
    return content


def add_api(asker: Asker, uploads: Uploads) -> None:
    """Add the endpoint to the page that is being built."""

    def ask(
        image: Any, question: Any, choices: Any = None, method: Any = NO_REASONS, models: Any = None
    ) -> dict[str, Any]:
        """Ask the models about a picture.

        Args:
            image: a picture file, uploaded or as a data: URL; addresses are not fetched.
            question: text of at most 500 characters.
            choices: a list of texts, for models that choose.
            method: how to find the reasons for each answer; "none" for none.
            models: names of the models to ask; null for all.
        """
        content = content_of(image, uploads)
        if content is None:
            raise gr.Error("image: got none; wanted a picture file.", print_exception=False)
        names = list(asker.models) if models is None else models
        try:
            replies = asker.ask(content, question, names, choices or [])
            replies = [
                asker.explain(content, question, reply, method, choices or []) for reply in replies
            ]
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error
        return {
            "question": question,
            "replies": [reply.as_dict() for reply in replies],
            "agreement": agreement(replies),
        }

    with gr.Row(visible=False):
        inputs = [
            # Not `gr.Image`, whose own errors about other values have no sentence.
            gr.JSON(label="image"),
            gr.Textbox(label="question"),
            gr.JSON(label="choices"),
            gr.Textbox(value=NO_REASONS, label="method"),
            gr.JSON(label="models"),
        ]
        answer = gr.JSON(label="answer")
        gr.Button(visible=False).click(
            ask,
            inputs,
            answer,
            api_name="ask",
            concurrency_id="models",
            concurrency_limit=1,
            preprocess=False,
        )
