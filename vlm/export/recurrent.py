"""The ONNX form of `vlm::recurrent`, one direction of a GRU or LSTM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

import vlm.text.recurrent  # noqa: F401  has the operator


def recurrent_forms() -> dict[Callable[..., Any], Callable[..., Any]]:
    """By torch's operator, what writes its ONNX form."""
    from onnxscript import opset20

    op: Any = opset20  # whose types want names of element types

    def recurrent(x: Any, weights: Sequence[Any]) -> Any:
        inwards, hidden = weights[0], weights[1].shape[1]
        lstm = inwards.shape[0] == 4 * hidden
        # torch has the gates input, forget, cell, output and reset, update, new; ONNX has input,
        # output, forget, cell and update, reset, hidden.
        order = (0, 3, 1, 2) if lstm else (1, 0, 2)

        def gates(value: Any) -> Any:
            rows = [
                op.Slice(
                    value,
                    op.Constant(value_ints=[n * hidden]),
                    op.Constant(value_ints=[(n + 1) * hidden]),
                    op.Constant(value_ints=[0]),
                )
                for n in order
            ]
            return op.Concat(*rows, axis=0)

        first = op.Constant(value_ints=[0])
        w, r = (op.Unsqueeze(gates(value), first) for value in weights[:2])
        b = op.Unsqueeze(op.Concat(gates(weights[2]), gates(weights[3]), axis=0), first)
        steps = op.Transpose(x, perm=[1, 0, 2])  # (L, B, D)
        if lstm:
            outputs, _, _ = op.LSTM(steps, w, r, b, hidden_size=hidden)
        else:
            outputs, _ = op.GRU(steps, w, r, b, hidden_size=hidden, linear_before_reset=1)
        # (L, 1, B, H) -> (B, L, H)
        return op.Transpose(op.Squeeze(outputs, op.Constant(value_ints=[1])), perm=[1, 0, 2])

    return {torch.ops.vlm.recurrent.default: recurrent}
