"""Test accuracy of a configuration over several seeds, with its cost.

    python benchmarks/accuracy.py configs/easy_vqa.yaml --seeds 0 1 2
    python benchmarks/accuracy.py configs/easy_vqa.yaml --seeds 0 1 2 -- --model.fusion=...

Every seed is a run of its own (`vlm fit`, which tests once); what follows `--` goes to it. The
interval is over seeds (Student's t); that of a single run, over questions, stands in its test.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vlm.cli.training_cli import VQACLI
from vlm.metrics import seed_interval


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("config")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    # argparse cannot give the rest to a second list after `--seeds 0 1 2`.
    arguments = sys.argv[1:]
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    given, fit = parser.parse_args(arguments[:cut]), arguments[cut + 1 :]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in given.seeds:
            cli = VQACLI(
                [
                    "fit",
                    f"--config={given.config}",
                    *fit,
                    f"--seed_everything={seed}",
                    f"--dataset.seed={seed}",
                    f"--data.seed={seed}",
                    "--run.test=true",
                    f"--run.folder={folder}",
                    "--trainer.enable_progress_bar=false",
                    "--trainer.enable_model_summary=false",
                ]
            )
            report = json.loads((Path(cli.run_folder) / "test.json").read_text())
            parameters = sum(p.numel() for p in cli.model.parameters())
            results.append((report["results"][0]["accuracy"], report["about"]["seconds"]))
    accuracies = [100 * accuracy for accuracy, _ in results]
    table = Table(title=" ".join([given.config, *fit]))
    for heading in ("seed", "test accuracy %", "training s"):
        table.add_column(heading, justify="right")
    for seed, (accuracy, seconds) in zip(given.seeds, results, strict=True):
        table.add_row(str(seed), f"{100 * accuracy:.2f}", f"{seconds:.1f}")
    console = Console(width=110)
    console.print(table)
    median = statistics.median(seconds for _, seconds in results)
    summary = f"mean {statistics.mean(accuracies):.2f} %"
    if len(accuracies) > 1:
        interval = seed_interval(accuracies)
        summary += f", 95 % interval {interval.low:.2f} - {min(100.0, interval.high):.2f}"
        summary += f" over {interval.over}"
    console.print(f"{summary}; median training {median:.1f} s; {parameters:,} parameters")


if __name__ == "__main__":
    main()
