"""The endpoint /ask: what the page does, as JSON."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from vlm.demo.asker import Asker, agreement
from vlm.demo.photo import MAX_BYTES

NO_REASONS = "none"


def content_of(payload: Any) -> bytes | None:
    """The content of an uploaded file, unopened: `read_photo` is the judge of it.

    Gradio's own preprocessing is turned off in the events below, since it would decode any picture.
    So everything that comes in is whatever was sent.
    """
    if payload is None:
        return None
    sent = payload if isinstance(payload, dict) else {}
    path, url = sent.get("path"), sent.get("url")
    if isinstance(url, str) and url.startswith("data:"):
        return _from_data_url(url)
    # Gradio checks the path of what is marked as a file; what is not could name any of ours.
    uploads = Path(get_upload_folder()).resolve()
    content: bytes | None = None
    try:
        if isinstance(path, str) and Path(path).resolve().is_relative_to(uploads):
            with open(path, "rb") as file:
                content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # a page that was left open, or a name that is none
        raise gr.Error(
            "image: the uploaded file is not there any more; send it again.", print_exception=False
        ) from error
    if content is None:
        raise gr.Error("image: wanted an uploaded file or a data: URL.", print_exception=False)
    return content


def _from_data_url(url: str) -> bytes:
    if len(url) > 2 * MAX_BYTES:
        raise gr.Error(f"image: at most {MAX_BYTES // 10**6} MB are read.", print_exception=False)
    try:
        return base64.b64decode(url.partition(",")[2], validate=True)
    except ValueError as error:
        raise gr.Error("image: the data: URL is not base64.", print_exception=False) from error


def add_api(asker: Asker) -> None:
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
        content = content_of(image)
        if content is None:
            raise gr.Error("image: got none; wanted a picture file.", print_exception=False)
        names = list(asker.models) if models is None else models
        try:
            replies = asker.ask(content, question, names, choices or [])
            if method != NO_REASONS:
                replies = [
                    asker.explain(content, question, reply, method, choices or [])
                    for reply in replies
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
            gr.Image(label="image"),
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
