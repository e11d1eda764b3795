"""`vlm forgetting`: from runs to a report."""

from __future__ import annotations

import shlex
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from vlm.cli.command_parser import add_trust, command_parser

HELP = """\
Measure how fine-tuning changed each pretrained encoder of a run: the original classifier on
held-out photos, representations by layer, word neighbours and sentence similarity. Compare that
with VQA accuracy, for several runs and for weights between before and after.
"""
EXAMPLES = """\
examples:
  vlm forgetting RUN
  vlm forgetting RUN --photos my_photos/ --no-accuracy
  vlm forgetting frozen=RUN1 full=RUN2 lora=RUN3 --interpolate 0 0.25 0.5 0.75 1

The config.yaml of each run names its data; other options are those of `vlm fit`, such as
--dataset.root=FOLDER. docs/forgetting.md explains each measure.
Exit code 1 if runs, weights or photos cannot be read, 2 if the command is wrong.
"""
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


def forgetting(arguments: Sequence[str]) -> None:
    """Run the command."""
    parser = _parser()
    given, options = parser.parse_known_args(arguments)
    if strange := [o for o in options if not o.startswith(("--data.", "--dataset"))]:
        parser.error(
            f"unknown: {' '.join(strange)}; expected its own options, --data... or --dataset..."
        )
    for name, least in (("batch_size", 8), ("neighbours", 1), ("max_photos", 8)):
        if getattr(given, name) < least:
            option = name.replace("_", "-")
            parser.error(f"--{option}: got {getattr(given, name)}; expected {least} or more")
    alphas = given.interpolate if given.interpolate != [] else list(ALPHAS)
    if wrong := [alpha for alpha in alphas or () if not 0 <= alpha <= 1]:
        parser.error(
            f"--interpolate: got {wrong[0]:g}; expected shares from 0 (before) to 1 (after)"
        )
    named = [_named(text) for text in given.runs]
    # Here and not above: `--help` and a mistake need not wait for torch.
    from vlm.checkpoint.checkpoint import CheckpointError
    from vlm.cli.data_only import read_data
    from vlm.datasets.errors import DataError
    from vlm.image.load import ImageError
    from vlm.studies.forgetting.heads import HeadError
    from vlm.studies.forgetting.measure import measure
    from vlm.studies.forgetting.report import write_report
    from vlm.studies.forgetting.run import read_run
    from vlm.studies.forgetting.study import Settings

    settings = Settings(
        split=None if given.no_accuracy else given.split,
        alphas=tuple(alphas or ()),
        photos=given.photos,
        most_photos=given.max_photos,
        probe=given.probe,
        sentences=given.sentences,
        neighbours=given.neighbours,
        batch_size=given.batch_size,
        data=tuple(options),
        trust=given.trust,
    )
    try:
        runs = [read_run(path, name) for name, path in named]
        names = [run.name for run in runs]
        if twice := [name for name in names if names.count(name) > 1]:
            parser.error(f"runs: two are called {twice[0]}; name them, as in before=RUN after=RUN")
        study = measure(runs, settings, lambda *given: read_data("forgetting", *given).datamodule)
        path = write_report(study, given.output, shlex.join(["vlm", "forgetting", *arguments]))
    except (CheckpointError, DataError, HeadError, ImageError, OSError, ValueError) as error:
        sys.exit(f"vlm forgetting: {error}")
    print(f"Report: {path} and {path.with_suffix('.md')}")


def _parser() -> ArgumentParser:
    parser = command_parser("forgetting", HELP, EXAMPLES)
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="a run's folder or a checkpoint in it, or NAME=RUN")
    add(
        "--interpolate",
        nargs="*",
        type=float,
        metavar="ALPHA",
        help="also measure encoders between before (0) and after (1) (0 0.25 0.5 0.75 1)",
    )
    add("--photos", type=Path, help="folder of photos (the data set's test images)")
    add(
        "--max-photos",
        type=int,
        default=1000,
        help="number of photos at most (default %(default)s)",
    )
    add("--probe", type=Path, help=".safetensors file: original classifier's weight and bias")
    add("--sentences", type=Path, help="one sentence per line, or a paraphrase pair with a tab")
    add("--neighbours", type=int, default=10, help="neighbours per word (default %(default)s)")
    add(
        "--split",
        choices=("validation", "test"),
        default="validation",
        help="split for VQA accuracy",
    )
    add("--no-accuracy", action="store_true", help="measure only the encoders")
    add("--batch-size", type=int, default=32, help="images or texts at a time (default 32)")
    add(
        "--output",
        type=Path,
        default=Path("forgetting"),
        help="output folder (default %(default)s)",
    )
    add_trust(parser)
    return parser


def _named(text: str) -> tuple[str | None, str]:
    name, equals, path = text.partition("=")
    # A path may have such a sign too.
    return (name, path) if equals and not Path(text).exists() else (None, text)
