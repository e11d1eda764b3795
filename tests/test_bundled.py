"""The models that come with vlm answer as their cards say, by their names alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import vlm
from vlm.asking import NO_ANSWER
from vlm.cli.main import main
from vlm.core.bundled import BUNDLED, bundled_models
from vlm.datasets import Dataset, EasyVQA, Scenes

SETS: dict[str, type[Dataset]] = {"scenes": Scenes, "easy_vqa": EasyVQA}


def test_there_is_one_for_each_name() -> None:
    assert bundled_models() == list(SETS)
    assert sum(path.stat().st_size for path in BUNDLED.rglob("*")) < 4e6


@pytest.mark.parametrize("name", SETS)
def test_its_accuracy_is_that_of_its_card(name: str) -> None:
    vqa = vlm.load(name)
    rows = SETS[name]().table("test").to_pylist()[::20]
    answers = vqa.answer([row["image"] for row in rows], [row["question"] for row in rows])
    right = sum(a.text == row["answers"][0] for a, row in zip(answers, rows, strict=True))
    card = (BUNDLED / name / "README.md").read_text()
    published = re.findall(r"\| overall \| [\d,]+ \| ([\d.]+) ", card)[0]
    assert abs(100 * right / len(rows) - float(published)) < 2
    assert vlm.load(name).about["results"][0]["accuracy"] == pytest.approx(
        float(published) / 100, abs=5e-5
    )
    assert all(answer.calibrated for answer in answers)


def test_a_question_is_answered_right_after_installation(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    example = str(BUNDLED / "scenes/example.png")
    main(["ask", "scenes", example, "Is the gray object left of the brown object?"])
    assert re.search(r"(9\d\.\d|> 99\.9) %  yes", capsys.readouterr().out)
    # README's example of a question that is too hard.
    hard = "What shape is the object closest to the pink object?"
    with pytest.raises(SystemExit) as ended:
        main(["ask", "scenes", example, hard, "--max-risk", "5%"])
    assert ended.value.code == NO_ANSWER
    assert capsys.readouterr().out.startswith("I don't know: the risk is above the accepted one")
    # What lies here under that name comes first.
    (tmp_path / "scenes").mkdir()
    with pytest.raises(SystemExit, match="scenes"):
        main(["ask", "scenes", example, "What shape is the pink object?"])
