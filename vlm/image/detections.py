"""The regions that a detector found in one image, as its files hold them."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vlm.image.load import ImageError

FEATURES, BOXES = ("x", "features"), ("bbox", "boxes")
"""What a .npz calls the two."""
SLACK = 0.02
"""How far a box may reach beyond the image, in its sides: detectors work on a scaled copy."""


class Regions(NamedTuple):
    """Of one image.

    Attributes:
        features: (N, D) float32, one row a region; N is 1 at least.
        boxes: (N, 4) float32 in [0, 1]: x0, y0, x1, y1 of each.
        source: file, line and image, for errors.
    """

    features: np.ndarray
    boxes: np.ndarray
    source: str


def read_npz(path: str | Path) -> Regions:
    """The regions of an image from its own file.

    Keys: `x` or `features` (N, D), `bbox` or `boxes` (N, 4) in pixels, `image_w`, `image_h`; others
    are not read. So bottom-up-attention.pytorch writes it (https://github.com/MILVLG/
    bottom-up-attention.pytorch); the files of mcan-vqa and OpenVQA, with (D, N), are read too.
    Nothing is ever unpickled.

    Raises:
        ImageError: missing, damaged, or with other content.
    """
    try:
        # Opened here: numpy would leave a damaged file open.
        with open(path, "rb") as file:
            content = np.load(file, allow_pickle=False)
            if not isinstance(content, np.lib.npyio.NpzFile):
                raise ImageError(f"{path}: this is a single array; expected a .npz.")
            features, boxes = _get(content, FEATURES, path), _get(content, BOXES, path)
            size = [_get(content, (name,), path) for name in ("image_w", "image_h")]
    except FileNotFoundError as error:
        raise ImageError(f"{path}: there is no such file.", "missing") from error
    except ImageError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        # Not numpy's own words, which advise to allow pickles.
        raise ImageError(
            f"{path}: not a readable .npz of plain arrays ({type(error).__name__}). If it was cut "
            f"short, get it again."
        ) from error
    if features.ndim == boxes.ndim == 2 and len(features) != len(boxes) == features.shape[1]:
        features = features.T
    if any(side.size != 1 for side in size):
        raise ImageError(f"{path}: image_w and image_h: expected a number each.")
    width, height = (float(side.item()) for side in size)
    return checked(features, boxes, width, height, str(path))


def _get(content: Any, names: tuple[str, ...], path: str | Path) -> np.ndarray:
    for name in names:
        if name in content:
            array = content[name]
            if array.dtype.kind not in "fiu":
                raise ImageError(f"{path}: {name!r} holds {array.dtype}; expected numbers.")
            return array
    raise ImageError(
        f"{path}: has {', '.join(map(repr, content))}; expected {' or '.join(map(repr, names))}."
    )


def checked(
    features: np.ndarray, boxes: np.ndarray, width: float, height: float, source: str
) -> Regions:
    """Regions from what a file holds.

    Args:
        features: (N, D).
        boxes: (N, 4) in pixels.
        width, height: width and height of the image, in pixels.
        source: file, line and image, for errors.

    Raises:
        ImageError: naming the source, what was found and what was expected.
    """
    if features.ndim != 2 or boxes.shape != (len(features), 4):
        raise ImageError(
            f"{source}: got features of shape {features.shape} and boxes of shape {boxes.shape}; "
            f"expected (N, D) and (N, 4)."
        )
    if 0 in features.shape:
        raise ImageError(
            f"{source}: no region in it; expected one at least. Extract features with a minimum "
            f"number of regions (10 in the published ones)."
        )
    if not (width >= 1 and height >= 1):
        raise ImageError(f"{source}: an image of {width:g} x {height:g}; expected pixels.")
    for name, array in (("features", features), ("boxes", boxes)):
        if wrong := np.count_nonzero(~np.isfinite(array).all(1)):
            row = int(np.argmin(np.isfinite(array).all(1)))
            raise ImageError(
                f"{source}: {name}: NaN or infinite in {wrong} of the {len(array)} regions (first "
                f"in number {row}, counted from 0). Extract the image's features again."
            )
    scaled = (boxes / (width, height, width, height)).astype(np.float32)
    inside = (scaled >= -SLACK) & (scaled <= 1 + SLACK)
    good = inside.all(1) & (scaled[:, :2] <= scaled[:, 2:]).all(1)
    if not good.all():
        row = int(np.argmin(good))
        raise ImageError(
            f"{source}: box {row} (counted from 0) is {np.round(boxes[row], 2).tolist()} in an "
            f"image of {width:g} x {height:g}; expected x0, y0, x1, y1 in pixels inside it."
        )
    if boxes.max() <= 1 < min(width, height):
        raise ImageError(
            f"{source}: no box reaches beyond 1 in an image of {width:g} x {height:g}; expected "
            f"pixels. Multiply shares by the image's width and height."
        )
    return Regions(features.astype(np.float32, copy=False), scaled.clip(0, 1), source)
