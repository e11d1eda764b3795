"""`vlm predict MODEL --dataset.path FILE`: answers beside the columns of any table."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from demo_server import untrained

import vlm
from vlm.cli.main import main
from vlm.datasets.errors import DataError
from vlm.evaluation.answer_table import ADDED, PARTS, AnswerTable
from vlm.inference import VQA

QUESTIONS = ("what color is it?", "is it red?", "is the image not blue?")


@pytest.fixture
def table(data: Path, tmp_path: Path) -> Path:
    """A CSV of 30 questions about 10 images, with columns that vlm does not know."""
    path = tmp_path / "questions.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["note", "question", "image", "price"])
        for n in range(30):
            image = data / f"test/images/{n % 10}.png"
            writer.writerow([f'said "{n}",\nhere', QUESTIONS[n % 3], image, n / 7])
    return path


def read(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def left(folder: Path) -> list[Path]:
    return list(folder.glob(f"*{PARTS}"))


def test_answers_stand_beside_the_table_s_columns(run: Path, table: Path) -> None:
    main(["predict", str(run), "--dataset.path", str(table), "--batch=7"])
    given, rows = read(table), read(table.with_name("questions_answers.csv"))
    assert [*rows[0]] == ["id", *given[0], *ADDED]
    assert [row["id"] for row in rows] == [str(n) for n in range(1, 31)]  # as in CustomDataset
    assert [{name: row[name] for name in given[0]} for row in rows] == given
    answers = vlm.load(run).answer(
        [row["image"] for row in given], [row["question"] for row in given]
    )
    assert [row["prediction"] for row in rows] == [answer.text for answer in answers]
    shares = [float(row["probability"]) for row in rows]
    assert shares == pytest.approx([answer.probability for answer in answers], abs=1e-5)
    assert left(table.parent) == []


def test_a_dash_stands_for_a_missing_side(run: Path, data: Path, tmp_path: Path) -> None:
    image = str(data / "test/images/0.png")
    sides = [(image, QUESTIONS[0]), ("-", QUESTIONS[0]), (image, "-"), ("-", "-")]
    lines = [json.dumps({"image": one, "question": other}) for one, other in sides]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    with pytest.raises(SystemExit, match="1 row with an error"):
        main(["predict", str(run), f"--dataset.path={tmp_path / 'in.jsonl'}"])
    said = (tmp_path / "in_answers.jsonl").read_text().splitlines()
    whole, no_image, no_question, nothing = map(json.loads, said)
    vqa = vlm.load(run)
    assert whole["prediction"] == vqa.answer(image, QUESTIONS[0]).text
    assert no_image["prediction"] == vqa.answer(None, QUESTIONS[0]).text
    assert no_image["warnings"].startswith("No image was given: ")
    assert no_question["prediction"] == vqa.answer(image, None).text
    assert no_question["warnings"].startswith("No question was given: ")
    assert (nothing["prediction"], nothing["error"][:28]) == (None, "image and question 1: got ne")


def test_any_table_and_a_shared_model(run: Path, data: Path, tmp_path: Path) -> None:
    shared = vlm.load(run).save(tmp_path / "shared")
    content = [(data / f"test/images/{n}.png").read_bytes() for n in range(3)]
    rows = [{"image": c, "question": QUESTIONS[0], "more": [1, 2]} for c in content]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    shutil.copy(data / "test/images/0.png", tmp_path / "0.png")
    line = {"image": "0.png", "question": QUESTIONS[0], "deep": {"a": [1]}}
    (tmp_path / "in.jsonl").write_text(json.dumps(line) + "\n")
    expected = vlm.load(run).answer(content, [QUESTIONS[0]] * 3)
    for name, count in (("in.parquet", 3), ("in.jsonl", 1)):
        out = tmp_path / f"{name}_out.jsonl"
        path = f"--dataset.path={tmp_path / name}"
        main(["predict", str(shared), path, f"--output={out}"])
        found = [json.loads(text) for text in out.read_text().splitlines()]
        assert [row["prediction"] for row in found] == [a.text for a in expected[:count]]
    assert found[0]["deep"] == {"a": [1]}


def test_it_continues_where_it_ended(
    run: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vqa = vlm.load(run)
    first = AnswerTable(vqa, table, batch=8)
    answers = first.answers()
    next(answers)
    next(answers)
    answers.close()
    (part,) = left(table.parent)
    with part.open("a") as file:
        file.write('{"prediction": "re')  # killed in the middle of a line
    seen: list[int] = []
    hook = vqa.model.fusion.register_forward_pre_hook(lambda *_: seen.append(1))
    again = AnswerTable(vqa, table, batch=8)
    assert again.done() == 16
    assert [len(batch) for batch in again.answers()] == [8, 6]
    hook.remove()
    assert again.write() == 0
    continued = again.output.read_text()
    with pytest.raises(SystemExit, match="already there"):
        main(["predict", str(run), "--dataset.path", str(table)])
    again.output.unlink()
    main(["predict", str(run), "--dataset.path", str(table), "--batch=8"])
    whole = again.output.read_text()
    assert [row["prediction"] for row in csv.DictReader(continued.splitlines())] == [
        row["prediction"] for row in csv.DictReader(whole.splitlines())
    ]
    assert left(table.parent) == []
    again.output.unlink()
    next(AnswerTable(vqa, table, batch=8).answers())
    other = AnswerTable(VQA(untrained()), table)
    assert other.done() == 0, "another model begins anew"
    assert AnswerTable(VQA(vqa.model), table).done() == 0, "and so do other probabilities"
    assert AnswerTable(vqa, table).done() == 8
    main(["predict", str(run), "--dataset.path", str(table)])
    assert "Continuing after 8 rows." in capsys.readouterr().out


def test_two_processes_do_not_answer_into_one_file(run: Path, table: Path) -> None:
    first = AnswerTable(vlm.load(run), table, batch=8)
    with first.alone():
        next(first.answers())
        done = subprocess.run(
            [sys.executable, "-m", "vlm", "predict", str(run), "--dataset.path", str(table)],
            env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert f"{first.output}: another process is answering into this file" in done.stderr
        assert first.done() == 8, "nothing was added"
    main(["predict", str(run), "--dataset.path", str(table)])
    assert len(read(first.output)) == 30
    assert not list(table.parent.glob("*.lock"))


def test_rows_that_have_columns_of_their_own(run: Path, data: Path, tmp_path: Path) -> None:
    """In a CSV of all columns; and where a row lacks one that others have, after a resumption."""
    image, path = str(data / "test/images/0.png"), tmp_path / "my.v2.jsonl"
    good = {"image": image, "question": QUESTIONS[0]}
    lines = [good | {"list": ["é", 1]}, {"question": "what?", "late": True}, good]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    output = tmp_path / "out.csv"
    next(AnswerTable(vlm.load(run), path, output, batch=1).answers())
    with pytest.raises(SystemExit, match="1 row with an error"):
        main(["predict", str(run), f"--dataset.path={path}", f"--output={output}"])
    first, second, third = read(output)
    assert [*first] == ["id", "image", "question", "list", "late", *ADDED]
    assert (first["list"], second["late"], third["late"]) == ('["é", 1]', "true", "")
    assert "there is no image" in second["error"]
    assert first["prediction"] == third["prediction"] != ""
    assert AnswerTable(vlm.load(run), path).output.name == "my.v2_answers.jsonl"


def test_values_of_parquet_that_json_lacks(run: Path, data: Path, tmp_path: Path) -> None:
    row = {"image": (data / "test/images/0.png").read_bytes(), "question": QUESTIONS[0]}
    row |= {"day": date(2026, 1, 2), "price": Decimal("1.50")}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "in.parquet")
    main(["predict", str(run), f"--dataset.path={tmp_path / 'in.parquet'}"])
    said = json.loads((tmp_path / "in_answers.jsonl").read_text())
    assert (said["day"], said["price"]) == ("2026-01-02", "1.50")
    assert said["image"] == f"{len(row['image']):,} bytes"


def test_a_calibrated_model_is_another(run: Path, table: Path) -> None:
    vqa = vlm.load(run)
    plain = AnswerTable(vqa, table).part
    calibration = vqa.about["calibration"] | {"scale": 2.0}
    other = vlm.VQA(vqa.model, vqa.about | {"calibration": calibration})
    assert AnswerTable(other, table).part != plain


def test_a_row_s_mistake_is_its_own(run: Path, data: Path, tmp_path: Path) -> None:
    image = data / "test/images/0.png"
    (tmp_path / "bad.png").write_bytes(b"no image")
    path = tmp_path / "in.csv"
    rows = [(image, QUESTIONS[0]), ("bad.png", QUESTIONS[0]), ("gone.png", "what?"), (image, " ")]
    rows += [(image, "wherefore quixotic zebras?"), (image, QUESTIONS[1])]
    lines = (f"{name},{question}" for name, question in rows)
    path.write_text("\n".join(["image,question", *lines]) + "\n")
    with pytest.raises(SystemExit, match="3 rows with an error; see the column error"):
        main(["predict", str(run), f"--dataset.path={path}"])
    good, bad, gone, empty, beyond, last = read(tmp_path / "in_answers.csv")
    assert good["prediction"] and last["prediction"]  # noqa: PT018
    assert "not a readable image" in bad["error"]
    assert "gone.png" in gone["error"]
    assert "question" in empty["error"]
    assert (beyond["prediction"], beyond["error"]) == ("", "")
    assert "unknown to the model" in beyond["warnings"]


def test_a_model_that_chooses_reads_the_choices(data: Path, tmp_path: Path) -> None:
    image = str(data / "test/images/0.png")
    path = tmp_path / "in.jsonl"
    lines = [{"choices": ["red", "blue"]}, {}]
    path.write_text(
        "".join(json.dumps({"image": image, "question": "what?", **n}) + "\n" for n in lines)
    )
    found = AnswerTable(VQA(untrained("choices")), path)
    ((first, second),) = found.answers()
    assert first["prediction"] in ("red", "blue")
    assert "choices" in second["error"]


def test_tables_that_cannot_be(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"

    def said(text: str) -> str:
        path.write_text(text)
        with pytest.raises(SystemExit) as ended:
            main(["predict", str(run), f"--dataset.path={path}"])
        return str(ended.value)

    assert "the column 'prediction'" in said("image,question,prediction\na.png,what?,x\n")
    assert "question" in said("image,query\na.png,what?\n")
    assert {file.name for file in tmp_path.iterdir()} == {"in.csv"}
    with pytest.raises(SystemExit, match=r"nosuch\.csv: there is no such file"):
        main(["predict", str(run), f"--dataset.path={tmp_path / 'nosuch.csv'}"])
    with pytest.raises(ValueError, match=r"expected a \.csv or \.jsonl file"):
        AnswerTable(vlm.load(run), path, output="a.xlsx")
    with pytest.raises(ValueError, match="got the table itself"):
        AnswerTable(vlm.load(run), path, output=path)
    assert "has no rows" in said("image,question\n")
    (tmp_path / "in.xlsx").write_text("image question\n")
    with pytest.raises(DataError, match="another format"):
        AnswerTable(vlm.load(run), tmp_path / "in.xlsx")
