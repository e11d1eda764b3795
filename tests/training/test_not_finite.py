"""A number that is not finite ends training at once, and the error names the questions."""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training_runs import callback, fit, only_run

from vlm.checkpoint.file import read_checkpoint_file
from vlm.cli.main import main
from vlm.cli.training_cli import VQACLI
from vlm.core.batch import Batch
from vlm.core.features import as_features
from vlm.core.finite import NotFiniteError, check_finite
from vlm.evaluation.evaluation import Evaluation
from vlm.heads import Generation, TransformerDecoder
from vlm.training.fault_tolerance.finite import SKIPPED, FiniteCheck

IDS = ["a", "b", "c"]


def test_the_questions_without_a_finite_output_are_named() -> None:
    output = {"scores": torch.zeros(3, 5), "lengths": torch.ones(3), "names": IDS}
    check_finite(output, IDS)
    check_finite(torch.zeros(0, 5), [])
    output["scores"][1, 4] = math.nan
    output["lengths"][2] = math.inf
    with pytest.raises(NotFiniteError, match=r"not finite for 2 questions \(ids b, c\)"):
        check_finite(output, IDS)


def test_so_are_those_whose_written_answers_have_no_likelihood() -> None:
    head = Generation(3, partial(TransformerDecoder, dim=8, max_length=5)).eval()
    head.decoder.norm.weight.data.fill_(math.nan)
    nothing = torch.zeros(3, 0)
    batch = Batch(nothing, nothing, nothing, nothing, None, IDS, 3)
    output = head(as_features(torch.randn(3, 3), "joint"), batch)
    with pytest.raises(NotFiniteError, match=r"not finite for 3 questions \(ids a, b, c\)"):
        Evaluation(None, head, None).update(output, batch)


def gradient(value: float) -> list[Tensor]:
    first, second = torch.zeros(2, requires_grad=True), torch.zeros(3, requires_grad=True)
    first.grad, second.grad = torch.zeros(2), torch.tensor([0.0, value, 1.0])
    return [first, second, torch.zeros(1, requires_grad=True)]


def problem(health: FiniteCheck, value: float) -> str | None:
    health.gradients(gradient(value))
    health.finish(torch.tensor(1.0), torch.zeros(3, 5), IDS, "here")
    return health.problems().gradient


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_gradient_that_goes_into_the_weights_is_enough(value: float) -> None:
    assert problem(FiniteCheck(scaled=False), 1e15) is None
    assert "gradients are not finite; the last batch has 3 questions (ids a, b, c)" in str(
        problem(FiniteCheck(scaled=False), value)
    )


def test_a_scaler_may_skip_some() -> None:
    health = FiniteCheck(scaled=True)
    for _ in range(3):
        assert [problem(health, math.inf) for _ in range(SKIPPED - 1)] == [None] * (SKIPPED - 1)
        assert problem(health, 0.0) is None
        # Batches between two steps have no gradient to check and do not count.
        health.finish(torch.tensor(1.0), torch.zeros(3, 5), IDS, "here")
        assert health.problems() == (None, None, "here")
    for _ in range(SKIPPED - 1):
        problem(health, math.inf)
    assert f"{SKIPPED} steps running" in str(problem(health, math.inf))


def test_a_batch_is_described_once_and_where_it_was() -> None:
    """Its numbers are read one step later, when the trainer's counters have gone on."""
    health = FiniteCheck(scaled=False)
    health.finish(torch.tensor(math.nan), torch.tensor([1.0, math.nan, 1.0]), IDS, "after step 1")
    assert health.problems() == ("the loss is nan: 1 question (ids b)", None, "after step 1")
    assert health.problems() == (None, None, "")


@pytest.mark.parametrize(
    ("what", "hook", "step", "found"),
    [
        ("weight", "on_train_batch_start", 7, "after step 8 in epoch 2: the loss is nan"),
        ("gradient", "on_before_optimizer_step", 7, "after step 8 in epoch 2: gradients are not"),
        ("gradient", "on_before_optimizer_step", 4, "after step 5 in epoch 1: gradients are not"),
    ],
)
def test_it_ends_the_training_and_keeps_the_last_good_checkpoint(
    what: str,
    hook: str,
    step: int,
    found: str,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = ["--run.checkpoint_steps=2", *callback("Poison", what=what, hook=hook, step=step)]
    with pytest.raises(SystemExit) as ended:
        main(fit(data, tmp_path, *told))
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert found in said
    named = re.search(r"questions \(ids ([^)]+)\)", said)
    assert named
    assert all(re.fullmatch(r"train-\d+", name) for name in named[1].split(", "))
    last = only_run(tmp_path) / "checkpoints/last.ckpt"
    assert str(last.resolve()) in said
    assert read_checkpoint_file(last)["global_step"] == (6 if step == 7 else 4)


def test_no_accuracy_comes_from_a_broken_model(data: Path, tmp_path: Path) -> None:
    poison = callback("Poison", what="weight", hook="on_validation_start", step=5)
    with pytest.raises(NotFiniteError, match=r"no answer to score") as caught:
        VQACLI(fit(data, tmp_path, *poison))
    assert "train-" in str(caught.value)
    assert "val_accuracy" not in (only_run(tmp_path) / "metrics.csv").read_text()


def test_a_loss_of_validation_that_is_not_finite_is_no_best_one(data: Path, tmp_path: Path) -> None:
    """No later loss compares as better than NaN, so its checkpoint would remain the best."""
    told = ["--run.monitor=val_loss", "--model.head=mishaps.NoLossInEvaluation"]
    with pytest.raises(NotFiniteError, match="val_loss is nan"):
        VQACLI(fit(data, tmp_path, *told))
    assert not list(tmp_path.rglob("best.ckpt"))
