"""A data set and the answers to its questions as one page to look through, for people."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from vlm.core.files import write_whole
from vlm.core.terminal import track
from vlm.core.validation import check_positive, counted
from vlm.datasets.base import Dataset, ImageSource, Score, Split
from vlm.datasets.errors import DataError
from vlm.datasets.several import different_images, images_of
from vlm.evaluation.predictions import read_predictions
from vlm.evaluation.results import Prediction
from vlm.image.as_text import in_words
from vlm.image.load import ImageError, load_image

TEMPLATE = Path(__file__).parent / "assets/browse.html"
SIDE = 192
"""Longer side of an image on the page, in pixels."""
LIMIT = 5000
"""Questions of a page, unless more are asked for: about 15 MB."""


def browse(
    dataset: Dataset,
    split: Split = "test",
    predictions: Sequence[str | Path] = (),
    output: str | Path = "browse.html",
    limit: int = LIMIT,
    seed: int = 0,
    maps: str | Path | None = None,
    source: ImageSource | None = None,
) -> list[str]:
    """Write a page that filters, sorts and searches questions with their images and predictions.

    The page is one file, with small copies of the images, and needs no network.

    Args:
        dataset: data set to look at.
        split: split of the data set.
        predictions: files of answers, in the formats of `vlm.evaluation.predictions`; a question
            may lack an answer.
        output: file to write.
        limit: most questions on the page; of more, a random sample is taken.
        seed: seed of the sample.
        maps: folder with a transparent PNG file, such as `vlm.explain.overlay` makes, for some of
            the questions, named by their ids (percent-encoded where a file name must be).
        source: where images come from; None for the data set's own place.

    Returns:
        What is on the page and what is not, a sentence each; the page says it too.

    Raises:
        FileNotFoundError: there is no such file of answers.
        DataError: the data cannot be read, a file of answers does not fit them, or `maps` is no
            folder.

    Example:
        >>> from vlm.evaluation.browse import browse
        >>> said = browse(vlm.datasets.EasyVQA(), limit=3, output="browse.html")
        >>> said[0]
        'A random sample of 3 of the 9,673 test questions (seed 0).'
    """
    check_positive(limit=limit)
    if maps is not None and not Path(maps).is_dir():
        raise DataError(f"maps: got {maps}; expected a folder of PNG files named by question id.")
    table = dataset.table(split)
    if not len(table):
        raise DataError(f"{type(dataset).__name__}: its {split} split has no questions.")
    said = [f"All {counted(len(table), f'{split} question')}."]
    files = [
        (Path(path), read_predictions(path, table, split, partial=True)) for path in predictions
    ]
    for path, read in files:
        known = [p.calibrated for p in read.by_id.values() if p.probability is not None]
        worth = f"; its probabilities are {'' if all(known) else 'not '}calibrated" if known else ""
        said.append(
            f"{path}: {read.matched}; it answers {len(read.by_id):,} of {len(table):,} questions"
            f"{worth}."
        )
    if len(table) > limit:
        said[0] = (
            f"A random sample of {limit:,} of the {len(table):,} {split} questions (seed {seed})."
        )
        chosen = np.random.default_rng(seed).choice(len(table), limit, replace=False)
        table = table.take(np.sort(chosen))
    names = different_images(table["image"]).to_pylist()
    numbers = {name: row for row, name in enumerate(names)}
    images, broken = _thumbnails(numbers, source or dataset.image_source)
    if broken:
        said.append(f"{counted(len(broken), 'image')} cannot be read; the first: {broken[0]}")
    answers = [read.by_id for _, read in files]
    rows = table.to_pylist()
    if (
        len({tuple(row["choices"] or ()) for row in rows}) == 1
    ):  # they tell no question from another
        rows = [row | {"choices": None} for row in rows]
    content = {
        "title": f"{type(dataset).__name__}, {split}",
        "said": said,
        "files": _names([path for path, _ in files]),
        "images": images,
        "rows": [
            _row(row, numbers, answers, score, maps)
            for score, row in zip(dataset.scoring(table), rows, strict=False)
        ],
    }
    page = TEMPLATE.read_text(encoding="utf-8").replace("{{content}}", _inert(content))
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    write_whole(Path(output), page.encode())
    return said


def _row(
    row: dict[str, Any],
    numbers: dict[str, int],
    answers: Sequence[dict[str, Prediction]],
    score_of: Score,
    maps: str | Path | None,
) -> dict[str, Any]:
    given = row["answers"]
    found: list[list[Any] | None] = []
    for each in answers:
        said = each.get(row["id"])
        if said is None:
            found.append(None)
            continue
        score = None if given is None else round(score_of(said.answer, given), 4)
        share = None if said.probability is None else round(said.probability, 4)
        found.append([in_words(said.answer), share, score])
    images = [numbers[name] for name in images_of(row["image"])]
    drawn = None if maps is None else Path(maps) / f"{quote(row['id'], safe=' ')}.png"
    if len(images) > 1:  # a map is of one
        drawn = None
    return {
        "id": row["id"],
        "images": images,
        "question": row["question"],
        "types": [row["answer_type"], row["question_type"]],
        "answers": None if given is None else Counter(map(in_words, given)).most_common(),
        "choices": row["choices"],
        "said": found,
        "map": None if drawn is None or not drawn.is_file() else _url(drawn.read_bytes(), "png"),
    }


def _thumbnails(
    names: Iterable[str], source: ImageSource | None
) -> tuple[list[str | None], list[str]]:
    """A small copy of each image as a data: URL, or None; and what is wrong with those."""
    found: list[str | None] = []
    broken: list[str] = []
    for name in track(list(names), "Reading images"):
        try:
            image = load_image(source(name) if source else name, enough=(SIDE, SIDE))
        except ImageError as error:
            found.append(None)
            broken.append(str(error))
            continue
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        buffer = BytesIO()
        # Small drawings lose their colours in JPEG, photos weigh too much in PNG.
        kind = "png" if max(image.size) < 128 else "jpeg"
        image.convert("RGB").save(buffer, kind, quality=80, optimize=True)
        found.append(_url(buffer.getvalue(), kind))
    return found, broken


def _names(paths: Sequence[Path]) -> list[str]:
    """Files' names, with as many folders as tell them apart."""
    for parts in range(1, max((len(path.parts) for path in paths), default=1) + 1):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{number}: {path}" for number, path in enumerate(paths, 1)]


def _url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _inert(content: Any) -> str:
    """JSON that cannot end the script element that holds it, whatever strangers wrote."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text
