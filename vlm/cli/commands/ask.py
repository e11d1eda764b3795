"""`vlm ask`: answer one question about one image."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from vlm.checkpoint.checkpoint import CheckpointError
from vlm.image.load import ImageError
from vlm.inference import load

GUESS = 3
"""Exit code if the model can only guess; 1 is a user's mistake, 2 a wrong argument."""


def ask(arguments: Sequence[str]) -> None:
    """Print the most likely answers with their probabilities."""
    parser = argparse.ArgumentParser(
        prog="vlm ask",
        description="Answer a question about an image.",
        epilog=(
            f"Exit code {GUESS}: the question is beyond the model, which can only guess. "
            'Example: vlm ask runs/easy_vqa/RUN photo.png "What color is the shape?"'
        ),
    )
    parser.add_argument("checkpoint", help="a .ckpt file made by `vlm fit`, or a run's folder")
    parser.add_argument("image", help="an image file")
    parser.add_argument("question")
    parser.add_argument(
        "--choices", nargs="+", metavar="CHOICE", help="what to choose from (multiple choice)"
    )
    parser.add_argument("--top", type=int, default=5, help="how many answers (default 5)")
    parser.add_argument(
        "--trust", action="store_true", help="run the code of parts from outside vlm"
    )
    given = parser.parse_args(arguments)
    try:
        answer = load(given.checkpoint, trust=given.trust).answer(
            given.image, given.question, given.top, given.choices
        )
    except (CheckpointError, ImageError, ValueError) as error:
        sys.exit(f"vlm ask: {error}")
    if answer.is_guess:
        print("No answer: this question is beyond the model. Its guesses:")
    for text, probability in answer.top:
        print(f"  {text}" if answer.is_guess else f"{100 * probability:6.2f} %  {text}")
    for warning in answer.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if answer.is_guess:
        sys.exit(GUESS)
