"""Runs on the VQA family: checkpoint, report and the handling of test questions."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import ROOT
from rich.console import Console
from vqa_miniature import write_a_okvqa, write_mscoco, write_tdiuc, write_vizwiz

from vlm.checkpoint.checkpoint import read_checkpoint
from vlm.cli.main import main
from vlm.cli.training_cli import VQACLI
from vlm.datasets import AOKVQA, TDIUC, Dataset, VizWiz
from vlm.datasets.baselines import compute_floors
from vlm.evaluation.evaluation import Evaluation
from vlm.evaluation.report import Report
from vlm.evaluation.results import Prediction, Results
from vlm.heads import Classification

pytestmark = pytest.mark.filterwarnings("ignore:.*Get the file again, unless it was shortened")


def arguments(root: Path, folder: Path) -> list[str]:
    return [
        f"-c={ROOT / 'configs/easy_vqa.yaml'}",
        f"--dataset={ROOT / 'configs/datasets/vqa_v2.yaml'}",
        f"--dataset.root={root}",
        "--data.images_per_batch=3",
        "--data.workers=0",
        "--dataset.vocabulary.min_answer_count=2",
        f"--run.folder={folder}",
        "--run.test=false",
        "--trainer.max_epochs=1",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
    ]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mscoco(tmp_path_factory.mktemp("vqa_v2"), photos=True)


@pytest.fixture(scope="module")
def trained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return VQACLI(["fit", *arguments(root, tmp_path_factory.mktemp("runs"))]).run_folder


def again(trained: Path, folder: Path) -> list[str]:
    config, checkpoint = trained / "config.yaml", trained / "checkpoints/best.ckpt"
    return [f"-c={config}", f"--ckpt_path={checkpoint}", f"--run.folder={folder}"]


def test_a_checkpoint_says_where_its_answers_are_from(trained: Path) -> None:
    checkpoint = read_checkpoint(trained)
    about = checkpoint.about["vocabulary"]
    assert about.pop("hash")
    assert about == {
        "size": len(checkpoint.answers),
        "from": "train+val",
        "min_count": 2,
        "max_size": None,
        "normalized": True,
        "validation_ceiling": 1.0,
    }
    assert set(checkpoint.answers) == {"no", "yes", "red", "green", "blue"}


def test_a_report_says_it_beside_the_score(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = VQACLI(["validate", *again(trained, tmp_path)])
    said = " ".join(capsys.readouterr().out.split())
    digest = read_checkpoint(trained).about["vocabulary"]["hash"]
    assert f"5 answers of the vocabulary ({digest}, from training and validation questions" in said
    assert "so that validation leaks into it, 100.00 % of validation at best)" in said
    report = json.loads((cli.run_folder / "validation.json").read_text())
    assert {row["type"] for row in report["results"]} == {"overall", "other", "yes/no"}
    assert report["question_types"].keys() == {"is it", "what color is"}
    assert report["question_types"]["is it"]["questions"] == 5
    assert report["summary"] == {}
    assert report["about"]["vocabulary"]["hash"] == digest


def test_answers_to_questions_without_any_become_a_submission(
    root: Path, trained: Path, tmp_path: Path
) -> None:
    folder = VQACLI(["predict", *again(trained, tmp_path)]).run_folder
    questions = root / "v2_OpenEnded_mscoco_test-dev2015_questions.json"
    main(["submit", str(folder / "predictions.jsonl"), str(questions)])
    rows = json.loads((folder / "submission.json").read_text())
    wanted = json.loads(questions.read_text())["questions"]
    assert [row["question_id"] for row in rows] == [row["question_id"] for row in wanted]
    assert {row["answer"] for row in rows} <= set(read_checkpoint(trained).answers)


def refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 1
    output = capsys.readouterr()
    assert "Trained" not in output.out
    said = [line for line in output.err.splitlines() if line.startswith("vlm")]
    assert len(said) == 1, output.err
    return said[0]


def test_a_test_without_answers_says_why_not(
    root: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = "VQAv2: got 6 of the 6 test questions without answers"
    said = refused(["test", *again(trained, tmp_path)], capsys)
    assert wanted in said
    assert "`vlm predict`" in said
    # A run that would end with a test is refused before training starts.
    said = refused(["fit", *arguments(root, tmp_path), "--run.test=true"], capsys)
    assert wanted in said


def scored(data: Dataset, split: Any, answers: list[str]) -> Results:
    table = data.table(split)
    predictions = map(Prediction, answers)
    return Results(table, dict(zip(table["id"].to_pylist(), predictions, strict=True)), data)


def test_tdiuc_reports_types_and_their_means(tmp_path: Path) -> None:
    data = TDIUC(write_tdiuc(tmp_path))
    answers = ["red", "2", "doesnotapply", "blue", "2", "doesnotapply"]
    results = scored(data, "test", answers)
    floors = compute_floors(data, data.table("train"), data.table("test"), ["red"])
    report = Report(results, "test", floors)
    rows = report.rows
    assert {row["type"]: row["accuracy"] for row in rows} == {
        "overall": pytest.approx(5 / 6),
        "color": 0.5,
        "counting": 1,
        "absurd": 1,
    }
    assert [row["type"] for row in rows][1:] == ["absurd", "color", "counting"]
    assert rows[0]["ceiling"] == pytest.approx(2 / 6)
    summary = report.summary
    assert summary["arithmetic_mean_per_type"] == pytest.approx(2.5 / 3)
    assert summary["harmonic_mean_per_type"] == pytest.approx(3 / 4)
    console = Console(file=io.StringIO(), width=110)
    report.print(console)
    printed = console.file.getvalue()
    assert "harmonic mean per type: 0.7500" in printed
    report.write(tmp_path)
    assert json.loads((tmp_path / "test.json").read_text())["summary"] == summary


def test_vizwiz_scores_its_own_way_and_finds_the_unanswerable(tmp_path: Path) -> None:
    data = VizWiz(write_vizwiz(tmp_path))
    results = scored(data, "validation", ["Unanswerable", "The yes", "unanswerable"])
    # One of ten agrees; "The yes" is normalised though all ten agree; eight of ten agree.
    assert results.scores == pytest.approx([0.3, 1, 1])
    # One true positive and one false positive: precision 1/2, recall 1.
    assert results.summary() == {"unanswerable_f1": pytest.approx(2 / 3)}
    assert set(results.types()) == {"other", "unanswerable", "yes/no"}
    splits = data.table("train"), data.table("validation")
    floors = compute_floors(data, *splits, ["soup"])
    assert floors.ceiling == pytest.approx([1, 0, 0.6])
    assert floors.unanswerable == 1
    # Floors and ceiling use the set's own score; VQA accuracy would give "the yes" 0.
    floors = compute_floors(data, *splits, ["soup", "the yes"])
    assert floors.ceiling == pytest.approx([1, 1, 0.6])


def test_vizwiz_ranks_by_the_probability_of_unanswerable(tmp_path: Path) -> None:
    """Average precision as VizWiz evaluates it; the third question is the unanswerable one."""
    data = VizWiz(write_vizwiz(tmp_path))
    table = data.table("validation")
    for probabilities, wanted in (
        ([0.1, 0.2, 0.9], 1),
        ([0.1, 0.95, 0.9], 1 / 2),
        ([0.9, 0.9, 0.9], 1 / 3),  # all tied
        ([0.3, 0.2, 0.1], 1 / 3),
    ):
        found = data.summarize_watched(table, probabilities)
        assert found == {"unanswerable_average_precision": pytest.approx(wanted)}
    assert data.summarize_watched(table.slice(0, 2), [0.1, 0.2]) == {}

    def judged(answers: list[str]) -> dict[str, float]:
        head = Classification(3, answers, hidden_dims=())
        evaluation = Evaluation(table, head, data)
        ids = table["id"].to_pylist()
        batch = SimpleNamespace(ids=ids, targets=None)
        scores = torch.tensor([[0.3, -1.0], [0.1, 3.0], [0.2, 2.0]])
        evaluation.update(scores, batch)
        return evaluation.finish().summary()

    assert judged(["soup", "unanswerable"])["unanswerable_average_precision"] == 1 / 2
    assert "unanswerable_average_precision" not in judged(["soup", "salt"])


def test_a_okvqa_counts_three_of_ten_in_full(tmp_path: Path) -> None:
    data = AOKVQA(write_a_okvqa(tmp_path))
    results = scored(data, "validation", ["rain", "rain ", "wind"])
    assert results.scores == pytest.approx([1, 1 / 3, 0])
    assert results.summary() == {}
