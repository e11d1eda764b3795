"""Any file of answers gets the same report as a model in `vlm test`."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import ROOT

import vlm
from vlm.cli.main import main
from vlm.datasets import Dataset, EasyVQA
from vlm.datasets.base import Split
from vlm.datasets.errors import DataError
from vlm.datasets.table import question_table

CONFIG = str(ROOT / "configs/easy_vqa.yaml")


def command(predictions: Path, data: Path, *more: str) -> list[str]:
    return ["evaluate", str(predictions), "-c", CONFIG, f"--dataset.root={data}", *more]


def saved(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_run_s_own_answers_get_the_figures_of_its_test(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(command(run / "test_predictions.jsonl", data, f"--output={tmp_path}"))
    tested, found = saved(run / "test.json"), saved(tmp_path / "test.json")
    assert 0 < tested["results"][0]["accuracy"] < 1
    assert len(tested["results"]) == 3
    assert found["results"] == tested["results"]
    assert found["answers"] == tested["answers"]
    assert found["question_types"] == tested["question_types"]
    assert tested["summary"].items() <= found["summary"].items()
    # Answers in a file are free text.
    assert found["summary"].keys() - tested["summary"].keys() == {"exact_match", "anls"}
    lines = (tmp_path / "test_predictions.jsonl").read_text()
    assert lines == (run / "test_predictions.jsonl").read_text()
    said = " ".join(capsys.readouterr().out.split())
    assert "36 of 36 test questions answered" in said
    assert f"{100 * tested['results'][0]['accuracy']:.2f}" in said
    assert str(tmp_path) in said


def test_answers_without_probability_are_scored_too(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in (run / "test_predictions.jsonl").read_text().splitlines()]
    path = tmp_path / "others.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [("question_id", "answer"), *((r["id"], r["answer"]) for r in rows)]
        )
    main(command(path, data))
    folder = tmp_path / "others_scored"
    found = saved(folder / "test.json")
    assert found["results"] == saved(run / "test.json")["results"]
    assert found["about"]["predictions"] == str(path)
    for line in (folder / "test_predictions.jsonl").read_text().splitlines():
        assert "probability" not in json.loads(line)
    assert "probability" not in capsys.readouterr().out


def answers(folder: Path, count: int, first: str = "red") -> Path:
    """Write answers to the first colour questions: all red except perhaps the first."""
    path = folder / "answers.csv"
    rows = [f"test-{number},{'red' if number else first}" for number in range(count)]
    path.write_text("\n".join(["id,answer", *rows]))
    return path


def test_a_part_is_scored_where_that_is_asked_for(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = answers(tmp_path, 9)
    with pytest.raises(SystemExit) as stopped:
        main(command(path, data))
    assert "27 of the 36 test questions" in str(stopped.value.code)
    assert not (tmp_path / "answers_scored").exists()
    main(command(path, data, "--partial"))
    assert "9 of 36 test questions answered" in " ".join(capsys.readouterr().out.split())
    found = saved(tmp_path / "answers_scored/test.json")
    assert found["results"][0]["questions"] == 9
    assert (found["about"]["answered"], found["about"]["questions"]) == (9, 36)


def test_in_python_it_is_the_same(data: Path, tmp_path: Path) -> None:
    dataset = EasyVQA(data)
    colors = [row["answers"][0] for row in dataset.table("test").slice(0, 9).to_pylist()]
    report = vlm.evaluate(str(answers(tmp_path, 9, colors[0])), dataset, partial=True)
    right = 1 + sum(color == "red" for color in colors[1:])
    assert report.accuracy == pytest.approx(right / 9)
    assert report.interval.low <= report.accuracy <= report.interval.high
    assert f"{100 * right / 9:.2f}" in str(report)
    assert "majority" in str(report)
    assert list(tmp_path.iterdir()) == [tmp_path / "answers.csv"]


def test_another_split_is_scored_where_that_is_asked_for(data: Path, tmp_path: Path) -> None:
    dataset = EasyVQA(data)
    path = tmp_path / "answers.json"
    rows = dataset.table("validation").to_pylist()
    path.write_text(json.dumps([{"id": row["id"], "answer": row["answers"][0]} for row in rows]))
    report = vlm.evaluate(path, dataset, "validation", output=tmp_path / "new" / "folder")
    assert report.accuracy == 1
    assert (tmp_path / "new/folder/validation.json").is_file()
    with pytest.raises(DataError, match="no test question has"):
        vlm.evaluate(path, dataset)


def test_the_file_itself_is_never_overwritten(data: Path, tmp_path: Path) -> None:
    for name in ("test_predictions.jsonl", "test.json"):
        path = answers(tmp_path, 36).rename(tmp_path / name)
        before = path.read_text()
        with pytest.raises(ValueError, match="output"):
            vlm.evaluate(path, EasyVQA(data), output=tmp_path)
        assert path.read_text() == before


def few(answers: list[str]) -> Dataset:
    """Make a data set of two training and three test questions that share the same choices."""

    def asked(split: str, given: list[str]) -> pa.Table:
        rows = [
            {"id": f"{split}{n}", "image": str(n), "question": "what?", "answers": [answer]}
            | {"choices": ["sun", "snow"]}
            for n, answer in enumerate(given)
        ]
        return question_table(rows, split)

    test = asked("test", answers)
    tables = {"train": asked("train", ["rain", "rain", "snow"]), "validation": test, "test": test}

    class Few(Dataset):
        def read(self, split: Split) -> pa.Table | None:
            return tables.get(split)

        def summarize_watched(self, table: pa.Table, found: Sequence[float]) -> dict[str, float]:
            return {"sum": sum(found)}

    return Few()


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(
        "".join(json.dumps({"id": f"test{n}"} | row) + "\n" for n, row in enumerate(rows))
    )
    return path


def test_picked_answers_are_beside_floors_that_pick(tmp_path: Path) -> None:
    """Their baseline is the most frequent training answer among the question's own choices."""
    rows = [{"answer": "sun"}, {"answer": "snow"}, {"answer": "sun"}]
    free = vlm.evaluate(write(tmp_path / "free", rows), few(["snow"] * 3))
    assert free.rows[0]["majority"] == 0
    assert free.summary["exact_match"] == pytest.approx(1 / 3)
    picked = write(tmp_path / "picked", [row | {"choices": ["sun", "snow"]} for row in rows])
    report = vlm.evaluate(picked, few(["snow"] * 3), output=tmp_path)
    assert report.rows[0]["majority"] == 1
    assert "exact_match" not in report.summary
    assert "each question's choices" in " ".join(str(report).split())
    written = json.loads((tmp_path / "test_predictions.jsonl").read_text().splitlines()[0])
    assert written["choices"] == ["sun", "snow"]
    # A table's own column stays beside answers that were not picked from it.
    rows[1]["answer"] = "snow and ice"
    beside = write(tmp_path / "beside", [row | {"choices": ["sun", "snow"]} for row in rows])
    assert "exact_match" in vlm.evaluate(beside, few(["snow"] * 3)).summary


def test_intervals_take_a_group_as_one(tmp_path: Path) -> None:
    """Its images are of one scene, patient or puzzle: right together, and wrong together."""
    rng = random.Random(0)
    right = [rng.random() < 0.5 for _ in range(40)]
    rows = [
        {"id": f"{split}{n}", "image": f"{split}{n}", "question": "what?", "answers": ["sun"]}
        | {"group": f"{split}{n // 10}"}
        for split in ("train", "test")
        for n in range(400)
    ]
    tables = {
        split: question_table([row for row in rows if row["id"].startswith(split)], split)
        for split in ("train", "test")
    }

    class Grouped(Dataset):
        def read(self, split: Split) -> pa.Table | None:
            return tables.get(split)

    path = write(
        tmp_path / "answers", [{"answer": "sun" if right[n // 10] else "snow"} for n in range(400)]
    )
    interval = vlm.evaluate(path, Grouped()).interval
    assert interval.over == "questions, clustered by group"
    exact = 1.96 * (sum(right) / 40 * (1 - sum(right) / 40) / 40) ** 0.5
    assert (interval.high - interval.low) / 2 == pytest.approx(exact, rel=0.1)


def test_figures_by_probability_want_it_of_every_question(tmp_path: Path) -> None:
    """`sum` needs a probability for every question; the predictions store them unrounded."""
    rows = [{"answer": "sun", "watched": share} for share in (0.123456789, 0.5, 0.25)]
    path = write(tmp_path / "all", rows)
    report = vlm.evaluate(path, few(["sun"] * 3), output=tmp_path)
    assert report.summary["sum"] == 0.123456789 + 0.75
    again = vlm.evaluate(tmp_path / "test_predictions.jsonl", few(["sun"] * 3))
    assert again.summary == report.summary
    del rows[1]["watched"]
    assert "sum" not in vlm.evaluate(write(path, rows), few(["sun"] * 3)).summary


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--dataset.rot=x"], 2, "rot"),
        (["--split=predict"], 2, "predict"),
        (["--dataset.root=/nosuch"], 1, "/nosuch"),
    ],
)
def test_a_wrong_option_ends_in_a_line(
    more: list[str],
    code: int,
    said: str,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(command(answers(tmp_path, 36), data, *more))
    message = capsys.readouterr().err + str(stopped.value.code)
    assert said in message
    assert "Traceback" not in message
    assert (stopped.value.code == 2) == (code == 2)


def test_a_split_or_id_that_does_not_exist_is_named(data: Path, tmp_path: Path) -> None:
    dataset = EasyVQA(data)
    said = "split: got 'val'; expected one of train, validation, test, predict."
    with pytest.raises(DataError, match=said):
        vlm.evaluate(tmp_path / "answers.csv", dataset, split="val")  # type: ignore[arg-type]  # wrong
    (tmp_path / "answers.csv").write_text("id,answer\nnobody's,yes\n")
    with pytest.raises(DataError, match=r"line 2: got the id .*which no test question has\. Exp"):
        vlm.evaluate(tmp_path / "answers.csv", dataset)
