"""Cached features in several processes: encoded once, with the results of one process."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from training_runs import DDP, FSDP, fit, only_run, run

from vlm.cli.training_cli import VQACLI

pytestmark = pytest.mark.slow
MORE = [
    "--model.tuning.image_encoder.frozen=true",
    "--model.fusion.merge.dropout=0",
    "--dataset.validation_share=0.33",  # 8 training images: two processes take as many steps
    "--run.test=true",
    "--run.resume=auto",  # a folder name without the start time
]


def losses(folder: Path) -> dict[str, list[float]]:
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = ("train_loss", "val_loss", "test_loss")
    return {name: [float(row[name]) for row in rows if row[name]] for name in names}


def test_two_processes_have_the_numbers_of_one(data: Path, tmp_path: Path) -> None:
    """The training images have at most three colours, and each is encoded only once."""
    features = f"--data.images.features={tmp_path / 'features'}"
    alone = VQACLI(fit(data, tmp_path / "one", *MORE)).run_folder
    half = ["--data.images_per_batch=1", *DDP]
    done = run(fit(data, tmp_path / "two", *MORE, features, *half), processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Encoding ") == len(list(tmp_path.rglob("*.safetensors"))) >= 1
    one, two = losses(alone), losses(only_run(tmp_path / "two"))
    for name in one:
        assert one[name], name
        assert one[name] == pytest.approx(two[name], rel=1e-4), name


def test_a_model_divided_over_processes_is_refused(data: Path, tmp_path: Path) -> None:
    features = f"--data.images.features={tmp_path / 'features'}"
    done = run(fit(data, tmp_path / "runs", *MORE, features, *FSDP), processes=2)
    assert done.returncode == 1
    assert "trainer.strategy divides the model over the processes" in done.stderr
