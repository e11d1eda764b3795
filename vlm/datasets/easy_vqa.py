"""easy-VQA: 64 x 64 pictures of one coloured shape each, from the PyPI package `easy-vqa`.

Victor Zhou, https://github.com/vzhou842/easy-VQA, MIT licence. 4,000 training and 1,000 test
pictures with 38,575 and 9,673 questions and 13 answers (the package's README).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from vlm.core.paths import as_path
from vlm.datasets.base import Dataset, Split
from vlm.datasets.readers.official import each_record
from vlm.datasets.table import DataError, question_table
from vlm.datasets.vocabulary import VocabularyRules

SHAPES = ("circle", "rectangle", "triangle")
COLORS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
ANSWERS = sorted([*COLORS, *SHAPES, "no", "yes"])


class EasyVQA(Dataset):
    """easy-VQA (`vlm.datasets.easy_vqa`), with a validation part cut from its training images.

    No size is checked: pip checks the package, and a folder in its layout may have any size.

    Args:
        root: folder of the data; None takes the installed package `easy-vqa`.
        validation_share: of the training images, held out where the set has no validation split.
        vocabulary: which words and answers the model knows.
        seed: of the choice of the images held out.

    Example:
        >>> data = vlm.datasets.EasyVQA()
        >>> data.read("test").num_rows
        9673
    """

    def __init__(
        self,
        root: Path | None = None,
        validation_share: float = 0.1,
        vocabulary: VocabularyRules = VocabularyRules(),
        seed: int = 0,
    ) -> None:
        super().__init__(validation_share, vocabulary, seed)
        self.root = None if root is None else as_path("root", root)

    def read(self, split: Split) -> pa.Table | None:
        return read_easy_vqa(split, self.root) if split in ("train", "test") else None


def read_easy_vqa(split: Literal["train", "test"], root: str | Path | None = None) -> pa.Table:
    """The questions of a split; `answer_type` is yes/no, shape or color.

    The choices of every question are the set's 13 answers, in alphabetical order.

    Args:
        split: which of the two official splits.
        root: folder with `train/` and `test/`; None takes the installed package's.

    Raises:
        FileNotFoundError: the package is not installed, or `root` is not such a folder.
        DataError: questions that cannot be read.
    """
    folder = (_package_folder() if root is None else Path(root)) / split
    source = folder / "questions.json"
    if not source.is_file():
        raise FileNotFoundError(f"{source}: there is no such file; expected easy-VQA's layout.")
    wanted = f"{source}: expected a JSON list of [question, answer, image number]"
    try:
        triples = list(json.loads(source.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise DataError(f"{wanted} ({error}).") from None

    def rows(number: int, triple: Any) -> Iterator[dict[str, Any]]:
        try:
            question, answer, image = triple
        except (TypeError, ValueError) as error:
            raise DataError(f"{wanted} (question {number}: {error}).") from None
        yield {
            "id": f"{split}-{number - 1}",
            "number": number,
            "image": str(folder / "images" / f"{image}.png"),
            "question": question,
            "answers": [answer],
            "answer_type": _answer_type(answer),
            "choices": ANSWERS,
        }

    return question_table(each_record(enumerate(triples, start=1), rows), str(source))


def _answer_type(answer: str) -> str:
    if answer in ("yes", "no"):
        return "yes/no"
    return "shape" if answer in SHAPES else "color"


def _package_folder() -> Path:
    spec = find_spec("easy_vqa")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "easy-VQA is not installed; install it with `pip install easy-vqa`."
        )
    return Path(spec.origin).parent / "data"
