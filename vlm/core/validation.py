"""Check arguments, and word what is wrong with them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence


def check_positive(**sizes: int) -> None:
    """Raise ValueError naming the first size that is not a positive integer."""
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{name}: got {size!r}; expected a positive integer.")


def check_seed(seed: int) -> None:
    """Raise ValueError for a seed that numpy would refuse only when it is used."""
    if seed < 0:
        raise ValueError(f"seed: got {seed}; expected at least 0.")


def check_weight(**weights: float) -> None:
    """Raise ValueError unless each is a finite number of at least 0, by name."""
    for name, weight in weights.items():
        if not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
            raise ValueError(f"{name}: got {weight!r}; expected a number of at least 0.")


def check_probability(**shares: float) -> None:
    """Raise ValueError unless each is a number above 0 and at most 1, by name."""
    for name, share in shares.items():
        if not isinstance(share, (int, float)) or isinstance(share, bool) or not 0 < share <= 1:
            raise ValueError(f"{name}: got {share!r}; expected a share above 0 and at most 1.")


def check_dropout(dropout: float) -> None:
    """Raise ValueError unless it is a share that leaves something."""
    if not isinstance(dropout, (int, float)) or isinstance(dropout, bool) or not 0 <= dropout < 1:
        raise ValueError(f"dropout: got {dropout!r}; expected a share of at least 0 and below 1.")


def check_divides(name: str, dim: int, parts_name: str, parts: int) -> None:
    """Raise ValueError unless `dim` splits into `parts` equal pieces."""
    check_positive(**{name: dim, parts_name: parts})
    if dim % parts:
        raise ValueError(
            f"{parts_name}: got {parts}, which does not divide {name}={dim}; choose one that does."
        )


def shorten(value: object, length: int = 80) -> str:
    """The `repr` of a value for a message, cut to `length` characters.

    >>> shorten("yes"), shorten("yes" * 100, 12)
    ("'yes'", "'yesyesye...")
    """
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."


def counted(count: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "question"), counted(1200, "batch"), counted(0, "epoch")
    ('1 question', '1,200 batches', '0 epochs')
    """
    plural = "es" if noun.endswith(("s", "x", "sh", "tch")) else "s"
    return f"{count:,} {noun}{plural * (count != 1)}"


def nearest(name: object, known: Iterable[str], at_least: float = 0.6) -> str | None:
    """The known name that was probably meant, the first of several that are equally near.

    Case counts for nothing.

    Args:
        name: as it was misspelt.
        known: the names to choose from.
        at_least: the smallest similarity, in [0, 1], that counts as near.

    >>> nearest("max_epoch", ["max_steps", "max_epochs"]), nearest("seed", ["max_steps"])
    ('max_epochs', None)
    """

    def similarity(candidate: str) -> float:
        return difflib.SequenceMatcher(None, candidate.lower(), str(name).lower()).ratio()

    near = max(known, key=similarity, default="")
    return near if similarity(near) >= at_least else None


def did_you_mean(near: str | None) -> str:
    """A further sentence for a message that ends with a full stop; empty where nothing is near.

    >>> did_you_mean("max_epochs"), did_you_mean(None)
    (' Did you mean max_epochs?', '')
    """
    return f" Did you mean {near}?" if near else ""


def mistake_in(choices: Sequence[object]) -> str | None:
    """What is wrong with the candidates of one question, as the rest of a sentence.

    They are compared to the letter, as answers are.

    >>> mistake_in(["a cat", "a dog"])
    >>> mistake_in(["a cat", "a cat"])
    "got the choice 'a cat' twice; expected each once."
    """
    mistake = mistake_among(choices)
    if mistake is None and len(choices) < 2:
        got = shorten(list(choices))
        return f"got the choices {got}; expected at least two, or none."
    return mistake


def mistake_among(choices: Sequence[object]) -> str | None:
    """What is wrong with the candidates of one question, where a single one is allowed.

    >>> mistake_among(["a cat"])
    >>> mistake_among(["a cat", ""])
    "got an empty choice in ['a cat', '']; expected some text in each."
    """
    for text in choices:
        if not isinstance(text, str):
            return f"got the choice {text!r:.80}; expected texts."
        if not text.strip():
            return f"got an empty choice in {shorten(list(choices))}; expected some text in each."
    if len(set(choices)) < len(choices):
        twice = next(text for text in choices if choices.count(text) > 1)
        return f"got the choice {twice!r:.80} twice; expected each once."
    return None
