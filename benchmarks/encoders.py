"""Encoders: images per second on the CPU; and how fast photos are decoded and resized.

    python benchmarks/encoders.py --threads 1 --only resnet18 clip
    python benchmarks/encoders.py --decode --photos FOLDER

The first prints, for each image encoder with random weights in evaluation mode, parameters, tokens,
width, and images per second in fp32, in bf16 autocast, and compiled in each. The numbers are
medians of `--repeats` rounds in turn, so that other work on the machine hits all ways alike; the
ratios say more than the numbers. The second compares ways from JPEG files to the encoder's input,
and prints how far the pixels are from those of full decoding.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from pairs import take_turns, timed
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vlm.image import (
    ConvNet,
    ImageTransform,
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


def decoders(transform: ImageTransform) -> dict[str, Callable[[Path], Tensor]]:
    height, width = transform.size

    def draft(share: float) -> Callable[[Path], Tensor]:
        def read(path: Path) -> Tensor:
            with Image.open(path) as image:
                image.draft("RGB", (round(width * share), round(height * share)))
                return transform(image.convert("RGB"))

        return read

    def torchvision(path: Path) -> Tensor:
        from torchvision.io import ImageReadMode, decode_jpeg, read_file

        pixels = decode_jpeg(read_file(str(path)), mode=ImageReadMode.RGB)
        mode, size = transform.interpolation, (height, width)
        return F.interpolate(pixels[None], size, mode=mode, antialias=True)[0]

    def full(path: Path) -> Tensor:
        with Image.open(path) as image:
            small = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
            return torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()

    return {
        "Pillow": full,
        "Pillow, resized by torch: `ImageTransform.open`": transform.open,
        "the same, JPEG draft at twice the size": draft(2),
        "the same, JPEG draft at the size": draft(1),
        "torchvision.io, resized by torch": torchvision,
    }


def measure_decoding(folder: Path | None, size: int, repeats: int) -> None:
    with tempfile.TemporaryDirectory() as made:
        photos = sorted(folder.glob("*.jp*g"))[:32] if folder else made_up(Path(made))
        with Image.open(photos[0]) as first:
            print(f"{len(photos)} photos such as {first.width} x {first.height} to {size} x {size}")
        transform = ImageTransform((size, size), "bicubic")
        routes = decoders(transform)
        wanted = [routes["Pillow"](path).float() for path in photos]
        sides = [partial(timed, partial(read_all, read, photos)) for read in routes.values()]
        seconds = take_turns(sides, repeats)
        speeds = [len(photos) / statistics.median(side) for side in seconds]
        print("| route | photos/s | ratio | mean difference of 255 |\n|---|---|---|---|")
        for (name, read), speed in zip(routes.items(), speeds, strict=True):
            pairs = zip(photos, wanted, strict=True)
            off = statistics.mean(float((read(p).float() - w).abs().mean()) for p, w in pairs)
            print(f"| {name} | {speed:.0f} | {speed / speeds[0]:.2f} | {off:.2f} |")


def read_all(read: Callable[[Path], Tensor], photos: list[Path]) -> None:
    for path in photos:
        read(path)


def made_up(folder: Path) -> list[Path]:
    """Photos of the size of COCO's: blurred noise at several scales."""
    rng = np.random.default_rng(0)
    for number in range(16):
        picture = np.zeros((480, 640, 3))
        for scale in (4, 16, 64):
            noise = rng.integers(0, 256, (480 // scale, 640 // scale, 3), dtype=np.uint8)
            picture += np.asarray(Image.fromarray(noise).resize((640, 480))) / 3
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)
    return sorted(folder.iterdir())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    parser.add_argument("--batch", type=int, default=16, help="images at once")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-compile", action="store_true", help="leave out what compiles")
    parser.add_argument("--decode", action="store_true", help="measure decoding instead")
    parser.add_argument("--photos", type=Path, help="folder of JPEG files; made up if not given")
    parser.add_argument("--size", type=int, default=224)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} thread(s), batch {options.batch}")
    if options.decode:
        measure_decoding(options.photos, options.size, options.repeats)
    else:
        measure_encoders(options.only, options.batch, options.repeats, not options.no_compile)


if __name__ == "__main__":
    main()
