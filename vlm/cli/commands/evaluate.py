"""`vlm evaluate`: score a file of answers to the questions of a data set."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from vlm.cli.check import parse_with_data
from vlm.cli.command_parser import command_parser

EXAMPLES = """\
examples:
  vlm evaluate answers.csv -c configs/easy_vqa.yaml
  vlm evaluate results.json -c configs/easy_vqa.yaml --dataset=configs/datasets/vqa_v2.yaml \\
    --dataset.root=/data/vqa_v2 --split validation

PREDICTIONS is a file of `vlm predict`, VQA's result format, lmms-eval's samples, or rows with an id
and an answer as JSON, JSON Lines, CSV, TSV or Parquet. Other options are those of `vlm fit`.
"""


def evaluate_command(arguments: Sequence[str]) -> None:
    """Run the command; a file that does not fit the data ends the process with 1."""
    parser = command_parser(
        "evaluate", "Score a file of answers as `vlm test` scores a model's.", EXAMPLES
    )
    parser.add_argument("predictions", type=Path, help="file of answers")
    parser.add_argument("-c", "--config", required=True, help="a configuration of `vlm fit`")
    parser.add_argument(
        "--split", choices=("train", "validation", "test"), default="test", help="(default: test)"
    )
    parser.add_argument(
        "--partial", action="store_true", help="score only the questions that have an answer"
    )
    parser.add_argument(
        "--output", type=Path, help="folder for the results (default: PREDICTIONS_scored)"
    )
    given, options = parse_with_data(parser, arguments)
    # Here and not above: `--help` and a mistake need not wait for torch.
    from vlm.cli.data_only import read_data
    from vlm.core.terminal import WIDTH, new_console
    from vlm.evaluation.evaluate import evaluate

    data = read_data("evaluate", given.config, options).datamodule
    output = given.output or given.predictions.with_name(f"{given.predictions.stem}_scored")
    try:
        report = evaluate(given.predictions, data.dataset, given.split, given.partial, output)
    except (ValueError, OSError) as error:
        sys.exit(f"vlm evaluate: {error}")
    console = new_console(width=WIDTH)
    about = report.about
    console.print(
        f"{about['predictions']}: {about['matched']}; {about['answered']:,} of "
        f"{about['questions']:,} {report.split} questions answered.",
        soft_wrap=True,
    )
    report.print(console)
    console.print(f"Results: {output}", soft_wrap=True)
