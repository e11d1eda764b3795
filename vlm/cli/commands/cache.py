"""`vlm cache`: encode the images of a data set once, before training."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

from vlm.cli.check import parse_with_data
from vlm.cli.command_parser import add_config, command_parser
from vlm.core.errors import ConfigError

if TYPE_CHECKING:
    from vlm.cli.training_cli import VQACLI

HELP = """\
Encode the images of a data set once with a frozen image encoder; training then reads the features
from the folder data.images.features.
"""
EXAMPLES = """\
examples:
  vlm cache configs/easy_vqa.yaml --dataset=configs/datasets/daquar.yaml \\
    --model.image_encoder=configs/image/efficientnet_lite0.yaml --data.images.features=features/
  vlm fit -c (the same) --model.tuning.image_encoder.frozen=true
  vlm cache RUN/config.yaml --ckpt_path=RUN/checkpoints/best.ckpt

Other options are those of `vlm fit`. Training fills the folder by itself; this command does it in
advance, for all splits. Each image is encoded once, however many questions it has. Run the command
again to continue after an interruption; it rebuilds damaged files. The folder may hold features of
several encoders; those of other weights are never used.
Exit code 1 if an image cannot be read or the disk is full, 2 if the configuration is wrong.
"""


def cache(arguments: Sequence[str]) -> None:
    """Run the command; mistakes in the data end in one line and exit code 1."""
    parser = command_parser("cache", HELP, EXAMPLES)
    add_config(parser)
    given, options = parse_with_data(parser, arguments)
    # Here and not above: `--help` and a mistake need not wait for torch.
    from vlm.cli.data_only import config_checked
    from vlm.cli.training_cli import Untrained
    from vlm.training.readable import READABLE

    try:
        with config_checked("cache", given.config):
            _fill(Untrained(["fit", "-c", given.config, *options]))
    except READABLE as error:
        sys.exit(f"vlm cache: {error}")


def _fill(cli: VQACLI) -> None:
    import pyarrow.compute as pc

    from vlm.checkpoint.checkpoint import load_weights
    from vlm.datasets.base import Split
    from vlm.training.finetuning.warm_start import init_from

    data, task = cli.datamodule, cli.model
    if data.images.features is None:
        raise ConfigError("data.images.features: got none; expected a folder for the features.")
    # The weights that a training would have.
    if cli.checkpoint:
        load_weights(task.model, cli.checkpoint.weights, str(cli.checkpoint.path))
    elif task.tuning.init_from:
        init_from(task.model, task.tuning.init_from, task.tuning.init_parts)
    encoder = task.model.image_encoder.to(cli.trainer.strategy.root_device)
    images = 0
    for split in get_args(Split):
        if data.has(split):
            data.skip_unreadable(split, encoder.transform)
            data.encoded_images(split, encoder, task.layers)
            images += pc.count_distinct(data.table(split)["image"]).as_py()
    print(f"{data.images.features}: has the features of all images of the splits ({images:,}).")
