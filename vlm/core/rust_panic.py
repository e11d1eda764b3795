"""Models that cannot answer, and failures of libraries in Rust that `except Exception` misses."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

Inputs = ParamSpec("Inputs")
Output = TypeVar("Output")


class AnswerError(ValueError):
    """A model that loads but cannot answer."""


def is_panic(error: BaseException) -> bool:
    """Whether a library in Rust, such as tokenizers, has panicked. Each library has its own class
    for this, derived directly from BaseException."""
    return type(error).__name__ == "PanicException"


def broken_off(function: Callable[Inputs, Output]) -> Callable[Inputs, Output]:
    """The function with an AnswerError in place of a panic."""

    @wraps(function)
    def guarded(*args: Inputs.args, **kwargs: Inputs.kwargs) -> Output:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            if not is_panic(error):
                raise
            raise AnswerError(f"the model's tokenizer fails on this text ({error}).") from error

    return guarded
