"""A signal before the first batch of `fit`, and after its last one: nothing to save, another start
wanted."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_runs import callback, fit, run


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
@pytest.mark.parametrize(("hook", "step"), [("on_fit_start", 0), ("on_test_start", 5)])
def test_it_ends_at_once_with_75(
    hook: str, step: int, name: str, data: Path, tmp_path: Path
) -> None:
    strike = callback("Strike", what=name, hook=hook, step=step)
    ended = run(fit(data, tmp_path, "--run.test=true", "--trainer.max_epochs=1", *strike))
    assert ended.returncode == 75, ended.stderr[-3000:]
    assert f"vlm: stopped by {name} while nothing was trained." in ended.stderr
    assert not list(tmp_path.rglob("test.json"))


@pytest.mark.parametrize("hook", ["on_sanity_check_start", "on_train_start"])
def test_lightning_s_own_end_takes_no_part(hook: str, data: Path, tmp_path: Path) -> None:
    """Its handler would end the training with exit code 0 and no checkpoint."""
    strike = callback("Strike", what="SIGTERM", hook=hook, step=0)
    told = ["--trainer.num_sanity_val_steps=1", "--trainer.max_epochs=1"]
    ended = run(fit(data, tmp_path, *told, *strike))
    assert ended.returncode == 75, ended.stderr[-3000:]
