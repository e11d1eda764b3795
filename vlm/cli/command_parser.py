"""The parser of a command that is not a training, and the arguments that several commands have."""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter


def command_parser(command: str, description: str, epilog: str) -> ArgumentParser:
    """A parser that shows its texts as they are, and that refuses shortened options."""
    return ArgumentParser(
        prog=f"vlm {command}",
        description=description,
        epilog=epilog,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_checkpoint(parser: ArgumentParser) -> None:
    """Add the model that a command loads."""
    parser.add_argument(
        "checkpoint",
        help="a run's folder, a .ckpt file made by `vlm fit`, or a folder made by `vlm share`",
    )


def add_trust(parser: ArgumentParser) -> None:
    """Add the option that lets a checkpoint run code."""
    parser.add_argument(
        "--trust", action="store_true", help="run the code of parts from outside vlm"
    )


def add_config(parser: ArgumentParser) -> None:
    """Add the configuration whose data a command reads."""
    parser.add_argument("config", help="a configuration of `vlm fit`")
