"""The short help of the training commands, and the index of their options.

`python -m vlm.cli.help` makes both from the real parser.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def read_help(command: str) -> str:
    """The short help of fit, validate, test or predict."""
    return (FOLDER / f"{command}.txt").read_text(encoding="utf-8")
