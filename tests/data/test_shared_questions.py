"""No question is both trained on and scored unless the user allows it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from checked_files import rows_with_ids
from custom_files import CONFIG, small, write_photos, write_rows
from test_custom_training import fails

from vlm.cli.main import main
from vlm.data import VQADataModule
from vlm.data.check.check import check_data
from vlm.data.shared_questions import check_shared, shared_rows
from vlm.datasets import CustomDataset, EasyVQA
from vlm.datasets.errors import DataError


@pytest.fixture
def my(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "my.jsonl", write_photos(tmp_path, images=8))


def other(my: Path, how: str) -> Path:
    """Provides the questions of `my` under another path or in another form."""
    folder = my.parent
    lines = my.read_text().splitlines(keepends=True)
    if how == "the same file":
        return my
    path = folder / "other.jsonl"
    if how == "a link":
        path.symlink_to(my)
    elif how == "a linked folder":
        (folder / "linked").symlink_to(folder)
        path = folder / "linked" / "my.jsonl"
    elif how == "a copy":
        shutil.copy(my, path)
    elif how == "an absolute and a relative path":
        return Path("my.jsonl") if my.is_absolute() else my.absolute()
    elif how == "some rows":
        path.write_text("".join(lines[-3:]))
    elif how == "other letters and spaces":
        path.write_text("".join(lines).upper().replace(".PNG", ".png").replace("?", "? ")
                        .replace('"IMAGE"', '"image"').replace('"QUESTION"', '"question"')
                        .replace('"ANSWER"', '"answer"'))  # fmt: skip
    return path


WAYS = ("the same file", "a link", "a linked folder", "a copy", "some rows",
        "an absolute and a relative path", "other letters and spaces")  # fmt: skip


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("split", ["validation", "test"])
def test_questions_of_two_files_are_compared(
    how: str, split: str, my: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(my.parent)
    again = other(my, how)
    own = write_rows(my.parent / "own.jsonl", write_photos(my.parent, images=3, seed=1))
    files = {"validation": str(own), split: str(again)}  # so that nothing is held out of training
    count = 3 if how == "some rows" else 16
    with pytest.raises(DataError) as said:
        check_shared(CustomDataset(str(my), **files), split)
    place = f"line {14 if count == 3 else 1} "
    assert f"Trained on too: {count} of the {count} {split} questions, such as " in str(said.value)
    assert f"my.jsonl, {place}".rstrip() in str(said.value)
    assert "--dataset.allow_shared_questions=true" in str(said.value)
    found = check_data(VQADataModule(CustomDataset(str(my), **files)), images=False)
    assert found.errors.counts["question in two splits"] == count
    meant = CustomDataset(str(my), allow_shared_questions=True, **files)
    with pytest.warns(UserWarning, match=f"{count} of the {count} {split} .* known questions"):
        check_shared(meant, split)
    found = check_data(VQADataModule(meant), images=False)
    assert not found.errors.counts
    assert found.warnings.counts["question in two splits"] == count


def test_questions_of_validation_and_test_are_compared(my: Path) -> None:
    own = str(write_rows(my.parent / "own.jsonl", write_photos(my.parent, images=3, seed=1)))
    data = CustomDataset(str(my), validation=own, test=own)
    count = len(data.table("test"))
    with pytest.warns(UserWarning, match=f"{count} of the {count} test questions are validation"):
        check_shared(data, "test")
    check_shared(data, "validation")
    found = check_data(VQADataModule(data), images=False)
    assert found.warnings.counts["question in two splits"] == count
    assert "question in two splits" not in found.errors.counts


def test_the_same_image_may_be_asked_something_else(my: Path, tmp_path: Path) -> None:
    rows = [{"image": "0-0.png", "question": "is it new?", "answer": "yes"},
            {"image": "new/0-0.png", "question": "what color is it?", "answer": "red"}]  # fmt: skip
    new = write_rows(tmp_path / "new.jsonl", rows)
    data = CustomDataset(str(my), test=str(new))
    check_shared(data, "test")
    check_shared(data, "validation")


def test_rows_are_found_across_pieces() -> None:
    """In tables of many chunks, each shared row is matched to its first occurrence."""

    def table(*rows: tuple[str, str]) -> pa.Table:
        return pa.concat_tables(
            pa.table({"image": [image], "question": [question]}) for image, question in rows
        )

    train = table(("a", "x?"), ("b", "x?"), ("b", "Y? "), ("b", "y?"), ("a", "y?"))
    rows, known = shared_rows(table(("c", "x?"), ("a", "z?"), ("b", "y?"), ("a", " X?")), train)
    assert rows.tolist() == [2, 3]
    assert known.tolist() == [2, 0]


def test_fit_stops_before_it_trains(
    my: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("validation", "test"):
        own = write_rows(tmp_path / "own.jsonl", write_photos(tmp_path, images=3, seed=1))
        files = {"validation": own, "test": own, split: my}
        options = small(tmp_path, my, *(f"--dataset.{name}={file}" for name, file in files.items()))
        said = fails(["fit", "-c", CONFIG, *options], capsys)
        assert f"Trained on too: 16 of the 16 {split} questions" in said
        assert not list(tmp_path.rglob("metrics.csv"))


def test_vlm_test_compares_too(
    my: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", "-c", CONFIG, *small(tmp_path, my, "--trainer.max_epochs=1")])
    (best,) = tmp_path.rglob("best.ckpt")
    again = ["-c", str(best.parents[1] / "config.yaml"), f"--ckpt_path={best}"]
    said = fails(["test", *again, f"--dataset.test={my}"], capsys)
    assert "Trained on too: 14 of the 16 test questions" in said  # two are held out


@pytest.mark.filterwarnings("ignore:.* are validation questions too")
def test_an_official_set_s_own_splits_are_a_warning(data: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(data, tmp_path / "data"))
    shutil.rmtree(root / "test")
    (root / "test").symlink_to("train")
    with pytest.warns(UserWarning, match="Trained on too: 33 of the 36 test questions"):
        check_shared(EasyVQA(root=root), "test")


@pytest.mark.parametrize("name", ["train", "validation", "test", "data"])
def test_a_lone_split_is_divided_whatever_its_name(name: str, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = rows_with_ids(tmp_path)
    named = {name: datasets.Dataset.from_list(rows)}
    datasets.DatasetDict(named).save_to_disk(tmp_path / "saved")
    write_rows(tmp_path / "my.jsonl", rows)
    found, alone = (
        CustomDataset(str(path), images=tmp_path / "photos")
        for path in (tmp_path / "saved", tmp_path / "my.jsonl")
    )
    parts = [found.table(split)["id"].to_pylist() for split in ("train", "validation", "test")]
    assert parts == [alone.table(s)["id"].to_pylist() for s in ("train", "validation", "test")]
    assert sorted(id for part in parts for id in part) == sorted(row["id"] for row in rows)
