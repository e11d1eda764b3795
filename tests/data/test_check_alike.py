"""`vlm check-data` warns about look-alike texts and about texts a model cannot tell apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checked_files import check
from custom_files import CONFIG, write_photos, write_rows

from vlm.cli.main import main
from vlm.data import VQADataModule
from vlm.data.check.check import check_data
from vlm.datasets import CustomDataset

ALIKE = "answers that look alike"
CONFUSED = "questions that the model cannot tell apart"


def answered(folder: Path, *answers: str) -> list[dict[str, Any]]:
    """Asks the same question about one image per answer."""
    write_photos(folder, images=len(answers))
    return [
        {"image": f"0-{n}.png", "question": "what is it?", "answer": a}
        for n, a in enumerate(answers)
    ]


def test_answers_that_look_alike_are_counted(tmp_path: Path) -> None:
    rows = answered(tmp_path, *["yes"] * 7, *["Yes"] * 5, "Yes.", "y\u200des", *["no"] * 6)
    said = check(tmp_path, train=rows).warnings.kept[ALIKE]
    assert len(said) == 1
    for shown in (
        "'yes' (7 times)",
        "'Yes' (5 times)",
        "'Yes.' (1 time)",
        "'y\\u200des' (1 time)",
    ):
        assert shown in said[0]
    assert "--dataset.merge_answers=true" in said[0]


def test_merged_answers_are_one(tmp_path: Path) -> None:
    rows = answered(tmp_path, *["yes"] * 7, *["Yes"] * 5, "Yes.", *["लाल।", "लाल"] * 3, "...")
    rows[0]["choices"] = ["Yes", "No."]
    path = str(write_rows(tmp_path / "my.jsonl", rows))
    plain = CustomDataset(path, images=tmp_path / "photos")
    merged = CustomDataset(path, images=tmp_path / "photos", merge_answers=True)
    assert set(plain.answers) > {"yes", "Yes"}
    assert set(merged.answers) <= {"yes", "लाल", "..."}
    assert len(merged.answers) < len(plain.answers)
    assert ALIKE not in check_data(VQADataModule(merged), images=False).warnings.counts
    texts = [c for part in ("train", "validation", "test") for c in merged.table(part)["choices"]]
    assert ["yes", "no"] in [c.as_py() for c in texts]


def test_both_forms_of_an_accent_are_one_answer(tmp_path: Path) -> None:
    rows = answered(tmp_path, *["caf\u00e9", "cafe\u0301"] * 6)
    found = check(tmp_path, train=rows)
    assert ALIKE not in found.warnings.counts
    assert found.vocabulary is not None
    assert found.vocabulary.answers == ["caf\u00e9"]


def asked(folder: Path, *questions: tuple[str, str]) -> dict[str, list[dict[str, Any]]]:
    write_photos(folder, images=2)
    train = [{"image": "0-0.png", "question": q, "answer": a} for q, a in questions]
    other = [{"image": "0-1.png", "question": "what is it?", "answer": train[0]["answer"]}]
    return {"train": train, "validation": other}


@pytest.mark.parametrize(
    ("questions", "in_order", "number"),
    [
        ([("is it 1 + 2?", "yes"), ("is it 1 - 2?", "no")], True, 1),
        ([("is it 1 + 2?", "yes"), ("is it 1 - 2?", "yes")], True, 0),
        ([("दिन क्या है", "yes"), ("दान क्या है", "no")], True, 0),
        ([("is a cat on a mat?", "yes"), ("is a mat on a cat?", "no")], True, 0),
        ([("is a cat on a mat?", "yes"), ("is a mat on a cat?", "no")], False, 1),
        ([("is a cat on a mat?", "yes"), ("is a mat on a cat?", "no")], None, 0),
        ([("is it red?", "yes"), ("is it blue?", "no")], True, 0),
    ],
)
def test_questions_that_a_model_reads_as_one(
    questions: list[tuple[str, str]], in_order: bool | None, number: int, tmp_path: Path
) -> None:
    paths = {n: str(write_rows(tmp_path / n, r)) for n, r in asked(tmp_path, *questions).items()}
    paths = {name: str(Path(path).rename(f"{path}.jsonl")) for name, path in paths.items()}
    data = CustomDataset(paths["train"], paths["validation"], images=tmp_path / "photos")
    found = check_data(VQADataModule(data), images=False, in_order=in_order)
    assert found.warnings.counts[CONFUSED] == number
    if number:
        assert all(repr(question) in found.warnings.kept[CONFUSED][0] for question, _ in questions)


def test_rare_words_are_one_word(tmp_path: Path) -> None:
    questions = [("is it red?", "yes"), ("is it blue?", "no")]
    paths = {n: write_rows(tmp_path / n, r) for n, r in asked(tmp_path, *questions).items()}
    files = {name: path.rename(f"{path}.jsonl") for name, path in paths.items()}
    options = {"path": files["train"], "validation": files["validation"]}
    given = [f"--dataset.{name}={path}" for name, path in options.items()]
    given += [f"--dataset.images={tmp_path / 'photos'}", f"--output={tmp_path / 'out'}"]
    with pytest.raises(SystemExit):
        main(["check-data", CONFIG, "--dataset.vocabulary.min_word_count=2", *given])
    assert CONFUSED in (tmp_path / "out/check.json").read_text()
