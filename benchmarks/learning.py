"""How soon each fusion learns, swapped into one configuration with one option.

    python benchmarks/learning.py easy_vqa --out runs/learning/easy_vqa.json
    python benchmarks/learning.py scenes --out runs/learning/scenes.json --fusions MCAN --seeds 0

Trains `configs/any_fusion.yaml` with each fusion at its defaults: on easy-VQA for 12 epochs, on the
questions of Scenes about one object's shape for 16 ("scenes"), on those about shape and place for
20 ("positions"), on the latter for 8 with an image encoder that knows Scenes ("pretrained"), or on
SQOOP-lite for 12 ("sqoop"). What is finished is read from the file, so the command can be stopped
and given again. Beside the file lie two Markdown tables.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from pathlib import Path
from typing import Any

import vlm.fusion
from vlm.cli.training_cli import VQACLI
from vlm.core.files import write_whole
from vlm.fusion import Fusion, Merge

# The three that read pooled vectors alone.
POOLED = ("Pooled", "DeepSets", "ModalityAttention")
MERGES = [
    name
    for name in vlm.fusion.__all__
    if isinstance(made := getattr(vlm.fusion, name), type) and issubclass(made, Merge)
    if made is not Merge
]
TOKENS = [
    name
    for name in vlm.fusion.__all__
    if isinstance(made := getattr(vlm.fusion, name), type) and issubclass(made, Fusion)
    if made is not Fusion and name not in POOLED
]
SETTINGS = {
    "easy_vqa": [],
    "scenes": [
        "--dataset=Scenes",
        "--dataset.abilities=[attribute]",
        "--trainer.max_epochs=16",
    ],
    # Where the object lies in the image, and left of which other.
    "positions": [
        "--dataset=Scenes",
        "--dataset.abilities=[attribute,position,left of]",
        "--trainer.max_epochs=20",
    ],
    # The same, with the image encoder of the model that comes with vlm.
    "pretrained": [
        "--dataset=Scenes",
        "--dataset.abilities=[attribute,position,left of]",
        "--model.tuning.init_from=scenes",
        "--model.tuning.init_parts=[image_encoder]",
        "--trainer.max_epochs=8",
    ],
    # Pairs of letters that training never asks about: --option=--dataset.partners=1
    "sqoop": [
        "--dataset=SQOOPLite",
        "--data.images_per_batch=64",
        "--trainer.max_epochs=12",
    ],
}
FUSIONS = {
    "easy_vqa": [*MERGES, *POOLED[1:], *TOKENS],
    "scenes": TOKENS,
    "positions": TOKENS,
    "pretrained": ["Product", *TOKENS],
    "sqoop": ["Product", *TOKENS],
}


def measured(data: str, fusion: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Train once; test accuracy in %, and validation accuracy in % after each epoch."""
    merge = [f"--model.fusion.merge={fusion}"] if fusion in MERGES else []
    cli = VQACLI(
        [
            "fit",
            "--config=configs/any_fusion.yaml",
            *SETTINGS[data],
            f"--model.fusion={'Pooled' if merge else fusion}",
            *merge,
            f"--seed_everything={seed}",
            f"--data.seed={seed}",
            f"--run.folder={given.out.parent}",
            f"--run.name={data}",
            "--run.resume=auto",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            *given.option,
        ]
    )
    run = Path(cli.run_folder)
    rows = json.loads((run / "test.json").read_text())["results"]
    with (run / "metrics.csv").open(newline="") as lines:
        curve = [row["val_accuracy"] for row in csv.DictReader(lines) if row.get("val_accuracy")]
    return {
        "test": {
            row["type"]: [round(100 * row[name], 2) for name in ("accuracy", "low", "high")]
            for row in rows
        },
        "validation": [round(100 * float(value), 2) for value in curve],
        "factor": cli.model.model.fusion.lr_factor,
        "parameters": sum(each.numel() for each in cli.model.model.fusion.parameters()),
    }


def tables(results: dict[str, dict[str, Any]]) -> str:
    """Accuracy on test, of one seed with the interval over questions, then on validation after each
    epoch of the first seed. One line for each fusion, the best first."""
    abilities = [*next(iter(next(iter(results.values())).values()))["test"]]
    heads = ["fusion", "parameters", "factor", *(f"{ability} %" for ability in abilities)]
    scores = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    curves = ["| fusion | validation % after each epoch |", "|---|---|"]

    def mean(seeds: dict[str, Any], ability: str) -> float:
        return statistics.mean(each["test"][ability][0] for each in seeds.values())

    for fusion, seeds in sorted(results.items(), key=lambda row: -mean(row[1], abilities[0])):
        first = next(iter(seeds.values()))
        curve = ", ".join(f"{value:.1f}" for value in first["validation"])
        curves.append(f"| `{fusion}` | {curve} |")
        cells = [f"`{fusion}`", f"{first['parameters']:,}", f"{first['factor']:g}"]
        for ability in abilities:
            _, low, high = first["test"][ability]
            spread = f"{low:.2f} - {high:.2f}" if len(seeds) == 1 else f"{len(seeds)} seeds"
            cells.append(f"{mean(seeds, ability):.2f} ({spread})")
        scores.append(f"| {' | '.join(cells)} |")
    return "\n".join([*scores, "", *curves]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", choices=SETTINGS)
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    parser.add_argument("--fusions", nargs="+", choices=[*MERGES, *POOLED[1:], *TOKENS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--option", action="append", default=[], help="one more of `vlm fit`'s")
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}
    for seed in given.seeds:
        for fusion in given.fusions or FUSIONS[given.data]:
            seeds = results.setdefault(fusion, {})
            if str(seed) not in seeds:
                seeds[str(seed)] = measured(given.data, fusion, seed, given)
                write_whole(given.out, json.dumps(results, indent=1).encode())
                write_whole(given.out.with_suffix(".md"), tables(results).encode())
    print(tables(results))


if __name__ == "__main__":
    main()
