"""The parser of a command that is not a training, and the arguments that several commands have."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from pathlib import Path
from typing import NoReturn

from vlm.core.bundled import bundled_models
from vlm.core.validation import did_you_mean, nearest

HUB = "hf:"
"""What stands before the name of a model on the hub; `vlm.adapters.hub` needs torch to say so."""


class CommandParser(ArgumentParser):
    """A parser that names the option that was probably meant in the place of an unknown one."""

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: .*?--([^ =]+)", message)
        if unknown and not message.endswith((".", "?")):  # `check_names` has said what was meant
            near = nearest(unknown[1], self.own())
            message += f".{did_you_mean(near and f'--{near}')}"
        super().error(message)

    def own(self) -> list[str]:
        """Its options, without their dashes."""
        return re.findall(r"--([\w.-]+)", self.format_usage())


def command_parser(command: str, description: str, epilog: str) -> CommandParser:
    """A parser that shows its texts as they are, and that refuses shortened options."""
    return CommandParser(
        prog=f"vlm {command}",
        description=description,
        epilog=epilog,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_checkpoint(parser: ArgumentParser, exports: bool = False) -> None:
    """Add the model that a command loads, an export of one included if it only asks."""
    parser.add_argument(
        "checkpoint",
        help="a run's folder, a .ckpt file made by `vlm fit`, a folder made by `vlm share`"
        f"{' or `vlm export`' if exports else ''}, hf:NAME of a model on the hub, or scenes or "
        "easy_vqa, which come with vlm",
    )


def data_config(parser: ArgumentParser, model: str, given: str | Path | None) -> Path:
    """The configuration of the data that a model is measured on: the one given, or a run's own.

    A configuration that is not there ends the process with 2. So does, without one, a model that
    is not there or has none.
    """
    path = Path(given or Path(model) / "config.yaml")
    if path.is_file():
        return path
    if given is not None:
        parser.error(f"-c: got {given}; expected a configuration, and there is no such file")
    if (Path(model) / "manifest.json").is_file():
        parser.error(
            f"{model}: this is an export, which can only be asked (vlm ask, vlm predict, vlm "
            "serve); name the run that it was made from"
        )
    if not (model.startswith(HUB) or model in bundled_models() or Path(model).exists()):
        near = did_you_mean(nearest(model, bundled_models()))
        parser.error(f"{model}: there is no such file, folder or model.{near}")
    example = model if model in bundled_models() else "easy_vqa"
    parser.error(
        f"-c: got no configuration, and there is no {path}; name one of the data, as `-c {example}`"
    )


def model_name(checkpoint: str) -> str:
    """What the demo and the server call a model.

    Args:
        checkpoint: as the command got it.

    Returns:
        Of a run or its checkpoint "NAME/TIME", the last two folders; of a model of the hub, or one
        that comes with vlm, its name there; of another folder or file its own, without the ending.
    """
    path = Path(checkpoint).resolve()
    if checkpoint.startswith(HUB) or not path.exists():
        return checkpoint.removeprefix(HUB)
    run = path.parents[1] if path.parent.name == "checkpoints" else path
    if (run / "checkpoints").is_dir():
        return f"{run.parent.name}/{run.name}"
    return path.stem if path.is_file() else path.name


def add_trust(parser: ArgumentParser) -> None:
    """Add the option that lets a checkpoint run code."""
    parser.add_argument(
        "--trust", action="store_true", help="run the code of parts from outside vlm"
    )


def add_prompt(parser: ArgumentParser) -> None:
    """Add what an image-text-to-text model of the hub reads."""
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        help="for an image-text-to-text model: what it reads, with {question} in it (default: ask "
        "for a word or phrase)",
    )


def add_device(parser: ArgumentParser) -> None:
    """Add where models run; `check_device` says whether the machine has it."""
    parser.add_argument("--device", default="cpu", help="where the model runs (default cpu)")


def check_device(device: str) -> None:
    """Check `--device`.

    Raises:
        ValueError: a device that torch does not know, or that this machine does not have.
    """
    import torch

    try:
        torch.empty(0, device=device).tolist()  # which "meta" refuses
    except (AssertionError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"--device: got {device!r}; expected cpu or cuda ({reason}).") from error


def share(text: str) -> float:
    """A share in (0, 1) of the command line, such as "0.05" or "5%".

    Raises:
        ArgumentTypeError: anything else.
    """
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise ArgumentTypeError(f"got {text!r}; expected a share such as 5% or 0.05")
    return value


def check_host_names(parser: ArgumentParser, option: str, names: list[str]) -> None:
    """End with an error for what is not a host's name."""
    for name in names:
        if not re.fullmatch(r"[\w.-]+|[0-9a-f:]+", name, re.ASCII | re.IGNORECASE):
            parser.error(f"{option}: got {name!r}; expected a host name without a port.")


def add_config(parser: ArgumentParser) -> None:
    """Add the configuration whose data a command reads."""
    parser.add_argument("config", help="a configuration of `vlm fit`")
