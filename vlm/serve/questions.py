"""What may be asked, and for how long a model may think about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

from torch.nn.modules.module import register_module_forward_pre_hook

from vlm.asking import Answer, Asking, checked_choices, checked_question
from vlm.image.regions import RegionTransform

MAX_QUESTION = 500
"""Characters; a page cannot be trusted to keep to it."""
MAX_CHOICES = 20
MAX_CHOICE = 200
MAX_IMAGES = 16
"""Of a question, for models that set no limit themselves."""


def check_question(question: object, most: int = MAX_QUESTION) -> None:
    """Refuse a question that is empty, too long or no valid text.

    Raises:
        ValueError: with what was expected.
    """
    if not isinstance(question, str | None):
        raise ValueError(f"question: got {question!r:.80}; expected a text.")
    if not question or not question.strip():
        raise ValueError("The question is empty; type one about the image.")
    if len(question) > most:
        raise ValueError(
            f"The question has {len(question):,} characters; at most {most:,} are read. Shorten it."
        )
    checked_question(question, 1)


def check_choices(choices: Sequence[str]) -> None:
    """Refuse choices that a model which chooses cannot take.

    Raises:
        ValueError: with what was expected.
    """
    if not are_texts(choices):
        raise ValueError(f"choices: got {choices!r:.200}; expected a list of texts.")
    if not 2 <= len(choices) <= MAX_CHOICES:
        raise ValueError(
            f"This model chooses between answers that you give it: write 2 to "
            f"{MAX_CHOICES}, one a line (got {len(choices)})."
        )
    if (longest := max(map(len, choices))) > MAX_CHOICE:
        raise ValueError(f"A choice has {longest:,} characters; at most {MAX_CHOICE} are read.")
    checked_choices(choices, True, 1)


def check_images(vqa: Asking, count: int) -> None:
    """Refuse more images for a question than a model takes, before they are read.

    Raises:
        ValueError: with how many it takes.
    """
    most = MAX_IMAGES if vqa.max_images is None else vqa.max_images
    if not 1 <= count <= most:
        expected = "one" if most == 1 else f"1 to {most}"
        raise ValueError(f"image: got {count} for a question; this model takes {expected}.")


def are_texts(values: object) -> bool:
    """Whether this is a list of texts."""
    return isinstance(values, (list, tuple)) and all(isinstance(v, str) for v in values)


def as_dict(answer: Answer) -> dict[str, Any]:
    """An answer for JSON. One that the model can only guess is in `guess`, without a
    probability."""
    guess = answer.is_guess
    return {
        "answer": None if guess else answer.text,
        "probability": None if guess else answer.probability,
        "top": [] if guess else [{"answer": text, "probability": p} for text, p in answer.top],
        "guess": answer.text if guess else None,
        "calibrated": answer.calibrated,
        "abstains": answer.abstains,
    }


def check_reads_images(vqa: Asking, name: str = "model") -> None:
    """Refuse a model that strangers cannot ask, since it reads prepared features.

    Raises:
        ValueError: with the model's `name`.
    """
    if isinstance(vqa.transform, RegionTransform):
        raise ValueError(
            f"{name}: this model reads region features from .npz files; expected one that "
            f"reads images."
        )


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Stop models inside the block between two layers once the time is over. One block at a time.

    Raises:
        ValueError: the time is over.
    """
    end = monotonic() + seconds

    def check(*_: object) -> None:
        if monotonic() > end:
            raise ValueError(f"It took longer than {seconds:g} s.")

    hook = register_module_forward_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()
