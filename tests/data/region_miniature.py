"""Region feature files in both formats, with made-up numbers."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np

DIM, WIDTH, HEIGHT = 13, 64, 48
COLOR_NAMES = ["red", "green", "blue"]


def detect(seed: int, color: str = "red", count: int | None = None) -> tuple[np.ndarray, ...]:
    """Returns features (N, DIM), one region showing the colour, and boxes (N, 4) in pixels."""
    rng = np.random.default_rng(seed)
    count = count or int(rng.integers(2, 7))
    features = rng.normal(0, 0.1, (count, DIM)).astype(np.float32)
    features[rng.integers(count), COLOR_NAMES.index(color)] += 2
    corners = rng.uniform(0, 1, (count, 2, 2)) * (WIDTH, HEIGHT)
    return features, np.sort(corners, axis=1).reshape(count, 4).astype(np.float32)


def write_npz(path: Path, features: np.ndarray, boxes: np.ndarray, **changes: Any) -> Path:
    """Writes the bottom-up-attention.pytorch format with its pickled `info`; None omits a key."""
    content = {
        "x": features,
        "bbox": boxes,
        "num_bbox": len(boxes),
        "image_h": HEIGHT,
        "image_w": WIDTH,
        "info": np.array({"objects_id": [1]}, dtype=object),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in (content | changes).items() if value is not None}
    np.savez_compressed(path, **kept)
    return path


def tsv_line(image: int | str, features: np.ndarray, boxes: np.ndarray, **changes: object) -> bytes:
    """A line in the format of bottom-up-attention: six tab-separated fields and \\r\\n."""
    fields = {
        "image_id": image,
        "image_w": WIDTH,
        "image_h": HEIGHT,
        "num_boxes": len(boxes),
        "boxes": base64.b64encode(boxes.astype("<f4").tobytes()).decode(),
        "features": base64.b64encode(features.astype("<f4").tobytes()).decode(),
    }
    return "\t".join(str(value) for value in (fields | changes).values()).encode() + b"\r\n"
