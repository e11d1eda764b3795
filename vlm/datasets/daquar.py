"""DAQUAR: human questions about indoor images of NYU Depth v2.

Malinowski and Fritz, "A Multi-World Approach to Question Answering about Real-World Scenes based on
Uncertain Input", NeurIPS 2014.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa

from vlm.datasets.official import OfficialDataset
from vlm.datasets.readers.json_file import read_json_lines
from vlm.datasets.readers.official import Rows, each_record, fields, official_file, text_lines
from vlm.datasets.table import DataError, question_table
from vlm.datasets.vocabulary import VocabularyRules
from vlm.metrics import mean_wups

# Every question names its image, most of them at the end: "what is on the desk in the image3 ?"
_IMAGE = re.compile(r"\bimage\s?(\d+)\b")
_AT_THE_END = re.compile(r"\s+(?:(?:in|of|on)\s+)?(?:the\s+)?image\s?\d+\s*(?=\?*\s*$)")
_COLOR = re.compile(
    "black|blue|brown|cream|gray|green|orange|pink|purple|red|white|yellow"  # those that occur
)


class DAQUAR(OfficialDataset):
    """DAQUAR, full or with 37 object classes; validation is split off from the training images.

    An answer may be several objects, whose order does not count in the paper's measure. Here they
    are one answer in alphabetical order ("chair, table"), and a prediction is right if it names the
    same objects in any order. The report has a line for each kind of answer (number, color,
    object), and for questions with one answer and with several: SAN (arXiv 1511.02274, section 4.1)
    is scored on those with one, 5,076 of 5,673. The words at a question's end that name the image
    are removed. WUPS, the paper's measure, is given at 0.9 and 0 if WordNet is installed
    (`vlm.metrics.wordnet`).

    The full set has 6,795 + 5,673 questions, the reduced one 3,876 + 297, in the files of the site;
    the paper counts 6,794 + 5,674, so no size is checked.

    Args:
        root: folder with the site's text files, and its images in `nyu_depth_images/`; or with
            `train.jsonl` and `test.jsonl` (`train_reduced37.jsonl`, ...), each line an object with
            `question_id`, `image` (a path in the folder), `question` and `answers`, the list of the
            answer's objects.
        part: whether to use all classes, or 37.
        validation_share, vocabulary, seed: held-out share, vocabulary rules and seed, as for
            `Dataset`.

    Example:
        >>> data = vlm.datasets.DAQUAR(root="daquar")
        >>> data.read("train").column_names[:4]
        ['id', 'image', 'question', 'answers']
    """

    get = (
        "Get qa.894.raw.train.txt, qa.894.raw.test.txt (the full set), qa.37.raw.train.txt, "
        "qa.37.raw.test.txt (37 classes) and nyu_depth_images.tar from https://www.mpi-inf.mpg.de/"
        "departments/computer-vision-and-machine-learning/research/vision-and-language/"
        "visual-turing-challenge."
    )
    parts: ClassVar = {"train": "train", "test": "test"}

    def __init__(
        self,
        root: Path,
        part: Literal["full", "reduced37"] = "full",
        validation_share: float = 0.1,
        vocabulary: VocabularyRules = VocabularyRules(),
        seed: int = 0,
    ) -> None:
        super().__init__(root, validation_share, vocabulary, seed)
        self.part = part

    def read_part(self, part: str) -> pa.Table:
        lines = self.root / f"{part}{'' if self.part == 'full' else '_reduced37'}.jsonl"
        if lines.is_file():
            return question_table(_json_rows(lines), str(lines))
        classes = 894 if self.part == "full" else 37
        path = official_file(self.root / f"qa.{classes}.raw.{part}.txt", self.get)
        return question_table(_text_rows(path, part), str(path))

    def score(self, prediction: str, answers: Sequence[str]) -> float:
        return float(_join(prediction.split(",")) == answers[0])

    def summarize(
        self, table: pa.Table, predictions: Sequence[str], scores: Sequence[float]
    ) -> dict[str, float]:
        return mean_wups(predictions, [answer for (answer,) in table["answers"].to_pylist()])


def _text_rows(path: Path, split: str) -> Rows:
    lines = text_lines(path)
    while lines and not lines[-1]:
        lines.pop()

    def rows(line: int, question: str) -> Rows:
        names = _IMAGE.findall(question)
        answer = lines[line] if line < len(lines) else ""
        if not names or not answer:
            raise DataError(
                f"{path}, line {line}: got {question[:80]!r} and the answer {answer[:80]!r}; "
                f"expected a question that names its image (image3), and its answer below."
            )
        yield _row(
            f"{path}, line {line}",
            f"{split}-{line // 2}",
            path.parent / "nyu_depth_images" / f"image{names[-1]}.png",
            _AT_THE_END.sub(" ", question).strip(),
            answer.split(","),
        )

    # A question and its answer take two lines.
    return each_record(zip(range(1, len(lines) + 1, 2), lines[::2], strict=True), rows)


def _json_rows(path: Path) -> Rows:
    def rows(line: int, record: dict[str, Any]) -> Rows:
        key, image, question, parts = fields(
            record, path, line, question_id=str, image=str, question=str, answers=list
        )
        if not parts or not all(isinstance(part, str) for part in parts):
            raise DataError(f"{path}, line {line}: got the answers {parts!r}; expected texts.")
        yield _row(f"{path}, line {line}", key, path.parent / image, question, parts)

    return each_record(read_json_lines(path), rows)


def _row(place: str, key: str, image: Path, question: str, parts: Sequence[str]) -> dict[str, Any]:
    return {
        "place": place,
        "id": key,
        "image": str(image),
        "question": question,
        "answers": [_join(parts)],
        "answer_type": _kind([part.strip() for part in parts]),
        "question_type": "one answer" if len(parts) == 1 else "several answers",
    }


def _join(parts: Sequence[str]) -> str:
    return ", ".join(sorted({part.strip() for part in parts}))


def _kind(parts: Sequence[str]) -> str:
    if all(part.isdigit() for part in parts):
        return "number"
    return "color" if all(_COLOR.fullmatch(part) for part in parts) else "object"
