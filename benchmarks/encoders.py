"""Encoders: images per second on the CPU.

    python benchmarks/encoders.py --threads 1 --only resnet18 clip

It prints, for each image encoder with random weights in evaluation mode, parameters, tokens,
width, and images per second in fp32, in bf16 autocast, and compiled in each. The numbers are
medians of `--repeats` rounds in turn, so that other work on the machine hits all ways alike; the
ratios say more than the numbers.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import torch
from pairs import take_turns, timed
from torch import Tensor

from vlm.image import (
    ConvNet,
    OpenClipImageEncoder,
    PixelEncoder,
    TimmEncoder,
    TorchvisionEncoder,
)

ENCODERS: dict[str, Callable[[], PixelEncoder]] = {
    "cnn": ConvNet,
    "efficientnet_lite0": lambda: TimmEncoder("tf_efficientnet_lite0"),
    "mobilenetv3": lambda: TorchvisionEncoder("mobilenet_v3_small"),
    "resnet18": lambda: TimmEncoder("resnet18"),
    "resnet50": lambda: TorchvisionEncoder("resnet50"),
    "vit_tiny": TimmEncoder,
    "dinov2": lambda: TimmEncoder("vit_small_patch14_dinov2", image_size=224),
    "clip": lambda: OpenClipImageEncoder("ViT-B-32"),
}
Way = Callable[[Tensor], object]


def ways(encoder: PixelEncoder, compiled: bool) -> dict[str, Way]:
    def in_bf16(way: Way) -> Way:
        def run(images: Tensor) -> object:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return way(images)

        return run

    found: dict[str, Way] = {"fp32": encoder, "bf16": in_bf16(encoder)}
    if compiled:
        found["fp32 compiled"] = torch.compile(encoder)
        found["bf16 compiled"] = in_bf16(torch.compile(encoder))
    return found


def measure_encoders(names: list[str], batch: int, repeats: int, compiled: bool) -> None:
    columns = ["fp32", "bf16"] + (["fp32 compiled", "bf16 compiled"] if compiled else [])
    print(f"| encoder | parameters | input | tokens | width | {' | '.join(columns)} |")
    print("|---" * (5 + len(columns)) + "|")
    for name in names:
        torch.compiler.reset()
        encoder = ENCODERS[name]().eval().to(memory_format=torch.channels_last)
        shape = encoder.transform.shape
        images = torch.randint(256, (batch, *shape), dtype=torch.uint8)
        found = ways(encoder, compiled)
        with torch.inference_mode():
            for way in found.values():
                way(images)  # compiles, and fills the caches
            sides = [partial(timed, partial(way, images)) for way in found.values()]
            seconds = take_turns(sides, repeats)
        parameters = sum(p.numel() for p in encoder.parameters())
        medians = [batch / statistics.median(side) for side in seconds]
        print(
            f"| {name} | {parameters / 1e6:.1f} M | {shape[1]} x {shape[2]} | "
            f"{encoder.grid[0] * encoder.grid[1]} | {encoder.dim} | "
            + " | ".join(f"{m:.3g} ({m / medians[0]:.2f})" for m in medians)
            + " |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    parser.add_argument("--batch", type=int, default=16, help="images at once")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-compile", action="store_true", help="leave out what compiles")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} thread(s), batch {options.batch}")
    measure_encoders(options.only, options.batch, options.repeats, not options.no_compile)


if __name__ == "__main__":
    main()
