"""Training stops at the first malformed record of an official file; a check lists them all."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import test_set_vqa_rad as vqa_rad
import vqa_miniature as vqa
from conftest import ROOT
from spoilt_miniatures import ANNOTATIONS, MINIATURES, QUESTIONS, write_vqa_rad

from vlm import datasets as sets
from vlm.cli.main import main
from vlm.data import VQADataModule
from vlm.data.check.check import check_data
from vlm.datasets.base import Dataset
from vlm.datasets.errors import DataError, Problems, collecting

pytestmark = pytest.mark.filterwarnings("ignore:.*unless it was shortened on purpose")

SEVERAL = {"nlvr": 6}
"""Questions of one record, where that is not one."""


@pytest.mark.parametrize("name", MINIATURES)
def test_every_malformed_record_is_reported_and_the_others_are_read(
    name: str, tmp_path: Path
) -> None:
    mini = MINIATURES[name]
    mini.write(tmp_path)
    data: Dataset = getattr(sets, mini.reader)(root=tmp_path)
    whole = data.read(mini.split)
    assert whole is not None
    mini.spoil(tmp_path / mini.path)

    with pytest.raises(DataError) as first:
        data.read(mini.split)
    problems = Problems(10)
    with collecting(problems):
        left = data.read(mini.split)
    assert problems.counts == {"malformed record": 2}
    assert problems.kept["malformed record"][0] == str(first.value)
    assert left is not None
    ids = set(left["id"].to_pylist())
    assert len(ids) == len(whole) - 2 * SEVERAL.get(name, 1) > 0
    # The remaining rows are unchanged and in order, with the numbers of the whole file.
    kept = [row for row in whole.to_pylist() if row["id"] in ids]
    assert [_without_image(row) for row in left.to_pylist()] == list(map(_without_image, kept))


def _without_image(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "image"}


SETS = {
    "VQAv2": ("vqa_v2 questions", "vqa_v2 annotations"),
    "GQA": ("gqa", "gqa facts"),
    "CLEVR": ("clevr",),
    "Visual7W": ("visual7w",),
}


@pytest.mark.parametrize("reader", SETS)
def test_the_command_names_them_and_gives_the_figures_of_the_rest(
    reader: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "set"
    root.mkdir()
    minis = [MINIATURES[name] for name in SETS[reader]]
    minis[0].write(root)
    if reader == "CLEVR":
        (root / "questions/CLEVR_test_questions.json").write_text('{"questions": []}')
    if reader == "GQA":
        (root / "questions1.2/testdev_balanced_questions.json").write_text("{}")
    for mini in minis:
        mini.spoil(root / mini.path)
    with pytest.raises(SystemExit) as stopped:
        main(
            [
                "check-data",
                str(ROOT / "configs/easy_vqa.yaml"),
                f"--dataset=vlm.datasets.{reader}",
                f"--dataset.root={root}",
                "--no-images",
                f"--output={tmp_path / 'out'}",
            ]
        )
    said = capsys.readouterr().out
    assert stopped.value.code == 1
    assert f"error: malformed record ({2 * len(minis)})" in said
    for mini in minis:
        assert len(re.findall(rf"^  {root / mini.path}, question", said, re.MULTILINE)) == 2
    assert "without an annotation" not in said
    assert "ceiling %" in said
    found = json.loads((tmp_path / "out/check.json").read_text())
    assert 0 <= found["splits"]["validation"]["majority"] <= 1


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return vqa.write_mscoco(tmp_path, ("train2014", "val2014"), prefix="")


def test_numbers_are_those_of_the_file(root: Path) -> None:
    """Record numbers include earlier malformed records and questions without an annotation."""
    questions, annotations = root / QUESTIONS, root / ANNOTATIONS
    content = json.loads(questions.read_text())
    content["questions"][1]["question"] = None
    content["questions"][6]["question"] = " "
    questions.write_text(json.dumps(content))
    content = json.loads(annotations.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["question_id"] != 101000]
    annotations.write_text(json.dumps(content))
    problems = Problems(10)
    with collecting(problems):
        assert len(sets.OKVQA(root).read("train") or ()) == 15
    assert problems.counts == {
        "malformed record": 1,
        "questions and annotations": 1,
        "empty question": 1,
    }
    (said,) = problems.kept["empty question"]
    assert f"{QUESTIONS}, question 7 (id '103000'): got the question ' '" in said


def test_the_size_is_that_of_what_can_be_used(root: Path) -> None:
    MINIATURES["ok_vqa"].spoil(root / ANNOTATIONS)
    wanted = r"got 16 questions that can be used; arXiv:1906\.00067 gives 9,009"
    with collecting(Problems(10)), pytest.warns(UserWarning, match=wanted):
        sets.OKVQA(root).read("train")


def test_a_problem_of_a_file_read_for_two_splits_counts_once(root: Path) -> None:
    """A problem counts once even if the training file is read again to cut the validation set."""
    MINIATURES["vqa_v1"].spoil(root / QUESTIONS)
    content = (root / ANNOTATIONS).read_text()
    (root / ANNOTATIONS).write_text(content[: len(content) // 2])
    found = check_data(VQADataModule(sets.OKVQA(root)), images=False)
    assert found.errors.counts == {"malformed record": 2, "unreadable data": 1}

    # VQA-RAD has both splits in one file.
    write_vqa_rad(root)
    MINIATURES["vqa_rad"].spoil(root / vqa_rad.RAD_FILE)
    found = check_data(VQADataModule(sets.VQARAD(root)), images=False)
    assert found.errors.counts["malformed record"] == 2


def test_the_same_mistakes_in_two_splits_are_told_apart(root: Path) -> None:
    for part in ("train2014", "val2014"):
        MINIATURES["vqa_v1"].spoil(root / QUESTIONS.replace("train2014", part))
    found = check_data(VQADataModule(sets.OKVQA(root)), images=False)
    assert found.errors.counts["malformed record"] == 4
