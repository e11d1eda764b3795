"""`vlm report`: of a run, of a file of answers, against another, and with bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from vlm.cli.commands.report import _folder
from vlm.cli.main import main
from vlm.trust.perturb import CORRUPTIONS, SEVERITIES, WORDINGS, corrupted
from vlm.trust.report import AS_GIVEN, SECTIONS, write_report

CONFIG = str(ROOT / "configs/easy_vqa.yaml")


def report(data: Path, output: Path, *arguments: str) -> dict[str, Any]:
    main(["report", *arguments, f"--dataset.root={data}", f"--output={output}"])
    content: dict[str, Any] = json.loads((output / "report.json").read_text())
    return content


def lines(run: Path) -> list[dict[str, Any]]:
    text = (run / "test_predictions.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "answers.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.fixture(scope="module")
def whole(run: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with all sections."""
    folder = tmp_path_factory.mktemp("report")
    report(data, folder, str(run))
    return folder


def test_a_run_gets_every_section(run: Path, whole: Path) -> None:
    content = json.loads((whole / "report.json").read_text())
    assert content["schema"] == 1
    assert list(content["sections"]) == list(SECTIONS)
    tested = json.loads((run / "test.json").read_text())["results"][0]
    found = content["sections"]["accuracy"]["numbers"][0]
    assert found["accuracy"] == pytest.approx(tested["accuracy"])
    assert (found["low"], found["high"]) == pytest.approx((tested["low"], tested["high"]))
    accuracies = [row["accuracy"] for row in content["sections"]["groups"]["numbers"]]
    assert accuracies == sorted(accuracies)
    wordings = {row["wording"]: row for row in content["sections"]["consistency"]["numbers"]}
    assert wordings["mirrored image, no side named"]["flips"] == 0  # images of one colour
    assert "by bootstrap over images with all" in (whole / "report.md").read_text()
    page = (whole / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "<img alt" in page
    assert "not measurable" in (whole / "report.md").read_text()


def test_few_images_are_not_measurable(whole: Path) -> None:
    selective = json.loads((whole / "report.json").read_text())["sections"]["selective"]
    rows = {row[0]: row for row in selective["table"]}
    of_12_images = rows["C@1 %: coverage at this risk, %"]
    assert of_12_images[2:5] == ["not measurable", "299 images needed", ""]
    assert selective["numbers"]["coverage_at_0.01"]["coverage"] is None
    distribution = json.loads((whole / "report.json").read_text())["sections"]["distribution"]
    assert distribution["table"][1][3] == "not measurable"
    assert "not measurable" in rows["certified for risk 5 %"][2]


def test_a_report_of_validation_says_that_it_flatters(whole: Path, tmp_path: Path) -> None:
    content = json.loads((whole / "report.json").read_text())
    content["about"]["split"] = "validation"
    write_report(content, tmp_path, "vlm report RUN")
    assert "flatters" in (tmp_path / "report.md").read_text()
    content["about"]["calibration"] = AS_GIVEN
    write_report(content, tmp_path, "vlm report RUN")
    report = (tmp_path / "report.md").read_text()
    assert "flatters" not in report
    content["about"]["clusters"] = "group"
    write_report(content, tmp_path, "vlm report RUN")
    assert "by bootstrap over groups with all" in (tmp_path / "report.md").read_text()
    assert "this report fits and certifies nothing" in report
    assert "flatters" not in (whole / "report.md").read_text()


def test_a_report_of_validation_leaves_that_of_the_test_alone(tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    answers.touch()
    for split, name in (("test", "report"), ("validation", "report_validation")):
        assert _folder(tmp_path, True, split) == tmp_path / name
        assert _folder(answers, False, split) == tmp_path / f"answers_{name}"
        assert _folder(Path("hf:me/mine"), True, split) == Path(f"mine_{name}")


def test_a_finished_section_is_not_measured_again(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = report(data, tmp_path, str(run), "--only", "accuracy", "groups")
    assert list(first["sections"]) == ["accuracy", "groups"]

    def refuse(subject: object) -> dict[str, Any]:
        raise AssertionError("measured again")

    for name in ("accuracy", "groups"):
        monkeypatch.setitem(SECTIONS, name, (name, refuse))
    again = report(data, tmp_path, str(run), "--only", "accuracy", "sets")
    assert again["sections"]["accuracy"] == first["sections"]["accuracy"]
    assert "sets" in again["sections"]
    # Another split is another report.
    with pytest.raises(AssertionError, match="measured again"):
        report(data, tmp_path, str(run), "--only", "accuracy", "--split", "validation")
    # So are other questions, however many there are.
    other = shutil.copytree(data, tmp_path / "other")
    questions = other / "test/questions.json"
    questions.write_text(questions.read_text().replace("what color", "which color"))
    with pytest.raises(AssertionError, match="measured again"):
        report(other, tmp_path, str(run), "--only", "accuracy")


def test_a_file_of_answers(run: Path, data: Path, whole: Path, tmp_path: Path) -> None:
    path = written(tmp_path, lines(run))
    content = report(data, tmp_path / "out", f"--predictions={path}", "-c", CONFIG)
    own = json.loads((whole / "report.json").read_text())["sections"]
    found = content["sections"]
    for name in ("accuracy", "groups"):
        assert found[name]["numbers"] == own[name]["numbers"]
    after = own["calibration"]["numbers"]["Brier score"]["after"]["value"]
    given = found["calibration"]["numbers"]["Brier score"]["as given"]["value"]
    assert given == pytest.approx(after, abs=1e-5)
    # It has no calibration part: no threshold is certified, and none is chosen on the test for it.
    assert not [name for name in found["selective"]["numbers"] if "certified" in name]
    assert "no calibration part" in " ".join(found["selective"]["text"])
    assert "needs the model" in found["consistency"]["text"][0]


def test_answers_without_probabilities(run: Path, data: Path, tmp_path: Path) -> None:
    rows = [{"id": row["id"], "answer": row["answer"]} for row in lines(run)]
    path = written(tmp_path, rows)
    found = report(data, tmp_path / "out", f"--predictions={path}", "-c", CONFIG)["sections"]
    assert found["accuracy"]["table"]
    assert "36 of 36 have none" in found["calibration"]["text"][0]
    assert "36 of 36 have none" in found["selective"]["text"][0]


@pytest.mark.parametrize("answer", ["yes", "nothing"])
def test_ties_everywhere_and_one_class_only(
    answer: str, run: Path, data: Path, tmp_path: Path
) -> None:
    rows = [{"id": row["id"], "answer": answer, "probability": 0.5} for row in lines(run)]
    path = written(tmp_path, rows)
    arguments = (f"--predictions={path}", "-c", CONFIG, "--only", "calibration", "selective")
    found = report(data, tmp_path / "out", *arguments)["sections"]
    accuracy = 1 - found["selective"]["numbers"]["curve"]["risk"][-1]
    assert found["selective"]["numbers"]["AUGRC"]["value"] == pytest.approx((1 - accuracy) / 2)
    ece = found["calibration"]["numbers"]["ECE, bins of equal width"]["as given"]["value"]
    assert ece == pytest.approx(abs(0.5 - accuracy))
    assert (accuracy == 0) is (answer == "nothing")


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"probability": 1.5}, "'probability'; expected a number in"),
        ({"probability": float("nan")}, "'probability'; expected a number in"),
        ({"id": "unknown"}, "'unknown', which no test question has"),
    ],
)
def test_bad_answers_end_in_a_sentence(
    row: dict[str, Any], match: str, run: Path, data: Path, tmp_path: Path
) -> None:
    first, *rest = lines(run)
    path = written(tmp_path, [first | row, *rest])
    with pytest.raises(SystemExit, match=match):
        report(data, tmp_path / "out", f"--predictions={path}", "-c", CONFIG)
    assert not (tmp_path / "out").exists()


def test_paired_differences(run: Path, data: Path, tmp_path: Path) -> None:
    worse = [row | {"answer": "nothing"} for row in lines(run)]
    path = written(tmp_path, worse)
    only = ("--only", "accuracy", f"--against={path}")
    numbers = report(data, tmp_path / "out", str(run), *only)["sections"]["against"]["numbers"]
    accuracy = json.loads((run / "test.json").read_text())["results"][0]["accuracy"]
    assert numbers["accuracy"]["mean"] == pytest.approx(accuracy)
    assert numbers["AUGRC"]["value"] < 0
    bare = [{"id": row["id"], "answer": "nothing"} for row in worse]
    path = written(tmp_path, bare)
    found = report(data, tmp_path / "out", str(run), *only)["sections"]["against"]
    assert found["numbers"] == {"accuracy": numbers["accuracy"]}
    assert "36 of 36 have none" in found["text"][1]
    same = report(data, tmp_path / "same", str(run), "--only", "accuracy", f"--against={run}")
    assert same["sections"]["against"]["numbers"]["Brier score"]["value"] == 0


def test_mistakes_in_the_command(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "manifest.json").touch()
    for arguments, match in (
        ([], "either a model or --predictions"),
        ([str(run), "--only", "magic"], "got 'magic'; expected some of accuracy"),
        ([str(data)], "got no configuration"),
        (["--predictions", "scenes.csv"], "-c: name a configuration of the data"),
        (["runs/nosuch"], "runs/nosuch: there is no such file, folder or model"),
        (["scense"], "Did you mean scenes?"),
        ([str(tmp_path)], "this is an export, which can only be asked"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["report", *arguments])
        assert ended.value.code == 2
        assert match in capsys.readouterr().err


def test_a_file_that_is_not_there(run: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"--against: got nothing\.csv; expected a model"):
        report(data, tmp_path, str(run), "--against=nothing.csv")
    with pytest.raises(SystemExit, match=r"--predictions: got nothing\.csv; expected a file of"):
        report(data, tmp_path, "--predictions=nothing.csv", "-c", CONFIG)
    with pytest.raises(SystemExit, match="nothing: there is no such file"):
        report(data, tmp_path, "nothing", "-c", CONFIG)


def test_a_model_without_images_has_no_report(run: Path, data: Path, tmp_path: Path) -> None:
    blind = "--data.control=question_only"
    for command in (["report", f"--output={tmp_path}"], ["calibrate"]):
        with pytest.raises(SystemExit, match="got question_only; expected null"):
            main([*command, str(run), f"--dataset.root={data}", blind])


def test_typos_change_one_place_of_a_long_word() -> None:
    question = "Is it a big rectangle?"
    assert WORDINGS["upper case"](question) == "IS IT A BIG RECTANGLE?"
    assert WORDINGS["no punctuation"](question) == "Is it a big rectangle"
    lengths = {"letters swapped": 22, "neighbouring key": 22, "letter left out": 21}
    for name, length in lengths.items():
        changed = WORDINGS[name](question)
        assert changed.startswith("Is it a big r")
        assert changed.endswith("e?")
        assert len(changed) == length
        assert changed == WORDINGS[name](question)
    assert WORDINGS["letter left out"]("is it?") == "is it?"


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corruptions_change_the_image(kind: str) -> None:
    import torch

    images = torch.from_numpy(np.random.default_rng(0).integers(60, 190, (2, 3, 64, 64), np.uint8))

    class Store:
        def read(self, paths: object, questions: object) -> torch.Tensor:
            return images

    change = []
    for severity in SEVERITIES:
        found = corrupted(Store(), kind, severity).read([], [])
        assert found.shape == images.shape
        assert found.dtype == torch.uint8
        change.append((found.float() - images.float()).abs().mean().item())
    assert change[0] > 0.5
    if kind != "saturation":  # less colour first, then more
        assert change[-1] > change[0]
