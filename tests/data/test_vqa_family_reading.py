"""The sets in VQA's format are read from miniatures in their official layouts."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path

import pytest
from vqa_miniature import (
    PHOTOS,
    annotation,
    asked_and_answered,
    question,
    save,
    write_a_okvqa,
    write_mscoco,
    write_tdiuc,
    write_text_vqa,
    write_vizwiz,
    write_vqa_cp,
)

from vlm.datasets import AOKVQA, OKVQA, TDIUC, VQACP, Dataset, TextVQA, VizWiz, VQAv1, VQAv2

pytestmark = pytest.mark.filterwarnings("ignore:.*Get the file again, unless it was shortened")


def column(data: Dataset, split: str, name: str) -> list:
    return data.table(split)[name].to_pylist()


def test_vqa_v2_joins_questions_and_annotations_by_id(tmp_path: Path) -> None:
    data = VQAv2(write_mscoco(tmp_path))
    for split, part in (("train", "train2014"), ("validation", "val2014")):
        rows = data.table(split).to_pylist()
        questions, annotations = asked_and_answered(part)
        assert len(rows) == 2 * PHOTOS[part]
        for row, asked, known in zip(rows, questions, annotations, strict=True):
            assert row["id"] == str(asked["question_id"])
            assert row["question"] == asked["question"]
            name = f"COCO_{part}_{asked['image_id']:012d}.jpg"
            assert row["image"] == str(tmp_path / part / name)
            assert row["answers"] == [given["answer"] for given in known["answers"]]
            assert row["answer_type"] == known["answer_type"]
            assert row["question_type"] == known["question_type"]
            assert row["group"] is None
    assert column(data, "train", "id")[0] == "100000"


@pytest.mark.parametrize("test", ["test-dev", "test"])
def test_vqa_v2_test_questions_have_no_answers_and_the_photos_of_test2015(
    test: str, tmp_path: Path
) -> None:
    root = write_mscoco(tmp_path / "questions", ("train2014", "val2014", f"{test}2015"))
    data = VQAv2(root, images=tmp_path / "photos", test=test)
    table = data.table("predict")
    assert table["answers"].null_count == len(table) == 6
    name = f"{tmp_path}/photos/test2015/COCO_test2015_000000000300.jpg"
    assert table["image"][0].as_py() == name
    with pytest.raises(ValueError, match=r"VQAv2: got 6 of the 6 test questions without answers.*"):
        data.check_answers("test")
    data.check_answers("validation")


def test_train_and_val_together_hold_out_a_part_by_image(tmp_path: Path) -> None:
    data = VQAv2(write_mscoco(tmp_path), train_on="train+val", validation_share=0.25)
    train, held_out = (set(column(data, split, "image")) for split in ("train", "validation"))
    assert not train & held_out
    assert len(train) + len(held_out) == 14
    assert {Path(image).parent.name for image in train} == {"train2014", "val2014"}
    assert len(column(data, "train", "id") + column(data, "validation", "id")) == 28


def test_packed_files_are_read_too(tmp_path: Path) -> None:
    write_mscoco(tmp_path)
    plain = VQAv2(tmp_path).table("train")
    for path in tmp_path.glob("*.json"):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert VQAv2(tmp_path).table("train").equals(plain)


def test_the_files_choice_among_equal_answers_comes_first(tmp_path: Path) -> None:
    asked = [question(5, 0), question(5, 1)]
    tie = ["cup"] * 5 + ["mug"] * 5
    known = [
        annotation(asked[0], tie, multiple_choice_answer="mug"),
        annotation(asked[1], tie, multiple_choice_answer="cup"),
    ]
    save(tmp_path / "v2_OpenEnded_mscoco_train2014_questions.json", {"questions": asked})
    save(tmp_path / "v2_mscoco_train2014_annotations.json", {"annotations": known})
    write_mscoco(tmp_path, ("val2014",))
    data = VQAv2(tmp_path)
    assert column(data, "train", "answers") == [["mug"] * 5 + ["cup"] * 5, tie]
    assert data.answers == ["cup", "mug"]


def test_another_size_than_published_is_warned_about(tmp_path: Path) -> None:
    data = VQAv2(write_mscoco(tmp_path))
    wanted = r"val2014_questions.json: got 10 questions; https://visualqa.org/download.html gives 2"
    with pytest.warns(UserWarning, match=wanted):
        data.read("validation")


def test_vqa_v1_has_names_of_its_own(tmp_path: Path) -> None:
    write_mscoco(tmp_path, prefix="")
    data = VQAv1(tmp_path)
    assert column(data, "train", "id")[:2] == ["100000", "100001"]
    assert len(data.table("validation")) == 10
    assert data.table("test")["answers"].null_count == 6


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_vqa_cp_takes_photos_from_the_split_they_came_from(version: str, tmp_path: Path) -> None:
    data = VQACP(write_vqa_cp(tmp_path, version), version=version, validation_share=0.2)
    assert set(map(len, (data.table("train"), data.table("validation")))) == {8, 2}
    assert all("/val2014/COCO_val2014_" in image for image in column(data, "train", "image"))
    assert all("/train2014/COCO_train2014_" in image for image in column(data, "test", "image"))
    assert len(data.table("test")) == 18
    assert data.table("test")["answers"].null_count == 0


def test_ok_vqa_tests_on_val2014(tmp_path: Path) -> None:
    data = OKVQA(write_mscoco(tmp_path, ("train2014", "val2014"), prefix=""))
    assert len(data.table("train")) + len(data.table("validation")) == 18
    assert column(data, "test", "id")[0] == "200000"
    assert data.types == "question_type"


def test_tdiuc_reads_the_first_answer(tmp_path: Path) -> None:
    data = TDIUC(write_tdiuc(tmp_path))
    assert column(data, "test", "answers") == [["red"], ["2"], ["doesnotapply"]] * 2
    assert column(data, "test", "question_type") == ["color", "counting", "absurd"] * 2
    image = f"{tmp_path}/Images/val2014/COCO_val2014_000000000003.jpg"
    assert column(data, "test", "image")[3] == image
    assert len(data.table("train")) + len(data.table("validation")) == 6


def test_a_okvqa_direct_answers_leave_out_the_difficult_and_say_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = AOKVQA(write_a_okvqa(tmp_path))
    with caplog.at_level(logging.INFO):
        ids = column(data, "validation", "id")
    assert ids == ["valKey0", "valKey1", "valKey3"]
    assert "1 of 4 validation questions are too difficult" in caplog.text
    assert len(data.table("train")) == 4
    assert column(data, "train", "answers")[0] == ["rain"] * 3 + ["rain "] + ["Wind"] * 6
    assert column(data, "train", "choices")[0] == ["rain", "sun", "snow", "wind"]
    assert column(data, "train", "image")[1] == f"{tmp_path}/train2017/000000000011.jpg"
    assert data.table("test")["answers"].null_count == 4
    assert column(data, "test", "choices")[0] == ["rain", "sun", "snow", "wind"]


def test_a_okvqa_multiple_choice_has_the_right_choice(tmp_path: Path) -> None:
    data = AOKVQA(write_a_okvqa(tmp_path), task="multiple_choice")
    assert column(data, "validation", "answers") == [["rain"], ["sun"], ["snow"], ["wind"]]
    assert data.score("sun", ["sun"]) == 1
    assert data.score("Sun", ["sun"]) == 0


@pytest.mark.parametrize("folder", ["Annotations", "."])
def test_vizwiz_is_known_by_its_photos_names(folder: str, tmp_path: Path) -> None:
    data = VizWiz(write_vizwiz(tmp_path, folder))
    assert column(data, "validation", "id")[2] == "VizWiz_val_00000002.jpg"
    assert column(data, "validation", "image")[2] == f"{tmp_path}/val/VizWiz_val_00000002.jpg"
    assert column(data, "train", "answers")[1] == ["yes"] * 10
    assert column(data, "train", "answer_type") == ["other", "yes/no", "unanswerable"]
    assert column(data, "train", "question_type") == ["answerable"] * 2 + ["unanswerable"]
    assert data.table("test")["answers"].null_count == 3


def test_text_vqa_is_read_as_plain_vqa(tmp_path: Path) -> None:
    data = TextVQA(write_text_vqa(tmp_path))
    assert column(data, "validation", "id") == ["34000", "34001", "34002"]
    assert column(data, "validation", "image")[0] == f"{tmp_path}/train_images/val0aff0.jpg"
    assert column(data, "test", "image")[0] == f"{tmp_path}/test_images/test0aff0.jpg"
    assert column(data, "train", "answers")[0] == ["stop"] * 7 + ["halt", "stop now", "no"]
    assert data.table("test")["answers"].null_count == 3


PLACES = {
    VQAv1: "https://visualqa.org/vqa_v1_download.html",
    VQAv2: "https://visualqa.org/download.html",
    VQACP: "https://computing.ece.vt.edu/~aish/vqacp/",
    OKVQA: "https://okvqa.allenai.org/download.html",
    AOKVQA: "https://github.com/allenai/aokvqa",
    VizWiz: "https://vizwiz.org/tasks-and-datasets/vqa/",
    TextVQA: "https://textvqa.org/dataset",
    TDIUC: "https://kushalkafle.com/projects/tdiuc.html",
}


@pytest.mark.parametrize("kind", PLACES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_file_says_where_to_get_the_set(
    kind: type[Dataset], split: str, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        kind(tmp_path).table(split)
    assert str(tmp_path) in str(missing.value)
    assert PLACES[kind] in str(missing.value)
