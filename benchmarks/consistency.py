"""What the loss of pairs changes: accuracy, and how often two wordings get contradictory answers.

    python benchmarks/consistency.py --out runs/consistency.json
    python benchmarks/consistency.py --out runs/consistency.json --weights 0 0.1 --seeds 0

Trains `configs/scenes.yaml` on questions with their other wordings (`pairs`), with each weight of
`Classification(consistency=...)`, and compares the answers to the pairs of the test. Flipped:
paraphrases and equivalent questions whose two answers differ. Contradictory: contradictions whose
answers are not yes and no, one each. Both right: pairs of all kinds with two right answers. What is
finished is read from the file, so the command can be stopped and given again.
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
from vlm.datasets import Scenes


def measured(weight: float, seed: int, given: argparse.Namespace) -> dict[str, float]:
    """Train and test once; shares in %."""
    cli = VQACLI(
        [
            "fit",
            "--config=configs/scenes.yaml",
            "--dataset.pairs=true",
            f"--dataset.scenes={given.scenes}",
            f"--dataset.abilities=[{','.join(given.abilities)}]",
            f"--model.head.init_args.consistency={weight}",
            f"--trainer.max_epochs={given.epochs}",
            f"--seed_everything={seed}",
            f"--data.seed={seed}",
            f"--run.folder={given.out.parent}",
            "--run.name=consistency",
            "--run.resume=auto",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
        ]
    )
    lines = (Path(cli.run_folder) / "test_predictions.jsonl").read_text().splitlines()
    found = {row["id"]: row for row in map(json.loads, lines)}
    data = Scenes(pairs=True, scenes=given.scenes, abilities=given.abilities)
    return figures(found, data.table("test").to_pylist())


def figures(found: dict[str, Any], questions: list[dict[str, Any]]) -> dict[str, float]:
    """Of the answers by id, shares in %."""
    plain = [found[row["id"]]["score"] for row in questions if row["pair"] is None]
    shares: dict[str, list[bool]] = {}
    for row in questions:
        if row["pair"] is None:
            continue
        one, other = found[row["pair"]], found[row["id"]]
        answers = {one["answer"], other["answer"]}
        if row["relation"] == "contradiction":
            shares.setdefault("contradictory", []).append(answers != {"yes", "no"})
        else:
            shares.setdefault(f"{row['relation']} flipped", []).append(len(answers) > 1)
        shares.setdefault("both right", []).append(one["score"] == other["score"] == 1)
    means = {name: 100 * statistics.fmean(values) for name, values in shares.items()}
    return {"accuracy": 100 * statistics.fmean(plain)} | means


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.1, 1.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--scenes", type=int, default=1200, help="training images")
    parser.add_argument("--abilities", nargs="+", default=["exist", "compare", "left of"])
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}
    images = f"{given.scenes:,} training images"
    setting = f"{', '.join(given.abilities)}; {images}, {given.epochs} epochs"
    for seed in given.seeds:
        for weight in given.weights:
            of_weight = results.setdefault(setting, {}).setdefault(str(weight), {})
            if str(seed) not in of_weight:
                of_weight[str(seed)] = measured(weight, seed, given)
                write_whole(given.out, json.dumps(results, indent=1).encode())
    table = Table(title=f"%, mean (range) over seeds; {setting}")
    rows = {weight: [*seeds.values()] for weight, seeds in results[setting].items()}
    names = [*next(iter(rows.values()))[0]]
    for heading in ("weight", "seeds", *names):
        table.add_column(heading, justify="right")
    for weight, found in rows.items():
        columns = [[each[name] for each in found] for name in names]
        cells = (f"{statistics.mean(c):.1f} ({min(c):.1f} - {max(c):.1f})" for c in columns)
        table.add_row(weight, str(len(found)), *cells)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
