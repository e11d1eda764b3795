"""`vlm ask`: answer one question about an image, or about several."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from os.path import isfile
from pathlib import Path

from vlm.cli.command_parser import (
    add_checkpoint,
    add_device,
    add_prompt,
    add_trust,
    check_device,
    command_parser,
    share,
)

EXAMPLE = """\
examples:
  vlm ask RUN photo.png "What color is the shape?"
  vlm ask scenes photo.png "What shape is the object closest to the red object?" --max-risk 5%
  vlm ask RUN left.png right.png "Which image shows a circle?"
  vlm ask RUN - "What color is the shape?"      the question alone
  vlm ask RUN photo.png "Draw a red circle left of a blue square." --output drawn.png

Exits with code 3 if it gives no answer: the question is beyond the model, or the risk is above the
accepted one (--max-risk).
"""


def ask(arguments: Sequence[str]) -> None:
    """Print the most likely answers with their probabilities."""
    parser = command_parser("ask", "Answer a question about an image.", EXAMPLE)
    add_checkpoint(parser, exports=True)
    parser.add_argument(
        "image", nargs="+", help="an image file, or several in their order, or - for none"
    )
    parser.add_argument("question", help="what is asked, or - for nothing")
    parser.add_argument(
        "--choices", nargs="+", metavar="CHOICE", help="answers to choose from (multiple choice)"
    )
    parser.add_argument("--top", type=int, default=5, help="how many answers (default 5)")
    parser.add_argument(
        "--max-risk",
        type=share,
        metavar="SHARE",
        help='say "I don\'t know" if more than this share of answers would be wrong, such as '
        "5%% or 0.05",
    )
    parser.add_argument(
        "--output", type=Path, metavar="PNG", help="write the picture that the model draws here"
    )
    add_device(parser)
    add_prompt(parser)
    add_trust(parser)
    given = parser.parse_args(arguments)
    # Not `Path.is_file`, which raises where a question is longer than a name can be.
    missing = [name for name in given.image if not isfile(name)]
    if missing and isfile(given.question):
        parser.error(
            f"{given.question}: a file where the question belongs. The image comes first: "
            f"vlm ask {given.checkpoint} {given.question} {' '.join(missing)!r}"
        )
    if len(given.image) > 1 and missing:
        parser.error(f"{missing[0]}: there is no such image file. Write the question in quotes.")
    # Here and not above: `--help` and a mistake need not wait for torch. Modules are no garbage:
    # looking for some among them, now and when Python ends, would take a quarter of the time.
    gc.disable()
    from vlm.asking import MISSING, NO_ANSWER, print_answer
    from vlm.export.load import load

    gc.freeze()
    gc.enable()
    try:
        check_device(given.device)
        vqa = load(given.checkpoint, given.device, given.trust, prompt=given.prompt)
        if given.output is not None and not vqa.draws:
            raise ValueError(
                f"--output: got {given.output}, but {given.checkpoint} answers with words alone; "
                f"leave it out, or take a model that draws (configs/scenes_draw.yaml)."
            )
        image = None if given.image == [MISSING] else given.image
        question = None if given.question == MISSING else given.question
        answer = vqa.answer(image, question, given.top, given.choices, max_risk=given.max_risk)
        picture = answer.drawing
        if given.output is not None and picture is not None:
            picture.save(given.output, "PNG")
    except (OSError, ValueError) as error:
        sys.exit(f"vlm ask: {error}")
    print_answer(answer, vqa.calibration)
    if picture is not None:
        print(f"The picture: {given.output or 'not written; --output PNG writes it'}.")
    if answer.is_guess or answer.abstains:
        sys.exit(NO_ANSWER)
    if given.output is not None and picture is None:
        sys.exit(
            f"vlm ask: --output: got {given.output}, but the answer is in words; ask for a "
            f'picture, such as "Draw a red circle."'
        )
