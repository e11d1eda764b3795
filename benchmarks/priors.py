"""Fusions and LMH where the prior of the answers changes between training and test.

    python benchmarks/priors.py --out runs/priors.json
    python benchmarks/priors.py --out runs/priors.json --models product "product + LMH" --seeds 0

Trains each model on Scenes with `part=priors`, where one answer to each form of question has 80 %
in training and another one in test, and tests its last epoch there and on `part=standard`, where
all answers are as likely. The last, since the best on validation is the best for the priors of
training. What is finished is read from the file, so the command can be stopped and given again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vlm.cli.training_cli import VQACLI
from vlm.core.files import write_whole

POOLED = ["--model.fusion=vlm.fusion.Pooled"]
LMH = ["--model.head=LearnedMixin"]
MODELS = {
    "product": POOLED,
    "product + LMH": [*POOLED, *LMH],
    "4 glimpses": [],
    "4 glimpses + LMH": LMH,
    "FiLM": ["--model.fusion=vlm.fusion.FiLM"],
    "FiLM + LMH": ["--model.fusion=vlm.fusion.FiLM", *LMH],
}
PARTS = ("priors", "standard")


def trained(model: str, seed: str, given: argparse.Namespace) -> Path:
    """The folder of a finished run; one that was stopped goes on."""
    cli = VQACLI(
        [
            "fit",
            "--config=configs/scenes.yaml",
            *MODELS[model],
            "--dataset.part=priors",
            f"--dataset.abilities=[{','.join(given.abilities)}]",
            f"--dataset.scenes={given.scenes}",
            f"--trainer.max_epochs={given.epochs}",
            f"--seed_everything={seed}",
            f"--data.seed={seed}",
            f"--run.folder={given.out.parent}",
            "--run.name=priors",
            "--run.resume=auto",
            "--run.test=false",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
        ]
    )
    return Path(cli.run_folder)


def tested(run: Path, part: str, given: argparse.Namespace) -> dict[str, float]:
    """Accuracy in % by ability, and of all."""
    cli = VQACLI(
        [
            "test",
            f"--config={run / 'config.yaml'}",
            f"--ckpt_path={run / 'checkpoints/last.ckpt'}",
            f"--dataset.part={part}",
            f"--run.folder={given.out.parent}",
            "--run.name=priors-test",
            "--trainer.enable_progress_bar=false",
        ]
    )
    rows = json.loads((Path(cli.run_folder) / "test.json").read_text())["results"]
    return {row["type"]: 100 * row["accuracy"] for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--scenes", type=int, default=1200, help="training images")
    parser.add_argument("--abilities", nargs="+", default=["attribute", "exist", "position"])
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}
    images = f"{given.scenes:,} training images"
    setting = f"{', '.join(given.abilities)}; {images}, {given.epochs} epochs"
    for seed in map(str, given.seeds):
        for model in given.models:
            of_model = found.setdefault(setting, {}).setdefault(model, {})
            if seed not in of_model:
                run = trained(model, seed, given)
                of_model[seed] = {part: tested(run, part, given) for part in PARTS}
                write_whole(given.out, json.dumps(found, indent=1).encode())
    Console(width=140).print(report(setting, found[setting]))


def report(setting: str, found: dict[str, dict[str, Any]]) -> Table:
    """Mean, lowest and highest accuracy over the seeds of each model."""
    table = Table(title=f"accuracy %, mean (range) over seeds; {setting}")
    for heading in ("model", "seeds", "test"):
        table.add_column(heading)
    abilities = [*next(iter(next(iter(found.values())).values()))[PARTS[0]]]
    for ability in abilities:
        table.add_column(ability, justify="right")
    for model, seeds in found.items():
        for part in PARTS:
            columns = [
                [result[part][ability] for result in seeds.values()] for ability in abilities
            ]
            cells = (f"{statistics.mean(c):.1f} ({min(c):.1f} - {max(c):.1f})" for c in columns)
            table.add_row(model, str(len(seeds)), part, *cells)
    return table


if __name__ == "__main__":
    main()
