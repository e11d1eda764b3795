"""`vlm share`: a trained model as a folder that others can load without trusting its author."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from vlm.checkpoint.sharing import CONFIG, WEIGHTS
from vlm.inference import load


def share(arguments: Sequence[str]) -> None:
    """Write the folder and say what to do with it."""
    parser = argparse.ArgumentParser(
        prog="vlm share",
        description=f"Write a trained model for others: {WEIGHTS} and {CONFIG}, without code.",
        epilog="example: vlm share runs/easy_vqa/RUN shapes-model",
    )
    parser.add_argument("checkpoint", help="a .ckpt file made by `vlm fit`, or a run's folder")
    parser.add_argument("folder", help="to write; new or empty")
    parser.add_argument(
        "--trust", action="store_true", help="run the code of parts from outside vlm"
    )
    given = parser.parse_args(arguments)
    try:
        folder = load(given.checkpoint, trust=given.trust).save(given.folder)
    except ValueError as error:
        sys.exit(f"vlm share: {error}")
    size = (folder / WEIGHTS).stat().st_size / 1e6
    print(
        f"{folder}: {size:,.1f} MB. It holds no code. Ask it: vlm ask {folder} photo.png QUESTION"
    )
