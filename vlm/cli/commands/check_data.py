"""`vlm check-data`: list the mistakes in a data set before training."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from vlm.cli.check import parse_with_data
from vlm.cli.command_parser import add_config, command_parser

HELP = "Read all questions and images of a configuration, and list every mistake."
EXAMPLES = """\
examples:
  vlm check-data configs/own_data.yaml --dataset.path my.jsonl --dataset.images photos/
  vlm check-data configs/easy_vqa.yaml --limit 50

Other options are those of `vlm fit`. Exit code 1 if there are errors, 2 if the configuration is
wrong. A plot and all figures are written to OUTPUT.
"""


def check(arguments: Sequence[str]) -> None:
    """Run the command; ends the process with 1 if the data have errors."""
    parser = command_parser("check-data", HELP, EXAMPLES)
    add_config(parser)
    parser.add_argument(
        "--limit", type=int, default=10, help="problems listed for each kind (default 10)"
    )
    parser.add_argument(
        "--no-images", dest="images", action="store_false", help="do not read the images"
    )
    parser.add_argument(
        "--output", type=Path, help="folder for the plot (RUN.FOLDER/RUN.NAME/check-data)"
    )
    given, options = parse_with_data(parser, arguments)
    if given.limit < 1:
        parser.error(f"--limit: got {given.limit}; expected 1 or more")
    # Here and not above: `--help` and a mistake need not wait for torch.
    from vlm.cli.data_only import read_data
    from vlm.cli.part_config import answer_kind, as_plain, picks, words_in_order
    from vlm.core.terminal import new_console
    from vlm.data.check.check import check_data
    from vlm.data.check.report import print_check, write_check

    cli = read_data("check-data", given.config, options)
    head = as_plain(cli.config.fit.model.head)
    in_order = words_in_order(as_plain(cli.config.fit.model.text_encoder))
    found = check_data(
        cli.datamodule, given.limit, given.images, answer_kind(head), picks(head), in_order
    )
    console = new_console()
    print_check(found, console)
    run = cli.config.fit.run
    output = given.output or Path(run.folder) / run.name / "check-data"
    write_check(found, output)
    console.print(f"Figures and plot: {output}", soft_wrap=True)
    sys.exit(1 if found.errors.counts else 0)
