"""`vlm fit`, `validate`, `test` and `predict`: help and mistakes come first, torch only then."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vlm.cli.check import check_names, refusal
from vlm.cli.command_parser import HUB
from vlm.cli.help import read_help
from vlm.cli.predict_table import answer_table, is_table
from vlm.core.bundled import bundled_folder
from vlm.core.errors import ConfigError

CONFIG, SHARED_CONFIG = "config.yaml", "config.json"
STAND_INS = (
    "--model.image_encoder=vlm.image.ConvNet",
    "--model.text_encoder=vlm.text.BagOfWords",
    "--model.fusion=vlm.fusion.Pooled",
    "--model.head=vlm.heads.Classification",
)


def _run(command: str, arguments: Sequence[str]) -> None:
    if "-h" in arguments or "--help" in arguments:
        print(read_help(command), end="")
        return
    try:
        if command != "fit":
            arguments = with_run(command, arguments)
        elif arguments and not arguments[0].startswith("-"):
            name = arguments[0]
            raise ConfigError(f"got {name!r} without an option; expected `vlm fit -c {name}`.")
        if "--help-all" not in arguments:
            check_names(command, arguments)
    except ConfigError as error:
        print(refusal(error, arguments), file=sys.stderr)
        sys.exit(2)
    from vlm.cli.training_command import run

    run([command, *("--help" if a == "--help-all" else a for a in arguments)])


fit, validate, test = (partial(_run, command) for command in ("fit", "validate", "test"))


def predict(arguments: Sequence[str]) -> None:
    """Answer the rows of a table with any model, or a split of a data set."""
    if is_table(arguments):
        answer_table(arguments)
    else:
        _run("predict", arguments)


def located(given: str) -> Path:
    """A path as it is, or the folder of a model that comes with vlm or is fetched from the hub.

    Raises:
        ConfigError: it cannot be had.
    """
    try:
        if not given.startswith(HUB):
            return bundled_folder(given) or Path(given)
        from vlm.adapters.hub import locate

        return locate(given)
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from error


def with_run(command: str, arguments: Sequence[str]) -> Sequence[str]:
    """The arguments with the options that a run or a shared model in the first place stands for.

    Raises:
        ConfigError: no such folder, or a shared model with options of a model, or without data.
    """
    if not arguments or arguments[0].startswith("-"):
        return arguments
    folder, options = located(arguments[0]), arguments[1:]
    if (folder / CONFIG).is_file():
        return ["-c", str(folder / CONFIG), f"--ckpt_path={folder}", *options]
    if not (folder / SHARED_CONFIG).is_file():
        raise ConfigError(
            f"{folder}: expected the folder of a run, with {CONFIG}, or of a shared model, with "
            f"{SHARED_CONFIG}."
        )
    if other := [option for option in options if option.startswith("--model")]:
        raise ConfigError(f"{other[0]}: a shared model has its own parts. Leave this option out.")
    if not any(option.startswith(("-c", "--data")) for option in options):
        raise ConfigError(
            f"{folder}: a shared model names no data set. Give one, for example "
            f"`vlm {command} {folder} -c configs/own_data.yaml`."
        )
    # The parser needs parts; the model's own take their place.
    return [*options, *STAND_INS, f"--ckpt_path={folder}"]
