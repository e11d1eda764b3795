"""The same questions train as well in any script as in English."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pytest
from custom_files import CONFIG, small, write_rows
from scripts import LANGUAGES, draw_shapes, rows_in

from vlm.cli.main import main


def accuracy(folder: Path, script: str, seed: int) -> float:
    """Trains the default custom-data model on `script`; returns its accuracy on unseen images."""
    parts = {}
    for name, images, number in (("train", 240, 0), ("validation", 45, 1), ("test", 90, 2)):
        drawn = draw_shapes(folder / "photos", images, number)
        rows = list(rows_in(LANGUAGES[script], drawn, number))
        parts[name] = write_rows(folder / f"{name}.jsonl", rows)
    options = [f"--dataset.{name}={parts[name]}" for name in ("validation", "test")]
    small_model = ["--model.image_encoder.image_size=32", "--data.images_per_batch=8"]
    run = ["--trainer.max_epochs=10", f"--seed_everything={seed}", *options, *small_model]
    main(["fit", "-c", CONFIG, *small(folder, parts["train"], *run)])
    (report,) = folder.glob("runs/own_data/*/test.json")
    return json.loads(report.read_text())["results"][0]["accuracy"]


@pytest.mark.slow
def test_hindi_trains(tmp_path: Path) -> None:
    assert accuracy(tmp_path, "Devanagari", 0) > 0.99


@pytest.mark.slow
def test_every_script_trains_as_english_does(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The mean accuracy of three seeds is at most one percentage point below that of English."""
    means = {
        script: 100 * fmean(accuracy(tmp_path_factory.mktemp("run"), script, s) for s in range(3))
        for script in LANGUAGES
    }
    assert means["Latin"] > 98
    assert min(means.values()) >= means["Latin"] - 1, means
