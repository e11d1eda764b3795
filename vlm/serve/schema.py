"""Request and answer of `/answer`; `/openapi.json` is generated from them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class Given(BaseModel):
    """A question about an image, or about several."""

    model_config = ConfigDict(extra="forbid")

    question: str
    image: str | list[str] | None = Field(
        None, description="a data: URL, or several; in a form, the files themselves"
    )
    choices: list[str] | None = Field(None, description="candidates, for a multiple-choice model")
    max_risk: float | None = Field(
        None, ge=0, le=1, description="share of wrong answers to accept among those given"
    )


class Ranked(BaseModel):
    """One of the most likely answers."""

    answer: str
    probability: float


class Said(BaseModel):
    """An answer. `answer` and `probability` are null if the question is beyond the model."""

    answer: str | None
    probability: float | None
    top: list[Ranked]
    guess: str | None
    calibrated: bool
    abstains: bool
    warnings: list[str]
    milliseconds: float


def mistake(error: ValidationError) -> str:
    """One mistake in a sentence: the first, or the one deepest inside a list."""
    first = max(error.errors(include_url=False), key=lambda found: len(found["loc"]))
    where = ".".join(map(str, first["loc"])) or "request"
    if first["type"] == "missing":
        return f"{where}: got none; expected a value."
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown; expected only what /openapi.json lists."
    return f"{where}: got {first['input']!r:.80}. {first['msg']}."


def required_body(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of a request's body, which FastAPI cannot derive because it is read by hand."""
    schema = model.model_json_schema()
    form = {**schema, "properties": {**schema["properties"]}}
    form["properties"]["image"] = {"type": "string", "format": "binary"}
    kinds = {"application/json": schema, "multipart/form-data": form}
    content = {kind: {"schema": found} for kind, found in kinds.items()}
    return {"requestBody": {"required": True, "content": content}}
