"""Miniatures of all official sets, each with two records that a test can spoil."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import test_set_clevr as clevr
import test_set_coco_qa as coco_qa
import test_set_daquar as daquar
import test_set_gqa as gqa
import test_set_nlvr as nlvr
import test_set_nlvr2 as nlvr2
import test_set_path_vqa as path_vqa
import test_set_slake as slake
import test_set_visual7w as visual7w
import test_set_visual_genome as visual_genome
import test_set_vqa_rad as vqa_rad
import vqa_miniature as vqa
from custom_files import write_rows

from vlm.datasets.base import Split

QUESTIONS = "OpenEnded_mscoco_train2014_questions.json"
ANNOTATIONS = "mscoco_train2014_annotations.json"
WRONG = {"no": "text"}
"""Where any field wants something else."""


class Miniature(NamedTuple):
    """A miniature set and how to spoil two of its records.

    Attributes:
        write: writes the files of the set to a folder.
        reader: the name of its class.
        path: the file to spoil.
        spoil: makes two records of that file malformed, mostly the first and the last.
        split: the split that the file is read for.
    """

    write: Callable[[Path], object]
    reader: str
    path: str
    spoil: Callable[[Path], None]
    split: Split = "train"


def field(name: str, under: str | None = None) -> Callable[[Path], None]:
    """Spoils a field of two records in a JSON file that holds a list, or an object keyed by id."""

    def spoil(path: Path) -> None:
        content = json.loads(path.read_text())
        found = content if under is None else content[under]
        records = list(found.values()) if isinstance(found, dict) else found
        records[0][name] = records[-1][name] = WRONG
        path.write_text(json.dumps(content))

    return spoil


def pairs(path: Path) -> None:
    """Spoils two questions about one image of Visual7W."""
    content = json.loads(path.read_text())
    found = content["images"][0]["qa_pairs"]
    found[0]["answer"] = found[-1]["answer"] = WRONG
    path.write_text(json.dumps(content))


def genome_pairs(path: Path) -> None:
    """Spoils two questions about one image of Visual Genome."""
    content = json.loads(path.read_text())
    found = content[0]["qas"]
    found[0]["answer"] = found[-1]["answer"] = WRONG
    path.write_text(json.dumps(content))


def line_field(name: str) -> Callable[[Path], None]:
    """Spoils a field of two records in a JSON Lines file."""

    def spoil(path: Path) -> None:
        records = [json.loads(line) for line in path.read_text().splitlines()]
        records[0][name] = records[-1][name] = WRONG
        path.write_text("".join(json.dumps(record) + "\n" for record in records))

    return spoil


def replaced(old: str, new: str) -> Callable[[Path], None]:
    """Replaces a text that occurs exactly twice in the file."""

    def spoil(path: Path) -> None:
        assert path.read_text().count(old) == 2
        path.write_text(path.read_text().replace(old, new))

    return spoil


def path_vqa_rows(path: Path) -> None:
    rows = pq.read_table(path).to_pylist()
    rows[0]["answer"] = rows[-1]["answer"] = None
    path_vqa.save(path, rows)


def triples(path: Path) -> None:
    content = json.loads(path.read_text())
    content[0] = content[-1] = ["what color is it?", "red"]
    path.write_text(json.dumps(content))


def write_gqa(root: Path) -> None:
    for split in ("train", "val"):
        gqa.save(root / f"questions1.2/{split}_balanced_questions.json", gqa.VAL)


def write_gqa_ood(root: Path) -> None:
    for part in ("head", "tail"):
        records = {part + key: record for key, record in gqa.VAL.items()}
        gqa.save(root / f"gqa_ood/ood_testdev_{part}.json", records)


def write_clevr(root: Path) -> None:
    for split in ("train", "val"):
        records = [clevr.question(i, f, split) for i, f in enumerate(clevr.FUNCTIONS)]
        clevr.save(root, split, records)


def write_visual7w(root: Path) -> None:
    visual7w.save(root, train=list(map(visual7w.pair, range(5))), val=[visual7w.pair(7)])


def write_visual_genome(root: Path) -> None:
    visual_genome.save(root, list(map(visual_genome.pair, range(1, 5))))


def write_slake(root: Path) -> None:
    slake.save(root / "train.json", [slake.slake(5), slake.CHINESE, *map(slake.slake, (9, 11))])


def write_vqa_rad(root: Path) -> None:
    vqa_rad.save(root / vqa_rad.RAD_FILE, vqa_rad.RAD)


def write_path_vqa(root: Path) -> None:
    rows = [path_vqa.row(color, "yes") for color in ("red", "blue", "green")]
    path_vqa.save(root / "data/train-00000-of-00001.parquet", rows)


def write_daquar_lines(root: Path) -> None:
    row = {"image": "a.png", "question": "what is it?", "answers": ["cup"]}
    write_rows(root / "train.jsonl", [row | {"question_id": str(n)} for n in range(3)])


def write_easy_vqa(root: Path) -> None:
    (root / "train").mkdir()
    content = [["is it red?", "yes", number] for number in range(4)]
    (root / "train/questions.json").write_text(json.dumps(content))


def write_vqa_1(root: Path) -> None:
    vqa.write_mscoco(root, prefix="")


MINIATURES = {
    "vqa_v2 questions": Miniature(
        vqa.write_mscoco, "VQAv2", f"v2_{QUESTIONS}", field("question", "questions")
    ),
    "vqa_v2 images": Miniature(
        vqa.write_mscoco, "VQAv2", f"v2_{QUESTIONS}", field("image_id", "questions")
    ),
    "vqa_v2 annotations": Miniature(
        vqa.write_mscoco, "VQAv2", f"v2_{ANNOTATIONS}", field("answers", "annotations")
    ),
    "vqa_v2 types": Miniature(
        vqa.write_mscoco, "VQAv2", f"v2_{ANNOTATIONS}", field("answer_type", "annotations")
    ),
    "vqa_v1": Miniature(write_vqa_1, "VQAv1", QUESTIONS, field("question", "questions")),
    "vqa_cp": Miniature(
        vqa.write_vqa_cp, "VQACP", "vqacp_v2_train_questions.json", field("coco_split")
    ),
    "ok_vqa": Miniature(write_vqa_1, "OKVQA", ANNOTATIONS, field("answers", "annotations")),
    "tdiuc": Miniature(
        vqa.write_tdiuc, "TDIUC", f"Annotations/{ANNOTATIONS}", field("answers", "annotations")
    ),
    "a_okvqa": Miniature(
        vqa.write_a_okvqa, "AOKVQA", "aokvqa_v1p0_train.json", field("direct_answers")
    ),
    "vizwiz": Miniature(vqa.write_vizwiz, "VizWiz", "Annotations/train.json", field("answerable")),
    "text_vqa": Miniature(
        vqa.write_text_vqa, "TextVQA", "TextVQA_0.5.1_train.json", field("image_id", "data")
    ),
    "gqa": Miniature(
        write_gqa, "GQA", "questions1.2/train_balanced_questions.json", field("answer")
    ),
    "gqa facts": Miniature(
        write_gqa,
        "GQA",
        "questions1.2/val_balanced_questions.json",
        field("isBalanced"),
        "validation",
    ),
    "gqa_ood": Miniature(
        write_gqa_ood, "GQAOOD", "gqa_ood/ood_testdev_tail.json", field("types"), "test"
    ),
    "clevr": Miniature(
        write_clevr, "CLEVR", "questions/CLEVR_train_questions.json", field("program", "questions")
    ),
    "visual7w": Miniature(write_visual7w, "Visual7W", "dataset_v7w_telling.json", pairs),
    "visual_genome": Miniature(
        write_visual_genome, "VisualGenome", "question_answers.json", genome_pairs
    ),
    "slake": Miniature(write_slake, "SLAKE", "train.json", field("answer")),
    "vqa_rad": Miniature(write_vqa_rad, "VQARAD", vqa_rad.RAD_FILE, field("answer")),
    "path_vqa": Miniature(
        write_path_vqa, "PathVQA", "data/train-00000-of-00001.parquet", path_vqa_rows
    ),
    "coco_qa": Miniature(
        lambda root: coco_qa.write(root / "train", types=["3", "0", "3"]),
        "COCOQA",
        "train/types.txt",
        replaced("3", "9"),
    ),
    "daquar": Miniature(
        lambda root: daquar.write(root, daquar.QUESTIONS),
        "DAQUAR",
        "qa.894.raw.train.txt",
        replaced("image3 ?", "drawing ?"),
    ),
    "daquar lines": Miniature(write_daquar_lines, "DAQUAR", "train.jsonl", line_field("image")),
    "nlvr": Miniature(
        lambda root: nlvr.save(root, "train", nlvr.EXAMPLES),
        "NLVR",
        "train/train.json",
        line_field("sentence"),
    ),
    "nlvr2": Miniature(
        lambda root: nlvr2.save(root, "train", nlvr2.examples("train")),
        "NLVR2",
        "data/train.json",
        line_field("sentence"),
    ),
    "easy_vqa": Miniature(write_easy_vqa, "EasyVQA", "train/questions.json", triples),
}
