"""The endpoint /ask: the page's function as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from starlette.exceptions import HTTPException

from vlm.core.validation import counted
from vlm.demo.asker import NO_REASONS, Asker
from vlm.demo.reply import Reply, agreement
from vlm.demo.uploads import Uploads

IN_ORDER, BY_NAME = "/gradio_api/call/ask", "/gradio_api/call/v2/ask"
QUEUE = "models"
"""One question at a time for all visitors, in the order of arrival: the models share the cores."""
REQUIRED = ("image", "question")
ARGUMENTS = (*REQUIRED, "choices", "method", "models", "max_risk")


def check_arguments(path: str, sent: dict[str, Any]) -> None:
    """Check which arguments a request over plain HTTP has; Gradio's own errors do not name them.
    Requests to other paths pass.

    Raises:
        HTTPException: missing or unknown arguments, or another number of them.
    """
    if path == BY_NAME:
        if missing := [name for name in REQUIRED if name not in sent]:
            raise HTTPException(400, f"{', '.join(missing)}: got none; expected a value.")
        if unknown := [name for name in sent if name not in ARGUMENTS]:
            raise HTTPException(
                400, f"got the argument {unknown[0]!r:.80}; expected {', '.join(ARGUMENTS)}."
            )
    elif path == IN_ORDER:
        data = sent.get("data")
        if not isinstance(data, list) or len(data) != len(ARGUMENTS):
            found = counted(len(data), "value") if isinstance(data, list) else f"{data!r:.80}"
            expected = f"a list of {len(ARGUMENTS)}: {', '.join(ARGUMENTS)}"
            raise HTTPException(400, f"data: got {found}; expected {expected}.")


def content_of(payload: Any, uploads: Uploads) -> bytes | None:
    """The undecoded content of an upload, which `read_upload` checks.

    `payload` is the image as the gate passed it on: the name of an upload in place of a file.

    Raises:
        gradio.Error: another payload, or an upload that was removed since.
    """
    if payload is None:
        return None
    name = payload.get("path") if isinstance(payload, dict) else None
    if not isinstance(name, str):
        raise gr.Error(
            f"image: got {payload!r:.80}; expected an upload (`handle_file` of gradio_client) or "
            f'{{"url": "data:..."}}.',
            print_exception=False,
        )
    content = uploads.read(name)
    if content is None:
        raise gr.Error(
            "image: the uploaded file is not there any more; send it again.", print_exception=False
        )
    return content


def answer_dict(question: str, replies: Sequence[Reply]) -> dict[str, Any]:
    """The models' answers for JSON; see docs/demo.md."""
    return {
        "question": question,
        "replies": [reply.as_dict() for reply in replies],
        "agreement": agreement(replies),
    }


def add_api(asker: Asker, uploads: Uploads) -> None:
    """Add the endpoint to the page that is being built."""

    def ask(
        image: dict[str, Any] | list[dict[str, Any]],
        question: str,
        choices: list[str] | None = None,
        method: str = NO_REASONS,
        models: list[str] | None = None,
        max_risk: float | None = None,
    ) -> dict[str, Any]:
        """Ask the models about an image.

        Args:
            image: an image file, uploaded or as a data: URL, or a list of several; addresses are
                not fetched.
            question: text of at most 500 characters.
            choices: a list of texts, for models that choose.
            method: how to find the reasons for each answer; "none" for none.
            models: names of the models to ask; null for all.
            max_risk: share of wrong answers accepted, such as 0.05, above which a model answers
                "I don't know"; null to answer everything.
        """
        sent = image if isinstance(image, list) else [image]
        contents, given = [content_of(one, uploads) for one in sent], choices or []
        try:
            found = [content for content in contents if content is not None]
            if not found or len(found) < len(contents):
                raise ValueError("image: got none; expected an image file.")
            content, *others = found
            names = list(asker.models) if models is None else models
            replies = asker.ask(content, question, names, given, max_risk, others)
            replies = [asker.explain(content, question, r, method, given, others) for r in replies]
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error
        return answer_dict(question, replies)

    with gr.Row(visible=False):
        inputs = [
            # Not `gr.Image`, whose own errors about other values do not name the argument.
            gr.JSON(label="image"),
            gr.Textbox(label="question"),
            gr.JSON(label="choices"),
            gr.Textbox(value=NO_REASONS, label="method"),
            gr.JSON(label="models"),
            gr.JSON(label="max_risk"),
        ]
        gr.Button(visible=False).click(
            ask,
            inputs,
            gr.JSON(label="answer"),
            api_name="ask",
            concurrency_id=QUEUE,
            concurrency_limit=1,
            preprocess=False,
        )
