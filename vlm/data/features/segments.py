"""Features of images in files, each named by its checksum and never changed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from vlm.data.features.digests import Digests
from vlm.datasets.sources import state
from vlm.core.files import sha256, write_whole
from vlm.core.features import Features

SUFFIX = ".safetensors"


class Segment:
    """A file of some images' features, memory-mapped.

    Args:
        path: of the file.

    Attributes:
        digests: (n, 32) uint8, SHA-256 of the images' content.
        features: of the n images, float32 on the CPU, without boxes.

    Raises:
        OSError: there is no such file.
        ValueError: it is no whole segment.
    """

    def __init__(self, path: Path) -> None:
        try:
            content: dict[str, Tensor] = load_file(path)
            self.digests = content["digests"]
            self.features = Features(content["tokens"], content["mask"], content["pooled"])
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path}: no segment of features ({error}).") from None


def write_segment(folder: Path, digests: list[bytes], features: Features) -> None:
    """Write a segment, which is whole as soon as it has its name.

    Args:
        folder: where it goes.
        digests: SHA-256 of the images' content.
        features: of these images, on the CPU.

    Raises:
        OSError: it could not be written; nothing of it is left.
    """
    content = save(
        {
            "digests": torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8).view(
                -1, 32
            ),
            "tokens": features.tokens.contiguous(),
            "mask": features.mask.contiguous(),
            "pooled": features.pooled.contiguous(),
        }
    )
    write_whole(folder / f"{hashlib.sha256(content).hexdigest()}{SUFFIX}", content)


def segments(
    folder: Path, remembered: Digests, broken: Callable[[Path], None]
) -> Iterator[tuple[Path, Tensor]]:
    """The whole segments of a folder with their `digests`.

    Args:
        folder: it may not be there.
        remembered: the checksums of files that are as they were.
        broken: told of each whose content is not that of its name.
    """
    states: dict[str, str | None] = {
        str(path): repr(state(path)[1:]) for path in sorted(folder.glob(f"*{SUFFIX}"))
    }
    found = remembered.of(states, lambda name: bytes.fromhex(sha256(name)))
    for name, digest in zip(states, found, strict=True):
        path = Path(name)
        if digest.hex() != path.stem:
            broken(path)
            continue
        yield path, Segment(path).digests
