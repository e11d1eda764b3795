"""`vlm predict MODEL --dataset.path FILE`: add any model's answers to the rows of any table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from vlm.cli.check import check_files
from vlm.cli.command_parser import (
    add_checkpoint,
    add_device,
    add_prompt,
    add_trust,
    check_device,
    command_parser,
)
from vlm.core.errors import ConfigError

OPTIONS = {"--dataset.path", "--dataset.images", "--output", "--batch", "--device", "--prompt"}
OPTIONS |= {"--trust"}


def is_table(arguments: Sequence[str]) -> bool:
    """Whether a model and a table are given, and nothing that needs a run's own data set."""
    options = {argument.partition("=")[0] for argument in arguments if argument.startswith("-")}
    given = bool(arguments) and not arguments[0].startswith("-")
    return given and "--dataset.path" in options and options <= OPTIONS


def answer_table(arguments: Sequence[str]) -> None:
    """Answer all rows, with a progress bar; exits with code 1 if some rows have an error."""
    parser = command_parser(
        "predict",
        "Add a model's answers to the rows of a table. After an interruption, the same command "
        "continues.",
        "example:\n  vlm predict runs/my_run --dataset.path questions.csv --dataset.images photos/",
    )
    add_checkpoint(parser, exports=True)
    parser.add_argument("--dataset.path", dest="path", type=Path, help="table of questions")
    parser.add_argument(
        "--dataset.images",
        dest="images",
        type=Path,
        help="folder that image paths are relative to (default: the table's folder)",
    )
    parser.add_argument("--output", type=Path, help=".csv or .jsonl file (default TABLE_answers)")
    parser.add_argument("--batch", type=int, default=64, help="rows per batch (default 64)")
    add_device(parser)
    add_prompt(parser)
    add_trust(parser)
    given = parser.parse_args(arguments)
    if given.batch < 1:
        parser.error(f"--batch: got {given.batch}; expected a positive number.")
    try:
        check_files([f"--dataset.path={given.path}"])
    except ConfigError as error:
        sys.exit(f"vlm predict: {error}")
    from vlm.core.terminal import new_progress
    from vlm.core.validation import counted
    from vlm.evaluation.answer_table import AnswerTable
    from vlm.export.load import load

    try:
        check_device(given.device)
        vqa = load(given.checkpoint, given.device, given.trust, prompt=given.prompt)
        table = AnswerTable(vqa, given.path, given.output, given.images, given.batch)
        with table.alone():
            if done := table.done():
                print(f"Continuing after {counted(done, 'row')}.", flush=True)
            with new_progress() as bar:
                task = bar.add_task("Answering", total=table.rows, completed=done)
                for batch in table.answers():
                    bar.advance(task, len(batch))
            errors = table.write()
    except (OSError, ValueError) as error:
        sys.exit(f"vlm predict: {error}")
    print(f"Wrote {counted(table.rows, 'row')} to {table.output}.")
    if errors:
        sys.exit(f"vlm predict: {counted(errors, 'row')} with an error; see the column error.")
