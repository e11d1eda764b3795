"""`vlm explain`: why a model gives its answer, as a picture and as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from vlm.checkpoint import CheckpointError
from vlm.explain.drawing import draw, stack
from vlm.explain.explainer import explain_case, make_case, methods_for
from vlm.explain.methods import METHODS, IntegratedGradients, Occlusion
from vlm.image.load import ImageError
from vlm.image.regions import RegionTransform
from vlm.inference import load


def explain_command(arguments: Sequence[str]) -> None:
    """Write OUTPUT.png and OUTPUT.json, and print what they say of the words."""
    parser = argparse.ArgumentParser(
        prog="vlm explain",
        description="Show which words and which parts of the picture an answer rests on.",
        epilog='example: vlm explain runs/easy_vqa/RUN photo.png "What color is the shape?"',
    )
    parser.add_argument("checkpoint", help="a .ckpt file made by `vlm fit`, or a run's folder")
    parser.add_argument("image", help="a picture file")
    parser.add_argument("question")
    parser.add_argument(
        "--method", choices=METHODS, default=Occlusion.name, help="(default %(default)s)"
    )
    parser.add_argument("--answer", help="explain this answer instead of the model's own")
    parser.add_argument("--choices", nargs="+", help="of a multiple-choice question")
    parser.add_argument("--all-methods", action="store_true", help="compare all that fit the model")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("explanation"),
        help="where to write, without the ending (default %(default)s)",
    )
    parser.add_argument(
        "--trust", action="store_true", help="run the code of parts from outside vlm"
    )
    given = parser.parse_args(arguments)
    try:
        model = load(given.checkpoint, trust=given.trust).model
        case = make_case(model, given.image, given.question, given.answer, given.choices)
        names = methods_for(model) if given.all_methods else [given.method]
        if given.all_methods and not IntegratedGradients.available():
            names.remove(IntegratedGradients.name)
            print("integrated_gradients is left out: captum is not installed.", file=sys.stderr)
        found = [explain_case(case, METHODS[name]()) for name in names]
    except (CheckpointError, ImageError, ValueError) as error:
        sys.exit(f"vlm explain: {error}")
    photo = None if isinstance(model.image_encoder.transform, RegionTransform) else given.image
    png, text = (Path(f"{given.output}.{ending}") for ending in ("png", "json"))
    png.parent.mkdir(parents=True, exist_ok=True)
    stack([draw(explanation, photo) for explanation in found]).save(png)
    plain = [explanation.as_dict() for explanation in found]
    text.write_text(json.dumps(plain if given.all_methods else plain[0]) + "\n", encoding="utf-8")
    for explanation in found:
        print(f"{explanation.answer}  ({explanation.method}, {1000 * explanation.seconds:.0f} ms)")
        for word, relevance in zip(explanation.words, explanation.word_relevance, strict=True):
            print(f"{relevance:+10.3f}  {word}")
    print(f"{png}\n{text}")
