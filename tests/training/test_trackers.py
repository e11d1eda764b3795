"""Trackers receive configuration, metrics, the report and sample answers."""

from __future__ import annotations

import csv
import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace
from lightning.pytorch.loggers import CometLogger, CSVLogger, Logger, TensorBoardLogger
from training_runs import fit

from vlm.cli.main import main
from vlm.cli.training_cli import VQACLI
from vlm.core.errors import ConfigError
from vlm.datasets import EasyVQA
from vlm.evaluation.report import Report
from vlm.evaluation.results import Prediction, Results
from vlm.training import trackers
from vlm.training.run_dir import RunOptions
from vlm.training.trackers import send_report, with_defaults


class Recorder(Logger):
    """A tracker that Lightning does not know."""

    name, version = "recorder", 0

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, Any] = {}
        self.metrics: dict[str, float] = {}

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        self.config = params

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:  # type: ignore[override]
        self.metrics |= metrics


def test_a_tracker_gets_configuration_and_metrics_beside_our_files(
    data: Path, tmp_path: Path
) -> None:
    cli = VQACLI(
        fit(data, tmp_path, "--trainer.logger=test_trackers.Recorder", "--trainer.max_epochs=1",
            "--run.test=true")
    )  # fmt: skip
    files, recorder = cli.trainer.loggers
    assert isinstance(files, CSVLogger)
    assert isinstance(recorder, Recorder)
    assert recorder.config["data"]["images_per_batch"] == 2
    assert {"train_loss", "val_accuracy", "test_accuracy"} <= set(recorder.metrics)
    assert (cli.run_folder / "metrics.csv").is_file()
    assert (cli.run_folder / "curves.png").is_file()


def test_tensorboard_has_report_and_answers(data: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cli = VQACLI(fit(data, tmp_path, "--trainer.max_epochs=1", "--run.test=true"))
    assert isinstance(cli.trainer.loggers[1], TensorBoardLogger)
    events = EventAccumulator(str(cli.run_folder))
    events.Reload()
    assert {"test_report/text_summary", "test_answers/text_summary"} <= set(
        events.Tags()["tensors"]
    )


class Asked:
    """Takes any call, and remembers its name and arguments."""

    __isabstractmethod__ = False  # which the base class asks

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *given, **more: self.calls.append((name, *given, *more.values()))


class Comet(CometLogger):
    """Without the package."""

    experiment = Asked()  # type: ignore[assignment]

    def __init__(self) -> None:
        pass


def test_comet_gets_report_and_answers(data: Path) -> None:
    dataset = EasyVQA(data)
    table = dataset.table("test")
    said = {key: Prediction("yes") for key in table["id"].to_pylist()}
    comet = Comet()
    send_report([comet], Report(Results(table, said, dataset), "test"))
    (report, answers) = comet.experiment.calls
    assert report[0] == "log_asset_data"
    assert "Accuracy on test" in report[1]
    assert report[2] == "test_report.txt"
    assert answers[:2] == ("log_table", "test_answers.csv")
    assert len(answers[2]) == trackers.SAMPLES
    first, last = (table.slice(row, 1).to_pylist()[0] for row in (0, len(table) - 1))
    assert answers[2][0][:3] == (first["id"], first["image"], first["question"])
    assert answers[2][-1][0] == last["id"], "from the whole split"
    assert answers[3] == ["id", "image", "question", "answers", "answer", "score"]


def logger(cls: str, **arguments: Any) -> Namespace:
    path = f"lightning.pytorch.loggers.{cls}"
    return Namespace(class_path=path, init_args=Namespace(**arguments))


def test_what_the_user_gave_stays(tmp_path: Path) -> None:
    run, folder = RunOptions(folder=str(tmp_path), name="mine"), tmp_path / "mine/now"
    given = logger("CSVLogger", save_dir="elsewhere", name="lightning_logs", version=None)
    filled = with_defaults(given, run, folder)
    assert filled.init_args == Namespace(save_dir="elsewhere", name="", version="now")
    assert with_defaults([True, None], run, folder) == [True, None]


def test_a_tracker_that_is_not_installed_is_named(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="got WandbLogger, and wandb is not installed; run `pip"):
        with_defaults(logger("WandbLogger"), RunOptions(), tmp_path)
    with pytest.raises(SystemExit) as left:
        main(fit(data, tmp_path, "--trainer.logger=CometLogger"))
    assert left.value.code == 2
    assert "pip install comet_ml" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of MLflow and what it imports
def test_mlflow_has_all_of_a_run(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="pip install mlflow")
    from mlflow.tracking import MlflowClient

    cli = VQACLI(
        fit(data, tmp_path, "--trainer.logger=MLFlowLogger", "--trainer.max_epochs=2",
            "--run.test=true", "--run.name=tracked")
    )  # fmt: skip
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("tracked")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == cli.run_folder.name
    assert run.info.status == "FINISHED"
    assert run.data.params["data/images_per_batch"] == "2"
    assert {"train_loss", "val_accuracy", "test_accuracy"} <= set(run.data.metrics)
    assert len(client.get_metric_history(run.info.run_id, "val_accuracy")) == 2
    artifacts = {found.path for found in client.list_artifacts(run.info.run_id)}
    assert artifacts == {"test_report.txt", "test_answers.csv"}
    folder = tmp_path / "mlflow" / run.info.run_id / "artifacts"
    assert "Accuracy on test" in (folder / "test_report.txt").read_text()
    rows = list(csv.DictReader(StringIO((folder / "test_answers.csv").read_text())))
    assert len(rows) == trackers.SAMPLES
    assert set(rows[0]) == {"id", "image", "question", "answers", "answer", "score"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of W&B and what it imports
def test_wandb_offline_has_all_of_a_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="pip install wandb")
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    cli = VQACLI(
        fit(data, tmp_path, "--trainer.logger=WandbLogger", "--trainer.logger.offline=true",
            "--trainer.max_epochs=2", "--run.test=true", "--run.name=tracked")
    )  # fmt: skip
    experiment = cli.trainer.loggers[1].experiment
    assert (experiment.project, experiment.name) == ("tracked", cli.run_folder.name)
    assert experiment.config["data"]["images_per_batch"] == 2
    assert {"train_loss", "val_accuracy", "test_accuracy"} <= set(experiment.summary.keys())
    wandb.finish()
    (stored,) = (cli.run_folder / "wandb").glob("offline-run-*")
    assert list(stored.glob("*.wandb"))
    tables = {path.name.split("_")[1] for path in (stored / "files/media/table").glob("*.json")}
    assert tables == {"report", "answers"}
    (answers,) = (stored / "files/media/table").glob("test_answers*.json")
    assert len(json.loads(answers.read_text())["data"]) == trackers.SAMPLES
