"""`vlm shard`: write the images of a data set to tar shards."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from vlm.cli.check import parse_with_data
from vlm.cli.command_parser import add_config, command_parser
from vlm.core.terminal import new_progress
from vlm.core.validation import counted

HELP = """\
Write the images of a data set to tar shards (WebDataset's layout), with an index beside them.
"""
EXAMPLES = """\
examples:
  vlm shard configs/easy_vqa.yaml shards/
  vlm shard configs/easy_vqa.yaml shards/ --dataset=configs/datasets/vqa_v2.yaml \\
    --dataset.root=/data/vqa_v2
  vlm fit -c configs/easy_vqa.yaml --data.images.shards.path=shards/

Other options are those of `vlm fit`. Images already in FOLDER are not written again: run the same
command to continue after an interruption, or another configuration to add its images.
Exit code 1 if an image cannot be read, 2 if the configuration is wrong.
"""


def shard(arguments: Sequence[str]) -> None:
    """Run the command; mistakes in the data end in one line and exit code 1."""
    parser = command_parser("shard", HELP, EXAMPLES)
    add_config(parser)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder for the shards")
    parser.add_argument(
        "--shard-mb", type=int, default=256, help="a shard's size in megabytes (default 256)"
    )
    given, options = parse_with_data(parser, arguments)
    if given.shard_mb < 1:
        parser.error(f"--shard-mb: got {given.shard_mb}; expected 1 or more")
    # Here and not above: `--help` and a mistake need not wait for torch.
    from vlm.cli.data_only import read_data
    from vlm.data.shards.index import INDEX, ShardIndex
    from vlm.data.shards.writer import images_of, write_shards
    from vlm.datasets.errors import DataError

    data = read_data("shard", given.config, options).datamodule
    try:
        if data.images.regions is not None or data.images.shards is not None:
            raise DataError(
                "data.images.regions and data.images.shards: leave both out; images are to be "
                "written."
            )
        images = images_of(
            data.dataset, lambda reason: print(f"Left out: {reason}", file=sys.stderr)
        )
        with new_progress() as progress:
            task = progress.add_task("Writing images", total=len(images))
            written = write_shards(
                images,
                given.folder,
                given.shard_mb * 10**6,
                lambda done: progress.update(task, completed=done),
            )
        index = ShardIndex(given.folder / INDEX)
    except (DataError, OSError) as error:
        sys.exit(f"vlm shard: {error}")
    size = sum(one.size for one in index.shards)
    print(
        f"{given.folder}: {counted(written, 'image')} written; there are now {len(index):,} in "
        f"{counted(len(index.shards), 'shard')}, {size / 10**6:,.1f} MB. "
        f"Use them with --data.images.shards.path={given.folder}"
    )
