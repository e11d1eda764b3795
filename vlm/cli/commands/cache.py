"""`vlm cache`: encode the images of a data set once, before training."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from vlm.checkpoint.checkpoint import load_weights
from vlm.cli.error_messages import explain
from vlm.cli.training_cli import VQACLI
from vlm.core.errors import ConfigError
from vlm.datasets.base import Split
from vlm.training.finetuning.warm_start import init_from
from vlm.training.readable import READABLE

SPLITS: tuple[Split, ...] = ("train", "validation", "test", "predict")
EXAMPLES = """\
examples:
  vlm cache configs/easy_vqa.yaml --dataset=configs/datasets/daquar.yaml \\
    --model.image_encoder=configs/image/efficientnet_lite0.yaml --data.images.features=features/
  vlm fit -c (the same) --model.tuning.image_encoder.frozen=true
  vlm cache RUN/config.yaml --ckpt_path=RUN/checkpoints/best.ckpt

Further options are those of `vlm fit`. A training fills the folder by itself; this command does it
beforehand, and for all splits. Each image is encoded once, however many questions it has.
Run the command again to go on after an interruption; a file that broke is made again. The folder
may hold features of several encoders: those of other weights are never used.
Exit code 1 if an image cannot be read or space is lacking, 2 if the configuration is wrong.
"""


class Untrained(VQACLI):
    """Everything of `vlm fit` but the training."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def cache(arguments: Sequence[str]) -> None:
    """Run the command; mistakes in the data end in one line and exit code 1."""
    parser = argparse.ArgumentParser(
        prog="vlm cache",
        description="Encode the images of a data set once with a frozen image encoder, so that "
        "trainings read the features.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", help="a configuration of `vlm fit`, with data.images.features")
    given, options = parser.parse_known_args(arguments)
    try:
        cli = Untrained(["fit", "-c", given.config, *options])
        _fill(cli)
    except ConfigError as error:
        print(f"vlm cache ({given.config}): {explain(str(error))}", file=sys.stderr)
        sys.exit(2)
    except READABLE as error:
        sys.exit(f"vlm cache: {error}")


def _fill(cli: VQACLI) -> None:
    data, task = cli.datamodule, cli.model
    if data.images.features is None:
        raise ConfigError("data.images.features: got none; expected the folder for the features.")
    # The weights that a training would have.
    if cli.checkpoint:
        load_weights(task.model, cli.checkpoint.weights, str(cli.checkpoint.path))
    elif task.tuning.init_from:
        init_from(task.model, task.tuning.init_from, task.tuning.init_parts)
    encoder = task.model.image_encoder.to(cli.trainer.strategy.root_device)
    images = 0
    for split in SPLITS:
        if data.has(split):
            data.skip_unreadable(split)
            images += len(data.encoded_images(split, encoder))
    print(f"{data.images.features}: has the features of all {images:,} images of the splits.")
