"""easy-VQA: 64 x 64 images of one coloured shape each, from the PyPI package `easy-vqa`.

Victor Zhou, https://github.com/vzhou842/easy-VQA, MIT licence. 4,000 training and 1,000 test
images with 38,575 and 9,673 questions and 13 answers (the package's README).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa

from vlm.core.paths import as_path
from vlm.core.validation import shorten
from vlm.datasets.base import Dataset, Split
from vlm.datasets.readers.official import Rows, json_records, official_file, records_table
from vlm.datasets.table import DataError
from vlm.datasets.vocabulary import VocabularyRules

SHAPES = ("circle", "rectangle", "triangle")
COLORS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
ANSWERS = sorted([*COLORS, *SHAPES, "no", "yes"])


class EasyVQA(Dataset):
    """easy-VQA (`vlm.datasets.easy_vqa`), with validation split off from its training images.

    No size is checked: pip checks the package, and a folder in its layout may have any size.

    Args:
        root: folder with the data; None for the installed package `easy-vqa`.
        validation_share, vocabulary, seed: held-out share, vocabulary rules and seed, as for
            `Dataset`.

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
        """Questions of a split: `answer_type` is yes/no, shape or color; the choices are the set's
        13 answers.

        Raises:
            FileNotFoundError: the package is not installed, or `root` has no such file.
            DataError: questions that cannot be read.
        """
        if split not in ("train", "test"):
            return None
        folder = (_package_folder() if self.root is None else self.root) / split
        source = official_file(folder / "questions.json", "Expected easy-VQA's layout.")

        def rows(number: int, triple: Any) -> Rows:
            if not isinstance(triple, list) or len(triple) != 3:
                raise DataError(
                    f"{source}, question {number}: got {shorten(triple)}; expected "
                    f"[question, answer, image number]."
                )
            question, answer, image = triple
            yield {
                "id": f"{split}-{number - 1}",
                "number": number,
                "image": str(folder / "images" / f"{image}.png"),
                "question": question,
                "answers": [answer],
                "answer_type": _answer_type(answer),
                "choices": ANSWERS,
            }

        return records_table(json_records(source, "questions"), rows, source)


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
