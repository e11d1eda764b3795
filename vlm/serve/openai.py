"""Chat completions as OpenAI's clients ask for them: one question about images, one answer."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from time import time
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.exceptions import HTTPException

from vlm.core.validation import counted
from vlm.heads.generation.head import CUT
from vlm.serve.questions import as_dict
from vlm.serve.requests import read_json
from vlm.serve.schema import Given, mistake
from vlm.serve.service import Reply

PREFIX = "/v1/"
SAMPLING = {
    *("temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "stop", "user"),
    *("presence_penalty", "frequency_penalty", "logit_bias", "store", "metadata"),
    *("stream_options", "service_tier", "reasoning_effort", "verbosity"),
    *("safety_identifier", "prompt_cache_key"),
}
"""Arguments about sampling and accounts, which change nothing: the likeliest answer is given."""


class ImageURL(BaseModel):
    """Where an image is."""

    url: str


class Part(BaseModel):
    """A text or an image."""

    type: Literal["text", "image_url"]
    text: str = ""
    image_url: ImageURL | str | None = None


class Turn(BaseModel):
    """What somebody said."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]


class Chat(BaseModel):
    """A question as a conversation of one turn. `choices` and `max_risk` are as in `/answer`."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[Turn]
    stream: bool | None = False
    n: int | None = 1
    choices: list[str] | None = None
    max_risk: float | None = None


def add_openai(app: FastAPI, name: str, ask: Callable[[Given], Awaitable[Reply]]) -> None:
    """Add the routes under /v1; `ask` answers, and raises HTTPException."""
    model = {"id": name, "object": "model", "created": int(time()), "owned_by": "vlm"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model."""
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{asked:path}")
    async def one(asked: str) -> dict[str, Any]:
        """The model by its name."""
        _check_model(asked, name)
        return model

    body = {"content": {"application/json": {"schema": Chat.model_json_schema()}}}

    @app.post("/v1/chat/completions", openapi_extra={"requestBody": body})
    async def complete(request: Request) -> Response:
        """Answer a question about an image."""
        try:
            chat = Chat.model_validate(await read_json(request))
            _check_model(chat.model, name)
            question, urls, warnings = _question(chat)
            given = Given(
                question=question, image=urls, choices=chat.choices, max_risk=chat.max_risk
            )
        except ValidationError as error:
            raise HTTPException(400, mistake(error)) from None
        reply = await ask(given)
        warnings += [*reply.answer.warnings, *reply.notes]
        return _completion(reply, name, request.scope["request_id"], bool(chat.stream), warnings)


def as_openai(error: HTTPException) -> dict[str, Any]:
    """An error in OpenAI's form."""
    kind = "invalid_request_error" if error.status_code < 500 else "server_error"
    return {"error": {"message": error.detail, "type": kind, "param": None, "code": None}}


def _check_model(asked: str, name: str) -> None:
    if asked != name:
        raise HTTPException(404, f"model: got {asked[:80]!r}; expected {name!r}.")


def _question(chat: Chat) -> tuple[str, list[str], list[str]]:
    """The question, the images' addresses, and warnings about what is not read."""
    if chat.n not in (None, 1):
        raise HTTPException(400, f"n: got {chat.n}; expected 1, since the answer is not drawn.")
    if unknown := sorted(set(chat.model_extra or ()) - SAMPLING):
        raise HTTPException(400, f"{unknown[0]}: this server cannot do that; leave it out.")
    turns = [turn for turn in chat.messages if turn.role in ("user", "assistant")]
    if len(turns) != 1 or turns[0].role != "user":
        raise HTTPException(
            400,
            f"messages: got {counted(len(turns), 'turn')}; expected one, of the user. The model "
            f"answers each question by itself and reads no conversation.",
        )
    content = turns[0].content
    parts = [Part(type="text", text=content)] if isinstance(content, str) else content
    given = [part.image_url for part in parts if part.type == "image_url"]
    urls = [image.url if isinstance(image, ImageURL) else image or "" for image in given]
    if not urls:
        raise HTTPException(400, "messages: got no image; expected an image_url.")
    question = "\n".join(part.text for part in parts if part.type == "text").strip()
    warnings = ["The system message was not read."] * (len(turns) < len(chat.messages))
    kinds = [part.type for part in parts]
    if len(urls) > 1 and "text" in kinds[: len(kinds) - kinds[::-1].index("image_url")]:
        warnings.append("The model reads all images before the text, in their order.")
    return question, urls, warnings


def _completion(
    reply: Reply, name: str, number: str, stream: bool, warnings: list[str]
) -> Response:
    said = as_dict(reply.answer)
    refused = "The question is beyond the model." if reply.answer.is_guess else None
    message = {"role": "assistant", "content": said["answer"], "refusal": refused}
    kind = "chat.completion.chunk" if stream else "chat.completion"
    head = {"id": f"chatcmpl-{number}", "object": kind, "created": int(time()), "model": name}
    finish = "length" if reply.answer.text.endswith(CUT) else "stop"
    choice = {"index": 0, "finish_reason": finish, "logprobs": None}
    more = {"vlm": {**said, "warnings": warnings}}
    if not stream:
        return JSONResponse({**head, "choices": [{**choice, "message": message}], **more})
    events = (
        {**head, "choices": [{**choice, "finish_reason": None, "delta": message}], **more},
        {**head, "choices": [{**choice, "delta": {}}]},
    )
    lines = [*(json.dumps(event) for event in events), "[DONE]"]
    text = "".join(f"data: {line}\n\n" for line in lines)
    return Response(text, media_type="text/event-stream")
