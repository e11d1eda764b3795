"""`vlm explain`: show what an answer rests on, as an image, a page and JSON."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from vlm.checkpoint.checkpoint import CheckpointError
from vlm.cli.command_parser import (
    add_checkpoint,
    add_device,
    add_prompt,
    add_trust,
    check_device,
    command_parser,
)
from vlm.explain.agreement import agreement
from vlm.explain.case import Case
from vlm.explain.drawing import draw, headline
from vlm.explain.explainer import explain_case, explained, make_case, methods_for
from vlm.explain.explanation import Explanation
from vlm.explain.methods import METHODS, Occlusion
from vlm.explain.page import to_html
from vlm.image.load import ImageError, load_image
from vlm.image.regions import RegionTransform
from vlm.inference import VQA, load_any
from vlm.model import VQAModel


def explain_command(arguments: Sequence[str]) -> None:
    """Write OUTPUT.png, OUTPUT.html and OUTPUT.json, and print what they say of the words."""
    parser = command_parser(
        "explain",
        "Show which words and which parts of the image an answer rests on.",
        'example:\n  vlm explain RUN photo.png "What color is the shape?"',
    )
    add_checkpoint(parser)
    parser.add_argument("image", help="an image file")
    parser.add_argument("question")
    parser.add_argument(
        "--method",
        choices=METHODS,
        default=Occlusion.name,
        metavar="METHOD",
        help="%(choices)s (default %(default)s)",
    )
    parser.add_argument("--answer", help="explain this answer instead of the model's own")
    parser.add_argument("--choices", nargs="+", help="choices of a multiple-choice question")
    parser.add_argument(
        "--all-methods", action="store_true", help="compare all methods that fit the model"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("explanation"),
        help="output path without extension (default %(default)s)",
    )
    add_device(parser)
    add_prompt(parser)
    add_trust(parser)
    given = parser.parse_args(arguments)
    output = re.sub(r"\.(png|html|json)$", "", str(given.output))  # all are written
    png, page, text = (Path(f"{output}.{ending}") for ending in ("png", "html", "json"))
    if Path(given.image).resolve() in {path.resolve() for path in (png, page, text)}:
        parser.error(f"--output: got {given.output}, which is the image; expected another name.")
    try:
        check_device(given.device)
        vqa = load_any(given.checkpoint, given.device, given.trust, prompt=given.prompt)
        model = explained(vqa)
        if not isinstance(model, VQAModel) and given.method != Occlusion.name:
            raise ValueError(f"--method: got {given.method}; expected occlusion for this model.")
        known = vqa.calibration if isinstance(vqa, VQA) else None
        asked = given.image, given.question, given.answer, given.choices
        case = make_case(model, *asked, known)
        png.parent.mkdir(parents=True, exist_ok=True)  # before what may take minutes
        if given.all_methods:
            found = _all(case, methods_for(model))
        else:
            found = [explain_case(case, METHODS[given.method]())]
        photo = None
        if not isinstance(vqa.transform, RegionTransform):
            photo = load_image(given.image, vqa.transform.white_level)
        draw(found, photo).save(png)
        page.write_text(to_html(found, photo), encoding="utf-8")
        plain = [explanation.as_dict() for explanation in found]
        content = json.dumps(plain if given.all_methods else plain[0]) + "\n"
        text.write_text(content, encoding="utf-8")
    except (CheckpointError, ImageError, OSError, ValueError) as error:
        sys.exit(f"vlm explain: {error}")
    for warning in found[0].warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{found[0].question}\n{headline(found[0])}")
    for explanation in found:
        print(f"\n{explanation.method}, {explanation.seconds:.1f} s: {explanation.word_unit}")
        for word, relevance in zip(explanation.words, explanation.word_relevance, strict=True):
            print(f"{relevance:+10.3f}  {word}")
    if len(found) > 1:
        print(f"\n{agreement(found).sentence}")
    print(f"\n{png}\n{page}\n{text}")


def _all(case: Case, names: Sequence[str]) -> list[Explanation]:
    """By every method that fits the model; one that fails on it is left out with a note."""
    from vlm.core.terminal import track  # of an extra, and one method alone needs no bar

    found = []
    for name in track(names, "Explaining"):
        try:
            found.append(explain_case(case, METHODS[name]()))
        except ValueError as error:
            if name == Occlusion.name:  # it fits all: the mistake is in what was asked
                raise
            print(f"{name} is left out: {error}", file=sys.stderr)
    return found
