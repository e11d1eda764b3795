"""Configurations of parts, between the parser's form and plain data."""

from __future__ import annotations

import inspect
from pkgutil import resolve_name
from typing import Any

from jsonargparse import Namespace

from vlm.heads.base import AnswerKind
from vlm.heads.losses import path_of
from vlm.heads.multi_task import MultiTask
from vlm.text import BagOfWords, Recurrent, Transformer


def as_plain(value: Any) -> Any:
    """The plain data of what the parser gives."""
    if isinstance(value, Namespace):
        value = value.as_dict()
    if isinstance(value, dict):
        return {k: as_plain(v) for k, v in value.items()}
    return path_of(value) if callable(value) else value


def with_functions(stored: Any, asked: Any) -> Any:
    """A stored configuration with the functions that the parser found under the same paths.

    Stored functions are named, and are not to be imported; `asked` is what the parser gives.
    """
    if isinstance(stored, dict) and isinstance(asked, (dict, Namespace)):
        return {name: with_functions(value, asked.get(name)) for name, value in stored.items()}
    return asked if callable(asked) and path_of(asked) == stored else stored


def as_namespace(config: Any) -> Any:
    """A part's stored configuration in the form that the parser gives."""
    if not isinstance(config, dict):
        return config
    if "class_path" in config:
        arguments = as_namespace(config.get("init_args", {}))
        return Namespace(class_path=config["class_path"], init_args=Namespace(**arguments))
    return {name: as_namespace(value) for name, value in config.items()}


def takes(part: Any, name: str) -> bool:
    """Whether the class of a plain configuration has an argument of this name."""
    return isinstance(part, dict) and name in inspect.signature(_class(part)).parameters


def reads_choices(head: Any) -> bool:
    """Whether a head, given its plain configuration, or one inside it has choices encoded."""
    if not isinstance(head, dict):
        return False
    # Merges and decoders inside a head take no choices.
    itself = "class_path" in head and getattr(_class(head), "takes_choices", False)
    return itself or any(map(reads_choices, head.values()))


def picks(head: Any) -> bool:
    """Whether a head, given its plain configuration, or one inside it answers from choices: it has
    them encoded, or ranks them (`Generation` with `choose`)."""
    if not isinstance(head, dict):
        return False
    return reads_choices(head) or head.get("choose") is True or any(map(picks, head.values()))


def answer_kind(head: Any) -> AnswerKind:
    """How a head answers, given its plain configuration; of several the one whose answers count."""
    if issubclass(_class(head), MultiTask):
        arguments = head["init_args"]
        heads = arguments["heads"]
        return answer_kind(heads[arguments.get("answers_by") or next(iter(heads))])
    if picks(head):
        return "choices"
    return "vocabulary" if takes(head, "answers") else "text"


def words_in_order(text_encoder: Any) -> bool | None:
    """Whether a text encoder, given its plain configuration, reads the training questions' words in
    their order, or as a bag; None if it has a tokenizer of its own."""
    encoder = _class(text_encoder)
    if not issubclass(encoder, (BagOfWords, Recurrent, Transformer)):
        return None
    own = (text_encoder.get("init_args") or {}).get("tokenizer")
    return encoder.in_order if own is None else None


def _class(part: dict[str, Any]) -> Any:
    module, _, name = part["class_path"].rpartition(".")
    return resolve_name(f"{module}:{name}")  # without the colon, a module `name` would come first
