"""`vlm browse`: write a page to look through a data set, and through a model's errors."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from vlm.cli.check import parse_with_data
from vlm.cli.command_parser import add_config, command_parser

HELP = "Write one page to look through a data set and the answers to its questions."
EXAMPLES = """\
examples:
  vlm browse configs/own_data.yaml --dataset.path my.jsonl --dataset.images photos/
  vlm browse configs/easy_vqa.yaml --predictions RUN/test_predictions.jsonl
  vlm browse configs/easy_vqa.yaml --predictions RUN_1/test_predictions.jsonl \\
    RUN_2/test_predictions.jsonl

PREDICTIONS are files as `vlm evaluate` reads them. The page filters, sorts and searches, and needs
no network. Other options are those of `vlm fit`.
"""


def browse_command(arguments: Sequence[str]) -> None:
    """Run the command; data or predictions that cannot be read end the process with 1."""
    parser = command_parser("browse", HELP, EXAMPLES)
    add_config(parser)
    parser.add_argument(
        "--predictions", type=Path, nargs="+", default=[], metavar="FILE", help="files of answers"
    )
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test", "predict"),
        default="test",
        help="(default: test)",
    )
    parser.add_argument(
        "--limit", type=int, default=5000, help="most questions; of more, a sample (default 5000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample (default 0)")
    parser.add_argument(
        "--maps", type=Path, metavar="FOLDER", help="PNG files to lay over images, by question id"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("browse.html"), help="(default: browse.html)"
    )
    given, options = parse_with_data(parser, arguments)
    if missing := [str(path) for path in given.predictions if not path.is_file()]:
        parser.error(f"--predictions: {', '.join(missing)}: there is no such file")
    # Here and not above: `--help` and a mistake need not wait for torch.
    from vlm.cli.data_only import read_data
    from vlm.evaluation.browse import browse

    data = read_data("browse", given.config, options).datamodule
    try:
        said = browse(
            data.dataset,
            given.split,
            given.predictions,
            given.output,
            given.limit,
            given.seed,
            given.maps,
            data.open_images.source,
        )
    except (ValueError, OSError) as error:
        sys.exit(f"vlm browse: {error}")
    print("\n".join([*said, str(given.output)]))
