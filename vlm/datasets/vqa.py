"""VQA v1 and v2 on COCO's images, and VQA-CP, which splits them anew."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import pyarrow as pa

from vlm.datasets.base import Split
from vlm.datasets.official import OfficialDatasetWithImages
from vlm.datasets.readers.official import fields, json_file
from vlm.datasets.readers.vqa_format import Record, coco_image, read_mscoco, read_vqa
from vlm.datasets.table import joined
from vlm.datasets.table_cache import cached
from vlm.datasets.vocabulary import VocabularyRules

COCO_IMAGES = "the images (COCO 2014 and 2015) from https://cocodataset.org/#download."
"""End of a sentence that says where a set comes from."""


class _VQA(OfficialDatasetWithImages):
    """Their files differ in name alone.

    Args:
        train_on: "train+val" for the test server: validation is then a part of its images.
        test: which questions `predict` answers, those of test-dev or all of the test set.
    """

    prefix: ClassVar[str]

    def __init__(
        self,
        root: Path,
        images: Path | None = None,
        train_on: Literal["train", "train+val"] = "train",
        test: Literal["test-dev", "test"] = "test-dev",
        validation_share: float = 0.1,
        vocabulary: VocabularyRules = VocabularyRules(),
        seed: int = 0,
    ) -> None:
        super().__init__(root, images, validation_share, vocabulary, seed)
        self.train_on, self.test = train_on, test

    def read(self, split: Split) -> pa.Table | None:
        if split == "train":
            parts = ["train2014", "val2014"] if self.train_on == "train+val" else ["train2014"]
            return joined([self.checked_part(part) for part in parts])
        if split == "validation":
            return self.checked_part("val2014") if self.train_on == "train" else None
        return self.checked_part(f"{self.test}2015") if split == "test" else None

    @cached
    def read_part(self, part: str) -> pa.Table:
        return read_mscoco(self.root, part, self.images, self.get, self.prefix)


class VQAv2(_VQA):
    """VQA v2 (Goyal et al., "Making the V in VQA Matter", CVPR 2017): ten answers per question.

    From https://visualqa.org/download.html; its files in `root` as they unpack, plain or with
    `.gz`:

        v2_OpenEnded_mscoco_{train2014,val2014,test-dev2015,test2015}_questions.json
        v2_mscoco_{train2014,val2014}_annotations.json
        train2014/COCO_train2014_000000000009.jpg, and so on for val2014 and test2015

    The test questions have no published answers: `predict` answers them, `vlm submit` writes the
    file for EvalAI. Metric: VQA accuracy, by answer type (yes/no, number, other) and by question
    type.

    Example:
        >>> data = vlm.datasets.VQAv2(root="vqa_v2")
        >>> data.read("train").column_names[:4]
        ['id', 'image', 'question', 'answers']
    """

    prefix = "v2_"
    cited = "https://visualqa.org/download.html"
    get = (
        f"VQA v2: questions and annotations from {cited}, {COCO_IMAGES} "
        "`vlm download vqa_v2 --to data/` gets them."
    )
    sizes: ClassVar = {"train2014": 443_757, "val2014": 214_354, "test2015": 447_793}


class VQAv1(_VQA):
    """VQA v1 on real images (Antol et al., "VQA: Visual Question Answering", ICCV 2015).

    From https://visualqa.org/vqa_v1_download.html; as `VQAv2`, without `v2_` in the names:

        OpenEnded_mscoco_{train2014,val2014,test-dev2015,test2015}_questions.json
        mscoco_{train2014,val2014}_annotations.json

    The open-ended task. Metric: as for `VQAv2`.

    Example:
        >>> data = vlm.datasets.VQAv1(root="vqa_v1")
        >>> data.read("train").column_names[:4]
        ['id', 'image', 'question', 'answers']
    """

    prefix = ""
    cited = "https://visualqa.org/vqa_v1_download.html"
    get = (
        f"VQA v1: questions and annotations from {cited}, {COCO_IMAGES} "
        "`vlm download vqa_v1 --to data/` gets them."
    )
    sizes: ClassVar = {"train2014": 248_349, "val2014": 121_512, "test2015": 244_302}


class VQACP(OfficialDatasetWithImages):
    """VQA-CP (Agrawal et al., "Don't Just Assume; Look and Answer", CVPR 2018).

    VQA's training and validation questions, split again so that the answers to a type of question
    have another distribution in test than in training. From
    https://computing.ece.vt.edu/~aish/vqacp/; its files in `root`:

        vqacp_v2_{train,test}_{questions,annotations}.json, or vqacp_v1_...
        train2014/COCO_train2014_000000000009.jpg, and so on for val2014

    There is no official validation split; one is split off from the training images, so its answers
    are distributed as in training. Metric: VQA accuracy, by answer type. No size is checked: the
    paper gives rounded numbers.

    Args:
        root: folder with the files of questions and annotations.
        images: folder that contains the image folders; None if they are in `root`.
        version: version of VQA-CP.
        validation_share, vocabulary, seed: held-out share, vocabulary rules and seed, as for
            `Dataset`.

    Example:
        >>> data = vlm.datasets.VQACP(root="vqa_cp")
        >>> data.read("train").column_names[:4]
        ['id', 'image', 'question', 'answers']
    """

    shared_images = True  # it is questions that were split
    get = (
        "VQA-CP: questions and annotations from https://computing.ece.vt.edu/~aish/vqacp/, "
        + COCO_IMAGES
    )
    parts: ClassVar = {"train": "train", "test": "test"}

    def __init__(
        self,
        root: Path,
        images: Path | None = None,
        version: Literal["v1", "v2"] = "v2",
        validation_share: float = 0.1,
        vocabulary: VocabularyRules = VocabularyRules(),
        seed: int = 0,
    ) -> None:
        super().__init__(root, images, validation_share, vocabulary, seed)
        self.version = version

    @cached
    def read_part(self, part: str) -> pa.Table:
        questions, annotations = (
            json_file(self.root / f"vqacp_{self.version}_{part}_{kind}.json", self.get)
            for kind in ("questions", "annotations")
        )

        def image(question: Record) -> str:
            (coco,) = fields(question, questions, question["question_id"], coco_split=str)
            return coco_image(self.images, coco, question, questions)

        return read_vqa(questions, annotations, image)
