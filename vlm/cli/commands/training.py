"""`vlm fit`, `validate`, `test` and `predict`: help and mistakes come first, torch only then."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vlm.cli.check import check_names, refusal
from vlm.cli.help import read_help
from vlm.core.errors import ConfigError


def fit(arguments: Sequence[str]) -> None:
    """Train a model."""
    _run("fit", arguments)


def validate(arguments: Sequence[str]) -> None:
    """Score a model on the validation split."""
    _run("validate", arguments)


def test(arguments: Sequence[str]) -> None:
    """Score a model on the test split."""
    _run("test", arguments)


def predict(arguments: Sequence[str]) -> None:
    """Write a model's answers to the questions of the predict split."""
    _run("predict", arguments)


def _run(command: str, arguments: Sequence[str]) -> None:
    if "-h" in arguments or "--help" in arguments:
        print(read_help(command), end="")
        return
    if "--help-all" not in arguments:
        try:
            check_names(command, arguments)
        except ConfigError as error:
            print(refusal(error, arguments), file=sys.stderr)
            sys.exit(2)
    from vlm.cli.training_command import run

    run([command, *("--help" if a == "--help-all" else a for a in arguments)])
