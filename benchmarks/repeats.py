"""Trainings of several variants with several seeds: kept in a file, shown as a table."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch import Trainer
from scipy.stats import t

import vlm
from vlm.cli.training_cli import VQACLI
from vlm.core.files import write_whole
from vlm.inference import load
from vlm.model import VQAModel
from vlm.training.fit import saved_checkpoint
from vlm.training.task import VQATask

Figures = dict[str, float]
Table = Callable[[dict[str, dict[str, Figures]]], str]
"""Of variants and seeds."""


class Trained(NamedTuple):
    """A finished training, and the model of its best epoch."""

    cli: VQACLI
    model: VQAModel

    def accuracy(self, data: vlm.VQADataModule) -> float:
        """Test accuracy in %."""
        model = self.model
        parts = model.image_encoder, model.text_encoder, model.fusion, model.head
        task = VQATask(*parts, tuning=self.cli.model.tuning)
        quiet = Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False,
                        accelerator="cpu")  # fmt: skip
        (figures,) = quiet.test(task, datamodule=data, verbose=False)
        return 100 * float(figures["test_accuracy"])


def trained(folder: Path, name: str, seed: int, settings: Sequence[str]) -> Trained:
    """Train as `vlm fit` does with these options."""
    cli = VQACLI(
        [
            "fit",
            *settings,
            f"--seed_everything={seed}",
            f"--data.seed={seed}",
            f"--run.folder={folder}",
            f"--run.name={name}",
            "--run.monitor=val_accuracy",
            "--run.test=false",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
        ]
    )
    checkpoint = saved_checkpoint(Path(cli.run_folder))
    assert checkpoint is not None
    return Trained(cli, load(checkpoint).model)


def mean_interval(values: Sequence[float]) -> str:
    """Mean with its 95 % interval (Student's t), or the one value there is."""
    mean = f"{statistics.mean(values):.1f}"
    if len(values) == 1:
        return mean
    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean} ± {half:.1f}"


def means(results: dict[str, dict[str, Figures]]) -> str:
    """A Markdown table of means with their intervals."""
    names = list(next(iter(next(iter(results.values())).values())))
    lines = [f"| variant | seeds | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}"]
    for variant, seeds in results.items():
        cells = [mean_interval([each[name] for each in seeds.values()]) for name in names]
        lines.append(f"| {variant} | {len(seeds)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def repeat(
    out: Path,
    setting: str,
    variants: Iterable[str],
    seeds: Sequence[int],
    measured: Callable[[str, int], Figures],
    table: Table = means,
) -> str:
    """Measure every variant with every seed that `out` lacks for this setting; its table.

    Each result is saved at once to `out`, and all tables to a Markdown file of the same name.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(out.read_text()) if out.exists() else {}
    of_setting = results.setdefault(setting, {})
    for seed in seeds:
        for variant in variants:
            of_variant = of_setting.setdefault(variant, {})
            if str(seed) not in of_variant:
                of_variant[str(seed)] = measured(variant, seed)
                write_whole(out, json.dumps(results, indent=1).encode())
                tables = [f"{about}\n\n{table(found)}" for about, found in results.items()]
                write_whole(out.with_suffix(".md"), "\n".join(tables).encode())
    return table(of_setting)
