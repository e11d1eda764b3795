"""Visual Genome's questions, mostly used to train on beside VQA v2.

Krishna et al., "Visual Genome: Connecting Language and Vision Using Crowdsourced Dense Image
Annotations", IJCV 2017.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pyarrow as pa

from vlm.core.paths import as_path
from vlm.datasets.official import OfficialDatasetWithImages
from vlm.datasets.readers.annotations import merged
from vlm.datasets.readers.json_file import read_json
from vlm.datasets.readers.official import Rows, each_record, fields, json_file, json_records
from vlm.datasets.table import DataError, question_table
from vlm.datasets.table_cache import cached
from vlm.datasets.vocabulary import VocabularyRules


class VisualGenome(OfficialDatasetWithImages):
    """Visual Genome's 1.7 million questions about 108,077 images, each with one answer.

    From https://homes.cs.washington.edu/~ranjay/visualgenome/api.html, version 1.2; in `root`:

        question_answers.json and image_data.json, as they unpack, plain or with `.gz`
        VG_100K/1.jpg and VG_100K_2/2.jpg, and so on

    The set has no splits: validation is split off from its images, and there is no test. Answers
    are read in lower case and without a full stop ("Blue." is "blue"), so they can match those of
    VQA v2. Metric: accuracy of the answer in that form. The report has a line for each first word
    of a question. No size is checked: the site names none for this version.

    Half of the images are also in COCO. With `coco_questions`, only these are read, under COCO's
    names, so region features of COCO serve both sets. BAN (arXiv 1805.07932) and MCAN (arXiv
    1906.10770) add the set to VQA v2 in this way; use it as an auxiliary set of a `Mixture`.

    Args:
        root: folder with the two files.
        images: folder with `VG_100K` and `VG_100K_2`, or, with `coco_questions`, with COCO's
            `train2014` and `val2014`; None if they are in `root`.
        coco_questions: files of questions in VQA's format; only the images that they ask about are
            read. Name only files of training questions, or the model would train on validation
            images.
        validation_share, vocabulary, seed: held-out share, vocabulary rules and seed, as for
            `Dataset`.

    Example:
        >>> data = vlm.datasets.VisualGenome(root="visual_genome")
        >>> data.read("train").column_names[:4]
        ['id', 'image', 'question', 'answers']
    """

    get = (
        "Visual Genome 1.2: question_answers.json.zip, image_data.json.zip and the images from "
        "https://homes.cs.washington.edu/~ranjay/visualgenome/api.html."
    )
    parts: ClassVar = {"train": "train"}
    types: ClassVar = "question_type"

    def __init__(
        self,
        root: Path,
        images: Path | None = None,
        coco_questions: list[Path] | None = None,
        validation_share: float = 0.1,
        vocabulary: VocabularyRules = VocabularyRules(),
        seed: int = 0,
    ) -> None:
        super().__init__(root, images, validation_share, vocabulary, seed)
        self.coco_questions = None
        if coco_questions is not None:
            self.coco_questions = [as_path("coco_questions", path) for path in coco_questions]

    @cached
    def read_part(self, part: str) -> pa.Table:
        path = json_file(self.root / "question_answers.json", self.get)
        images = self._images()

        def pairs(number: int, record: Any) -> Iterator[tuple[tuple[int, int], Any]]:
            image, given = fields(record, path, f"image {number}", id=int, qas=list)
            for place, pair in enumerate(given, start=1):
                yield (number, place), (image, pair)

        def rows(which: tuple[int, int], source: tuple[int, Any]) -> Rows:
            (number, place), (image, pair) = which, source
            name = f"image {number}, pair {place}"
            key, question, answer = fields(pair, path, name, qa_id=int, question=str, answer=str)
            if image not in images:
                raise DataError(
                    f"{path}, {name}: got the image {image}; expected one of image_data.json. Take "
                    "both files of the same version."
                )
            if (file := images[image]) is not None:
                yield {
                    "id": str(key),
                    "place": f"{path}, {name}",
                    "image": file,
                    "question": question,
                    "answers": [merged(answer.strip())],
                    "question_type": next(iter(question.lower().split()), None),
                }

        records = json_records(path, "images", _without_objects)
        found = each_record(enumerate(records, start=1), pairs)
        return question_table(each_record(found, rows), str(path))

    def score(self, prediction: str, answers: Sequence[str]) -> float:
        return float(merged(prediction.strip()) == answers[0])

    def _images(self) -> dict[int, str | None]:
        """The file of each image; None for one that is not to be read."""
        path = json_file(self.root / "image_data.json", self.get)
        coco = self._coco_images()

        def files(number: int, record: Any) -> Iterator[tuple[int, str | None]]:
            image, url, of_coco = fields(
                record, path, f"image {number}", image_id=int, url=str, coco_id=int | None
            )
            # Of "https://cs.stanford.edu/people/rak248/VG_100K_2/1.jpg" folder and name.
            own = "/".join(PurePosixPath(urlsplit(url).path).parts[-2:])
            yield image, f"{self.images}/{own}" if coco is None else coco.get(of_coco)

        return dict(each_record(enumerate(json_records(path, "images"), start=1), files))

    def _coco_images(self) -> dict[int | None, str] | None:
        if self.coco_questions is None:
            return None
        found: dict[int | None, str] = {}
        for path in self.coco_questions:
            content = read_json(json_file(path, "It is one of VQA v2's files of questions."))
            (part, records) = fields(content, path, "all", data_subtype=str, questions=list)
            for number, record in enumerate(records, start=1):
                (image,) = fields(record, path, number, image_id=int)
                found[image] = f"{self.images}/{part}/COCO_{part}_{image:012d}.jpg"
        return found


def _without_objects(record: dict[str, Any]) -> dict[str, Any]:
    """A record without the objects of its texts, which are most of the file."""
    return {name: value for name, value in record.items() if not name.endswith("_objects")}
