"""Every Lightning trainer option and callback works here or is refused at once.

The tables have one row for each use: the arguments, and either the error message or the effect.
"""

from __future__ import annotations

import csv
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Union

import lightning.pytorch.callbacks
import pytest
import torch
from conftest import rows_slow
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from training_runs import fit

from vlm.cli.main import main
from vlm.cli.parser import ConciseParser
from vlm.cli.training_cli import VQACLI
from vlm.core.batch import Batch
from vlm.core.errors import ConfigError
from vlm.heads import Classification
from vlm.training.task import VQATask
from vlm.training.trainer_options import check_callbacks


class Done(NamedTuple):
    """A training run of two epochs, with five batches each unless an option changes that."""

    cli: VQACLI
    asked: list[tuple[int, list[str]]]
    """Epoch and questions of each batch."""

    @property
    def steps(self) -> int:
        return self.cli.trainer.global_step

    @property
    def rows(self) -> list[dict[str, str]]:
        path = self.cli.run_folder / "metrics.csv"
        with path.open(newline="") as file:
            return list(csv.DictReader(file))

    def logged(self, name: str) -> list[str]:
        return [row[name] for row in self.rows if row.get(name)]

    @property
    def saved(self) -> set[str]:
        return {path.name for path in (self.cli.run_folder / "checkpoints").glob("*")}


Check = Callable[[Done], bool]


def steps(number: int) -> Check:
    return lambda done: done.steps == number


def validations(number: int) -> Check:
    return lambda done: len(done.logged("val_accuracy")) == number


def _overfitted(done: Done) -> bool:
    first, second = ([ids for epoch, ids in done.asked if epoch == n] for n in (0, 1))
    return first == second and len(first) == done.steps / 2


def _dtype(dtype: torch.dtype) -> Check:
    return lambda done: next(done.cli.model.parameters()).dtype == dtype


UNCHANGED = "the weights of a training without it"
SCHEDULE = "--model.schedule=null"
TEST = "--run.test=true"
ARGUMENTS: dict[str, list[tuple[list[str], str | Check]]] = {
    "accelerator": [(["cpu"], UNCHANGED), (["gpu"], "No supported gpu|accelerator")],
    "accumulate_grad_batches": [(["3"], steps(4)), (["100"], steps(2)), (["0"], "expected at l")],
    "barebones": [(["true"], "barebones: got True; leave it out")],
    "benchmark": [(["true"], UNCHANGED)],
    "callbacks": [],  # in the table below
    "check_val_every_n_epoch": [(["2"], validations(1)), (["0"], "got 0; expected at least 1")],
    "default_root_dir": [(["x"], "default_root_dir: got x; use run.folder")],
    "detect_anomaly": [(["true"], UNCHANGED)],
    "deterministic": [(["true"], UNCHANGED)],
    "devices": [
        (["1"], UNCHANGED),
        (["auto"], UNCHANGED),
        (["[0]"], "trainer: `devices`"),
        (["-1"], "trainer: `devices`"),
    ],
    "enable_autolog_hparams": [(["false"], UNCHANGED)],
    "enable_checkpointing": [(["false"], lambda done: not done.saved)],
    "enable_model_summary": [(["true"], UNCHANGED)],
    "enable_progress_bar": [(["true"], UNCHANGED)],
    "fast_dev_run": [
        (["2", TEST], lambda done: done.steps == 2 and not done.saved),
    ],
    "gradient_clip_algorithm": [
        (["value", "--trainer.gradient_clip_val=1e-6"], steps(10)),
        (["x"], "`gradient_clip_algorithm` x is invalid"),
    ],
    "gradient_clip_val": [(["1e9"], UNCHANGED), (["-1"], "got -1.*; expected at least 0")],
    "inference_mode": [(["false"], UNCHANGED)],
    "limit_predict_batches": [],  # see `test_limits_of_an_evaluation`
    "limit_test_batches": [
        (["1", TEST], lambda done: (done.cli.run_folder / "test.json").is_file()),
        (["0", TEST], "limit_test_batches: got 0; expected more than 0 for run.test=true"),
        (["0.01", TEST], r"limit_test_batches: got 0.01 of 6 batches; expected at least 0\.16"),
    ],
    "limit_train_batches": [
        (["2"], steps(4)),
        (["0.5"], steps(4)),
        (["0"], "limit_train_batches: got 0; expected more than 0 for `fit`"),
        (["0.01"], r"trainer: .*0\.01.*limit_train_batches"),
        (["-1"], "invalid value -1 for limit_train_batches"),
    ],
    "limit_val_batches": [
        (["0"], lambda done: "best.ckpt" not in done.saved and "last.ckpt" in done.saved),
        (["1"], validations(2)),
        (["0.5"], validations(2)),
        (["0.01"], r"trainer: .*0\.01.*limit_val_batches"),
    ],
    "log_every_n_steps": [
        (["1"], lambda done: len(done.logged("train_loss")) == 10),
        (["0"], lambda done: not done.logged("train_loss") and len(done.rows) == 2),
        (["-1"], "log_every_n_steps: got -1; expected at least 0"),
    ],
    "logger": [
        (["false"], lambda done: not list(done.cli.run_folder.rglob("metrics.csv"))),
        (["CSVLogger", "--trainer.logger.save_dir=FOLDER/log"], UNCHANGED),
    ],
    "max_epochs": [
        (["1"], steps(5)),
        (["-1", "--trainer.max_steps=7"], steps(7)),
        (["null", "--trainer.max_steps=7"], steps(7)),
        (["0"], "max_epochs: got 0; expected a positive number, or -1"),
        (["-1"], "max_epochs: got -1 without trainer.max_steps; .* model.schedule=null"),
    ],
    "max_steps": [(["3"], steps(3)), (["0"], "max_steps: got 0; expected a positive number")],
    "max_time": [
        (["00:00:00:01", "--trainer.max_epochs=-1", SCHEDULE], lambda done: done.steps > 0),
        (["00:00:00:00"], steps(0)),
        (["x"], r"duration='x'"),
    ],
    "min_epochs": [(["1"], UNCHANGED), (["5"], "min_epochs: got 5; expected at most .*=2")],
    "min_steps": [
        (["1"], UNCHANGED),
        (["8", "--trainer.max_steps=7"], "min_steps: got 8; expected at most .*max_steps=7"),
    ],
    "model_registry": [(["x"], "model_registry: got x; use `vlm share`")],
    "num_nodes": [(["1"], UNCHANGED), (["0"], "num_nodes")],
    "num_sanity_val_steps": [(["1"], UNCHANGED), (["-1"], UNCHANGED)],
    "overfit_batches": [
        (["1"], _overfitted),
        (["0.5"], _overfitted),
        (["2", "--trainer.reload_dataloaders_every_n_epochs=1"], _overfitted),
        (["0.01"], "limit_train_batches"),
        (["1.5"], "invalid value 1.5 for overfit_batches"),
    ],
    "plugins": [
        (["lightning.pytorch.plugins.io.TorchCheckpointIO"], "plugins: got a CheckpointIO; leave"),
    ],
    "precision": [
        (["64"], _dtype(torch.float64)),
        (["bf16-true"], _dtype(torch.bfloat16)),
        (["bf16-mixed"], _dtype(torch.float32)),
        (["16-mixed"], _dtype(torch.float32)),
        (["transformer-engine"], "transformer_engine"),
    ],
    "profiler": [(["simple"], UNCHANGED), (["x"], "`profiler`")],
    "reload_dataloaders_every_n_epochs": [(["1"], UNCHANGED)],
    "strategy": [
        (["auto"], UNCHANGED),
        (["ddp_spawn"], "strategy: got one that forks or spawns"),
        (["ddp_notebook"], "strategy: got one that forks or spawns"),
        (["deepspeed"], "DeepSpeed"),
        (["fsdp"], "fsdp.*requires a GPU"),
    ],
    "sync_batchnorm": [
        (["true"], UNCHANGED),
        (["true", "--trainer.devices=2", "--trainer.strategy=ddp"], "got true on CPUs"),
    ],
    "use_distributed_sampler": [(["true"], UNCHANGED), (["false"], UNCHANGED)],
    "val_check_interval": [
        (["2"], validations(4)),
        (["0.5"], validations(4)),
        (["8", "--trainer.check_val_every_n_epoch=null"], validations(1)),
        (["00:00:30:00"], validations(0)),
        (["0"], "val_check_interval: got 0; expected more than 0"),
        (["100"], r"trainer: `val_check_interval` \(100\) must be less"),
    ],
}


def _own_folder(done: Done) -> bool:
    return bool(list(done.cli.run_folder.parents[2].glob("own/*.ckpt")))


HERE = "lightning.pytorch.callbacks."
CALLBACKS: dict[str, list[tuple[dict[str, Any], str | Check]]] = {
    "BackboneFinetuning": [({}, "got BackboneFinetuning; use model.tuning")],
    "BaseFinetuning": [({}, "got BaseFinetuning; use model.tuning")],
    "BasePredictionWriter": [({}, UNCHANGED)],
    "BatchSizeFinder": [({}, "got BatchSizeFinder; use data.images_per_batch")],
    "Callback": [({}, UNCHANGED)],
    "Checkpoint": [({}, UNCHANGED)],
    "DeviceStatsMonitor": [({}, UNCHANGED)],
    "EMAWeightAveraging": [({"decay": 0.9}, steps(10))],  # exactly: test_distributed.py
    "EarlyStopping": [
        ({"monitor": "val_loss", "stopping_threshold": 1e9}, steps(5)),
        ({"monitor": "val_accuracy", "mode": "max", "stopping_threshold": -1}, steps(5)),
        ({"monitor": "train_loss"}, UNCHANGED),
        ({"monitor": "val_acc"}, "monitor=val_acc; expected one of train_loss, val_accuracy, val"),
        ({"monitor": "val_accuracy"}, "mode=min; expected mode=max. It would keep the worst"),
        ({"monitor": "val_loss", "mode": "max"}, "mode=max; expected mode=min"),
        ({"monitor": "val_loss", "--trainer.limit_val_batches": 0}, "expected one of train_loss"),
        (
            {
                "monitor": "train_loss",
                "--trainer.limit_val_batches": 0,
                "--trainer.log_every_n_steps": 0,
            },
            "expected none: nothing is logged",
        ),
    ],
    "GradientAccumulationScheduler": [({"scheduling": "{1: 2}"}, "use trainer.accumulate_grad")],
    "LambdaCallback": [({}, UNCHANGED)],
    "LearningRateFinder": [({}, "got LearningRateFinder; use model.optimizer.lr")],
    "LearningRateMonitor": [
        ({}, lambda done: any("lr-" in name for name in done.rows[0])),
        ({"--trainer.logger": False}, "trainer: Cannot use `LearningRateMonitor`.* no logger"),
    ],
    "ModelCheckpoint": [
        ({"dirpath": "FOLDER/own"}, _own_folder),
        ({"dirpath": "FOLDER/own", "monitor": "val_loss"}, _own_folder),
        ({}, "got ModelCheckpoint without a dirpath; .* run.monitor"),
        ({"dirpath": "FOLDER/own", "monitor": "loss"}, "monitor=loss; expected one of"),
        ({"dirpath": "FOLDER/own", "monitor": "val_accuracy"}, "expected mode=max"),
    ],
    "ModelPruning": [({"pruning_fn": "l1_unstructured"}, "got ModelPruning; leave it out")],
    "ModelSummary": [({}, UNCHANGED)],
    "OnExceptionCheckpoint": [({"dirpath": "FOLDER"}, "use run.checkpoint_steps")],
    "ProgressBar": [
        ({"--trainer.enable_progress_bar": True}, UNCHANGED),
        ({}, "enable_progress_bar=False"),
    ],
    "RichModelSummary": [({}, UNCHANGED)],
    "RichProgressBar": [({"--trainer.enable_progress_bar": True}, UNCHANGED)],
    "SpikeDetection": [({}, "got SpikeDetection; leave it out")],
    "StochasticWeightAveraging": [({"swa_lrs": 0.01}, "use EMAWeightAveraging or WeightAver")],
    "TQDMProgressBar": [({"--trainer.enable_progress_bar": True}, UNCHANGED)],
    "ThroughputMonitor": [({"batch_size_fn": "builtins.len"}, UNCHANGED)],
    "Timer": [({"duration": "00:00:01:00"}, "got Timer; use trainer.max_time")],
    "WeightAveraging": [({}, steps(10))],
}
ADDED = [
    "ignore:.*logging interval",
    "ignore:You're using the WeightAveraging",
    "ignore:When using the `ThroughputMonitor`",
    "ignore:.*Unable to serialize instance",
]


def _callback(name: str, arguments: dict[str, Any]) -> list[str]:
    own = [f"{k}={v}" for k, v in arguments.items() if k.startswith("--")]
    given = [f"--trainer.callbacks.{k}={v}" for k, v in arguments.items() if not k.startswith("--")]
    return [f"--trainer.callbacks+={HERE}{name}", *given, *own]


ROWS = [
    ([f"--trainer.{name}={asked[0]}", *asked[1:]], outcome)
    for name, rows in ARGUMENTS.items()
    for asked, outcome in rows
] + [
    (_callback(name, arguments), outcome)
    for name, rows in CALLBACKS.items()
    for arguments, outcome in rows
]
REFUSED = [
    (options, outcome)
    for options, outcome in ROWS
    if outcome != UNCHANGED and not callable(outcome)
]
WORKS = [(options, outcome) for options, outcome in ROWS if callable(outcome)]
CHANGES_NOTHING = [options for options, outcome in ROWS if outcome == UNCHANGED]


def ids(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else ""


def told(data: Path, folder: Path, options: list[str]) -> list[str]:
    options = [option.replace("FOLDER", str(folder)) for option in options]
    return fit(data, folder / "runs", "--trainer.max_epochs=2", *options)


def test_the_tables_have_all_there_are() -> None:
    assert set(ARGUMENTS) == set(inspect.signature(Trainer).parameters)
    assert set(CALLBACKS) == set(lightning.pytorch.callbacks.__all__)


@pytest.mark.parametrize(("options", "message"), rows_slow(REFUSED, 4), ids=ids)
def test_refused_in_a_sentence(
    options: list[str],
    message: str,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(told(data, tmp_path, options))
    assert ended.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vlm")]
    assert len(lines) == 1
    assert re.search(message, lines[0]), lines[0]
    assert not list(tmp_path.rglob("*.ckpt")), "before the training"


@pytest.mark.slow
@pytest.mark.filterwarnings(*ADDED)
@pytest.mark.parametrize(("options", "check"), WORKS, ids=ids)
def test_works(
    options: list[str], check: Check, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    step = VQATask.training_step

    def watched(task: VQATask, batch: Batch, index: int) -> torch.Tensor:
        asked.append((task.current_epoch, batch.ids))
        return step(task, batch, index)

    monkeypatch.setattr(VQATask, "training_step", watched)
    done = Done(VQACLI(told(data, tmp_path, options)), asked)
    assert check(done), (done.steps, done.saved, asked)


@pytest.fixture(scope="module")
def plain(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights after training without any option."""
    return VQACLI(told(data, tmp_path_factory.mktemp("plain"), [])).model.state_dict()


@pytest.mark.slow
@pytest.mark.filterwarnings(*ADDED)
@pytest.mark.parametrize("options", CHANGES_NOTHING, ids=ids)
def test_changes_no_weight(
    options: list[str], plain: dict[str, torch.Tensor], data: Path, tmp_path: Path
) -> None:
    cli = VQACLI(told(data, tmp_path, options))
    assert cli.trainer.global_step == 10
    for name, value in cli.model.state_dict().items():
        torch.testing.assert_close(value, plain[name], rtol=0, atol=0, msg=name)


def test_overfitting_has_the_same_batches_in_every_epoch(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test_works(["--trainer.overfit_batches=2"], _overfitted, data, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("subcommand", "part"),
    rows_slow([("validate", "val"), ("test", "test"), ("predict", "predict")], 3),
)
def test_limits_of_an_evaluation(
    subcommand: str,
    part: str,
    run: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = [
        subcommand,
        f"-c={run / 'config.yaml'}",
        f"--ckpt_path={run / 'checkpoints/best.ckpt'}",
        f"--run.folder={tmp_path}",
    ]
    for limit, message in (("0", "expected more than 0 for"), ("0.01", "trainer: .*0.01")):
        with pytest.raises(SystemExit) as ended:
            main([*asked, f"--trainer.limit_{part}_batches={limit}"])
        assert ended.value.code == 2
        assert re.search(message, capsys.readouterr().err)
    VQACLI([*asked, f"--trainer.limit_{part}_batches=1"])
    if subcommand == "predict":
        (answers,) = tmp_path.rglob("predictions.jsonl")
        assert 0 < len(answers.read_text().splitlines()) < 36


def test_the_logged_loss_is_that_of_the_batches_that_a_step_has(data: Path, tmp_path: Path) -> None:
    """With five batches and two per step, the last step has only one batch."""
    frozen = ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0"]
    options = [*frozen, "--trainer.log_every_n_steps=1", "--model.fusion.merge.dropout=0"]
    logged = []
    for accumulate in (1, 2):
        accumulated = f"--trainer.accumulate_grad_batches={accumulate}"
        cli = VQACLI(told(data, tmp_path / str(accumulate), [*options, accumulated]))
        logged.append([float(loss) for loss in Done(cli, []).logged("train_loss")])
    assert logged[1] == pytest.approx(logged[0])


class Logs(Callback):
    """A user's callback, which logs a metric."""


def test_a_figure_of_a_user_s_callback_is_watched() -> None:
    watching = EarlyStopping(monitor="val_f1", mode="max")
    options = SimpleNamespace(callbacks=[watching], log_every_n_steps=1, limit_val_batches=1.0)
    head = Classification(3, ["yes"])
    with pytest.raises(ConfigError, match=r"monitor=val_f1; expected one of train_loss"):
        check_callbacks(options, head)
    options.callbacks.append(Logs())
    check_callbacks(options, head)
    watching.monitor = "val_loss"
    with pytest.raises(ConfigError, match="mode=max; expected mode=min"):
        check_callbacks(options, head)


def test_a_whole_number_is_no_share_whichever_type_was_named_first() -> None:
    """`typing` caches types, so Lightning's option may get another library's
    `Optional[Union[float, int]]`."""

    class Limited:
        def __init__(self, limit: Union[float, int, None] = None) -> None:  # noqa: UP007  the order
            pass

    parser = ConciseParser()
    parser.add_class_arguments(Limited, "it")
    for given, expected in (("1", int), ("1.0", float), ("0.5", float)):
        assert type(parser.parse_args([f"--it.limit={given}"]).it.limit) is expected
    assert parser.parse_args(["--it.limit=null"]).it.limit is None


def test_a_type_that_cannot_be_found_may_stand_beside_numbers() -> None:
    class Limited:
        def __init__(self, limit: Union[float, int, "Elsewhere"] = 1) -> None:  # type: ignore[name-defined]  # noqa: F821, UP007, UP037
            pass

    parser = ConciseParser()
    parser.add_class_arguments(Limited, "it")
    assert type(parser.parse_args(["--it.limit=2"]).it.limit) is int
