"""Graphs of an export, ready to run. ONNX graphs need no torch."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from vlm.export.manifest import ExportError

Arrays = dict[str, np.ndarray]
Graph = Callable[[Arrays], Arrays]
"""Arrays by name in, arrays by name out."""


def open_graph(
    folder: Path, about: dict[str, Any], name: str, threads: int | None, trust: bool
) -> Graph:
    """A graph of an export.

    Args:
        folder, about: of the export, and what stands in its manifest.
        name: of the graph.
        threads: of an ONNX graph; None for onnxruntime's choice.
        trust: also load a graph of torch's, which unpickles.

    Raises:
        ExportError: a graph of torch's without `trust` or torch, or one that this onnxruntime
            cannot read.
    """
    stored = about["graphs"][name]
    path, outputs = folder / stored["file"], stored["outputs"]
    if about["graph_format"] == "torch":
        if not trust:
            raise ExportError(
                f"{path}: a torch export, which may run code of its author's as it is loaded. "
                f"If you trust the origin of this file, use trust=True in Python, or --trust "
                f"if the command has it; else export the model with --format onnx."
            )
        return _torch_graph(path, stored["inputs"], outputs)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # each cause has a class of its own
        raise ExportError(
            f"{path}: onnxruntime {onnxruntime.__version__} cannot read this graph of opset "
            f"{about['opset']}, which onnxruntime {about['onnxruntime']} reads "
            f"({error!s:.300})."
        ) from error
    return lambda given: dict(zip(outputs, session.run(outputs, given), strict=True))


def _torch_graph(path: Path, inputs: list[str], outputs: list[str]) -> Graph:
    try:
        import torch

        import_module("vlm.text.recurrent")  # has an operator of the graphs
    except ImportError as error:
        raise ExportError(
            f"{path}: a torch export, which needs torch and vlm. Export with --format onnx."
        ) from error
    module = torch.export.load(path).module()

    def run(given: Arrays) -> Arrays:
        with torch.inference_mode():
            made = module(*(torch.from_numpy(given[name]) for name in inputs))
        return {name: value.numpy() for name, value in zip(outputs, made, strict=True)}

    return run
