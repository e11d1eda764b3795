"""`vlm-answer`: answer a question about an image from the shell."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vlm.asking import NO_ANSWER, print_answer
from vlm.cli.command_parser import CommandParser, share
from vlm_runtime import load


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the likeliest answers with their probabilities; exit code 3 if the model can only
    guess or the risk is too high, 1 after a mistake."""
    parser = CommandParser(
        prog="vlm-answer", description="Answer a question about an image.", allow_abbrev=False
    )
    parser.add_argument(
        "folder",
        help="a folder written by `vlm export`, or scenes or easy_vqa, which come with the runtime",
    )
    parser.add_argument("image", help="an image file")
    parser.add_argument("question")
    parser.add_argument("--choices", nargs="+", metavar="CHOICE", help="answers to choose from")
    parser.add_argument("--top", type=int, default=5, help="how many answers (default 5)")
    parser.add_argument(
        "--max-risk",
        type=share,
        metavar="SHARE",
        help='say "I don\'t know" where more than this share of answers would be wrong, such as '
        "5%% or 0.05",
    )
    given = parser.parse_args(arguments)
    try:
        model = load(given.folder)
        answer = model.answer(given.image, given.question, given.top, given.choices, given.max_risk)
    except (OSError, ValueError) as error:
        sys.exit(f"vlm-answer: {error}")
    print_answer(answer, model.calibration)
    if answer.is_guess or answer.abstains:
        sys.exit(NO_ANSWER)


if __name__ == "__main__":
    main()
