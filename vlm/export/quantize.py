"""Weights and products of an ONNX graph in 8 bits, by onnxruntime."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

PRODUCTS = ["Conv", "Gemm", "MatMul"]
"""What is computed in 8 bits: all else costs little time, and much accuracy."""
WEIGHTS: dict[str, Any] = {"per_channel": True, "reduce_range": True}
"""Weights of 7 bits: without VNNI, a processor adds products of 8 bits in 16 bits, which overflow.
An export must answer alike on all processors."""


def quantize_static(path: Path, images: Sequence[np.ndarray]) -> None:
    """Replace the image graph by one whose products are of 8-bit weights and activations; the
    activations' ranges are those on `images`, each (C, H, W) uint8."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantize
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):
        left: Iterator[np.ndarray] = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.left, None)
            return None if image is None else {"images": image[None]}

    prepared = path.with_suffix(".prepared")
    with _quiet():
        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        quantize(
            str(prepared),
            str(path),
            Images(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=PRODUCTS,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            **WEIGHTS,
        )
    prepared.unlink()


def quantize_dynamic(path: Path) -> None:
    """Replace a graph by one with 8-bit weights, whose activations' ranges are found as it runs."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as quantize

    full = path.rename(path.with_suffix(".full"))
    with _quiet():
        quantize(
            str(full),
            str(path),
            op_types_to_quantize=[*PRODUCTS[1:], "Gather"],
            weight_type=QuantType.QInt8,
            **WEIGHTS,
        )
    full.unlink()


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, onnxruntime does not recommend a step that was taken."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
