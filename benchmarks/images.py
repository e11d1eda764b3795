"""From JPEG files to the encoder's input: images per second, and what each way changes.

    python benchmarks/images.py                     # made-up photos of 640 x 480, some 54 kB each
    python benchmarks/images.py --photos FOLDER     # JPEG files of one's own

Each way reads the same files and gives (3, size, size) uint8, bilinear. The ways take turns, so
that the machine's mood falls on all, and times are those of the processor: images/s is per core,
also on a machine that does other work. The last column is how far the pixels are from those of
`ImageTransform.open`: the mean difference, of 255. Then the same images from a folder of shards
beside those from files.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from pairs import Pairs, machine, markdown, take_turns
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision import transforms

from vlm.data.images.store import ImageStore
from vlm.data.shards.source import Shards
from vlm.data.shards.writer import write_shards
from vlm.image import ImageTransform, load_image

Way = Callable[[Path], Tensor]
OURS, PEER = "`ImageTransform.open`", "Pillow, torchvision's transforms"


def by_torchvision(content: bytes) -> Tensor:
    import torchvision.io

    # The function around it warns that it will go.
    return torch.ops.image.decode_jpeg(as_tensor(content), torchvision.io.ImageReadMode.RGB.value)


def by_torchcodec(content: bytes) -> Tensor:
    from torchcodec.decoders import decode_jpeg

    return decode_jpeg(as_tensor(content))


def by_simplejpeg(content: bytes) -> Tensor:
    from simplejpeg import decode_jpeg

    return torch.from_numpy(decode_jpeg(content)).permute(2, 0, 1)


def as_tensor(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


DECODERS = {
    "torchvision": by_torchvision,
    "torchcodec": by_torchcodec,
    "simplejpeg": by_simplejpeg,
}
"""Others than Pillow, by their package; those that are not installed are left out."""


def ways(size: int) -> dict[str, Way]:
    transform = ImageTransform((size, size))
    pipeline = transforms.Compose([transforms.Resize((size, size)), transforms.PILToTensor()])

    def peer(path: Path) -> Tensor:
        with Image.open(path) as image:
            return pipeline(image.convert("RGB"))

    def decoded_by(decode: Callable[[bytes], Tensor], path: Path) -> Tensor:
        batch = decode(path.read_bytes())[None]
        return F.interpolate(batch, (size, size), mode="bilinear", antialias=True)[0].contiguous()

    others = {
        f"{name}, resized by torch": partial(decoded_by, decode)
        for name, decode in DECODERS.items()
        if find_spec(name)
    }
    return {
        OURS: transform.open,
        PEER: peer,
        "the first with data.images.fast_jpeg": lambda path: transform(
            load_image(path, enough=transform.enough)
        ),
        **others,
    }


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def reading(way: Way, photos: list[Path]) -> Callable[[], float]:
    """CPU seconds of an image."""

    def read() -> None:
        for photo in photos:
            way(photo)

    read()  # warms up
    return lambda: cpu_seconds(read) / len(photos)


def made_up(folder: Path) -> list[Path]:
    """Photos of the size of COCO's: blurred noise at several scales."""
    rng = np.random.default_rng(0)
    for number in range(16):
        picture = np.zeros((480, 640, 3))
        for scale in (4, 16, 64):
            noise = rng.integers(0, 256, (480 // scale, 640 // scale, 3), dtype=np.uint8)
            picture += np.asarray(Image.fromarray(noise).resize((640, 480))) / 3
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{number}.jpg", quality=70)
    return sorted(folder.iterdir())


def shards_and_files(photos: list[Path], size: int, pairs: int) -> Pairs:
    paths = [str(photo) for photo in photos]
    with tempfile.TemporaryDirectory() as folder:
        write_shards(pa.array(paths), Path(folder), 10**9)
        transform = ImageTransform((size, size))
        stores = ImageStore(transform, Shards(folder).open()), ImageStore(transform)
        sides = [reading(lambda path, s=s: s.read([str(path)], ["0"]), photos) for s in stores]
        return Pairs("CPU time of an image: from shards / from files", *take_turns(sides, pairs))


def compare_all(pairs: int) -> list[Pairs]:
    with tempfile.TemporaryDirectory() as folder:
        photos, routes = made_up(Path(folder)), ways(224)
        sides = [reading(routes[name], photos) for name in (OURS, PEER)]
        title = "CPU time of a JPEG of 640 x 480 to 224: vlm / Pillow and torchvision's transforms"
        return [
            Pairs(title, *take_turns(sides, pairs)),
            shards_and_files(photos, 224, pairs),
        ]


def measure(photos: list[Path], size: int, repeats: int) -> None:
    with Image.open(photos[0]) as first:
        sizes = f"{first.width} x {first.height} to {size} x {size}"
    kilobytes = statistics.mean(photo.stat().st_size for photo in photos) / 1000
    print(f"{machine()}; {len(photos)} photos such as {sizes}, {kilobytes:.0f} kB on average\n")
    routes = ways(size)
    seconds = take_turns([reading(way, photos) for way in routes.values()], repeats)
    peer = seconds[list(routes).index(PEER)]
    wanted = [routes[OURS](path).float() for path in photos]
    rows = []
    for (name, way), took in zip(routes.items(), seconds, strict=True):
        off = [(way(p).float() - w).abs().mean() for p, w in zip(photos, wanted, strict=True)]
        ratio = Pairs(name, peer, took).ratio
        speed = 1 / statistics.median(took)
        rows.append(f"{name} | {speed:.0f} | {ratio} | {float(np.mean(off)):.3f}")
    print(markdown("way | images/s | times the speed of the second | difference", rows))
    print(f"\nshards / files: {shards_and_files(photos, size, repeats).ratio}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, help="folder of JPEG files; made up if not given")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=11)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        photos = sorted(given.photos.glob("*.jp*g"))[:32] if given.photos else made_up(Path(made))
        measure(photos, given.size, given.repeats)


if __name__ == "__main__":
    main()
