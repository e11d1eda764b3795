"""`vlm.fit` does what `vlm fit` does: folder, checkpoints, resuming, report and test."""

from __future__ import annotations

import json
import re
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import rest_slow, write_data
from mishaps import Mishap, Strike
from test_plain_trainer import make
from training_runs import assert_same, fit, outcome

import vlm
from vlm.checkpoint.checkpoint import CheckpointError, read_checkpoint
from vlm.cli.training_cli import VQACLI
from vlm.core.errors import ConfigError

QUIET = {"log_every_n_steps": 2, "enable_progress_bar": False, "accelerator": "cpu"}


def run(data: Path, folder: Path, seed: int = 0, **options: Any) -> vlm.Run:
    """The equivalent of `training_runs.fit` in Python."""
    task, module = make(data, seed)
    named = {"folder": str(folder), "monitor": "val_loss", "max_epochs": 3, "test": False}
    return vlm.fit(task, module, **QUIET | named | options)


def test_it_leaves_what_the_command_line_leaves(data: Path, tmp_path: Path) -> None:
    told = fit(data, tmp_path / "command", "--run.test=true")
    theirs = VQACLI(told).run_folder
    ours = run(data, tmp_path / "python", test=True, name="easy_vqa")
    assert {p.name for p in theirs.rglob("*") if "events" not in p.name} == {
        p.name for p in ours.folder.rglob("*") if "events" not in p.name
    }
    assert_same(outcome(theirs), outcome(ours.folder))
    figures = json.loads((ours.folder / "test.json").read_text())["results"]
    assert ours.test["accuracy"] == pytest.approx(figures[0]["accuracy"])
    assert ours.test["accuracy"] != ours.test["loss"]
    assert ours.checkpoint == ours.folder / "checkpoints/best.ckpt"
    assert repr(ours) == f"Run({str(ours.folder)!r}, accuracy {ours.test['accuracy']:.4f})"
    assert len(repr(ours)) < 300


def test_its_answers_are_those_of_its_checkpoint(data: Path, tmp_path: Path) -> None:
    trained = run(data, tmp_path)
    image, question = data / "test/images/0.png", "what color is it?"
    answer = trained.answer(image, question)
    assert answer == vlm.load(trained.folder).answer(image, question)
    assert trained.test == {}


def test_its_configuration_tests_on_the_command_line(data: Path, tmp_path: Path) -> None:
    trained = run(data, tmp_path / "python", test=True)
    told = ["test", f"-c={trained.folder}/config.yaml", f"--ckpt_path={trained.checkpoint}"]
    cli = VQACLI([*told, f"--run.folder={tmp_path}/command"])
    (figures,) = cli.trainer.callback_metrics["test_accuracy"].reshape(1).tolist()
    assert figures == pytest.approx(trained.test["accuracy"])


def test_a_test_of_no_batch_has_no_report(data: Path, tmp_path: Path) -> None:
    trained = run(data, tmp_path, max_epochs=1)
    trained.trainer.limit_test_batches = 0
    assert trained.trainer.test(trained.task, trained.trainer.datamodule) == []  # type: ignore[attr-defined]
    assert not (trained.folder / "test.json").exists()


@pytest.mark.parametrize("how", rest_slow(["resume", "ckpt_path", "command"], "resume"))
def test_a_run_that_was_ended_goes_on(how: str, data: Path, tmp_path: Path) -> None:
    """The run stops before step 8, the third batch of the second epoch."""
    whole = run(data, tmp_path / "whole").folder
    strike = Strike("raise", "on_train_batch_start", 8)
    told: dict[str, Any] = {
        "checkpoint_steps": 2,
        **({"resume": "auto"} if how == "resume" else {}),
    }
    with pytest.raises(Mishap):
        run(data, tmp_path / "run", callbacks=[strike], **told)
    (config,) = (tmp_path / "run").rglob("config.yaml")
    if how == "command":
        arguments = ["fit", f"-c={config}", f"--ckpt_path={config.parent}"]
        again = VQACLI(arguments).run_folder
    else:
        more = {"ckpt_path": config.parent} if how == "ckpt_path" else {}
        again = run(data, tmp_path / "run", **told | more).folder
    assert again == config.parent
    assert_same(outcome(whole), outcome(again))


def test_a_seed_is_another_run(data: Path, tmp_path: Path) -> None:
    first = run(data, tmp_path, resume="auto", max_epochs=1)
    second = run(data, tmp_path, seed=1, resume="auto", max_epochs=1)
    assert first.folder != second.folder
    with pytest.raises(CheckpointError, match="seed_everything: 0 in the checkpoint, 1 asked"):
        run(data, tmp_path, seed=1, ckpt_path=first.folder, max_epochs=1)


def test_answers_in_another_order_are_refused(data: Path, tmp_path: Path) -> None:
    trained = run(data, tmp_path, max_epochs=1)
    task, module = make(data)
    module.dataset.__dict__["answers"] = module.answers[::-1]
    head = vlm.heads.Classification(task.model.fusion.out_dim, module.answers)
    parts = (task.model.image_encoder, task.model.text_encoder, task.model.fusion, head)
    again = vlm.VQATask(*parts, partial(torch.optim.AdamW, lr=0.003, weight_decay=0.01, fused=True))
    with pytest.raises(CheckpointError, match=r"head\.answers: 5 in the checkpoint, .* order"):
        vlm.fit(again, module, ckpt_path=trained.folder, folder=str(tmp_path), test=False, **QUIET)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_epoch": 3}, "max_epoch: got 3; .* Did you mean max_epochs?"),
        ({"monitor": "loss"}, "monitor: got 'loss'; .* val_loss"),
        ({"max_epochs": 0}, "max_epochs: got 0"),
        ({"resume": "auto", "ckpt_path": "x"}, "resume: got auto, and ckpt_path=x"),
        ({"strategy": "dpp"}, "strategy: got 'dpp'"),
    ],
)
def test_a_mistake_is_named(
    options: dict[str, Any], message: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(data, tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_handlers_of_signals_are_kept(data: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    run(data, tmp_path, max_epochs=1)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_checkpoint_has_its_run(tmp_path: Path) -> None:
    trained = run(write_data(tmp_path / "data"), tmp_path / "runs", max_epochs=1)
    assert trained.checkpoint is not None
    assert read_checkpoint(trained.checkpoint).about["run"] == str(trained.folder)


def test_few_steps_are_said_and_lightning_s_own_notes_are_not(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    run(data, tmp_path, log_every_n_steps=50, max_epochs=2, test=True)
    steps = re.search(
        r"Few steps: an epoch has (\d+), the training (\d+)\.", capsys.readouterr().out
    )
    assert steps is not None
    assert int(steps[2]) == 2 * int(steps[1])
    assert not [str(one.message) for one in recwarn if "logging interval" in str(one.message)]
    for note in ("PU available:", "Tip:", "`Trainer.fit` stopped", "Restoring states"):
        assert note not in caplog.text


def test_tables_stand_below_closed_progress_bars(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(data, tmp_path, max_epochs=1, test=True, enable_progress_bar=True)
    bars, table = capfd.readouterr().out.split("\nAccuracy on test")
    assert "Testing" in bars
    assert "Testing" not in table
