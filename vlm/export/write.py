"""Write a model as graphs and plain JSON."""

from __future__ import annotations

import logging
import re
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from vlm.core.calibration import ABOUT
from vlm.core.extras import missing_from
from vlm.core.version import __version__
from vlm.export.graphs import TracedGraph, head_kind, trace_graphs
from vlm.export.manifest import (
    ANSWERS,
    TOKENIZER,
    TRANSFORM,
    ExportError,
    write_json,
    write_manifest,
)
from vlm.export.quantize import quantize_dynamic, quantize_static
from vlm.export.recurrent import recurrent_forms
from vlm.heads.generation import ByteTokenizer, Generation, SubwordAnswers, TransformerDecoder
from vlm.heads.multi_task import answering
from vlm.inference import VQA
from vlm.text.subword import SubwordTokenizer
from vlm.text.tokenizer import Tokenizer, WordTokenizer
from vlm.text.vectors import VectorTokenizer

OPSET = 20
"""Of the ONNX graphs; onnxruntime reads it since 1.17."""
GraphFormat = Literal["onnx", "torch"]


def export(
    model: VQA,
    folder: str | Path,
    graphs: GraphFormat = "onnx",
    calibration: Sequence[np.ndarray] | None = None,
) -> Path:
    """Write a model as graphs that need neither vlm nor, as ONNX, torch.

    The graphs take batches, questions, choices and written answers of any length. There is no
    fallback to another exporter: a part that cannot be exported is an error.

    Args:
        model: model to export, in full precision and on the CPU.
        folder: new or empty.
        graphs: format, "onnx" (opset 20) or "torch" for programs of `torch.export`.
        calibration: images (C, H, W) uint8 as `transform` makes them, from the validation split.
            With them, the graphs compute in 8 bits: the image graph with ranges of activations
            measured on these images, the other graphs with ranges found at run time. Only for ONNX.

    Returns:
        The folder: a graph in each file, `tokenizer.json`, `transform.json`, `answers.json` and
        `manifest.json` with the digest of every file.

    Raises:
        ExportError: a part that cannot be exported, with the operator that has no ONNX form; a
            tokenizer that cannot be written as JSON; a folder that is not empty or cannot be
            written. After an error, no file is left.

    Example:
        folder = export(vlm.load("my_model"), "my_export")
    """
    folder = Path(folder)
    if graphs not in get_args(GraphFormat):
        raise ExportError(
            f"graphs: got {graphs!r}; expected one of {', '.join(get_args(GraphFormat))}."
        )
    if graphs == "onnx" and (missing := missing_from("export")):
        raise ExportError(missing)
    if graphs == "torch" and calibration is not None:
        raise ExportError("calibration: got images for torch's format; 8 bits need graphs='onnx'.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"{folder}: not empty; expected a new or empty folder.")
    if (most := model.model.fusion.max_images) > 1:
        raise ExportError(
            f"model: got one for questions about up to {most} images; expected one for "
            f"questions about one, which is all that an export answers."
        )
    stored = _stored(model)
    from vlm.core.terminal import working

    try:
        folder.mkdir(parents=True, exist_ok=True)
        about = {**stored.pop("about"), "graphs": {}}
        for name, value in stored.items():
            write_json(folder / name, value)
        for graph in trace_graphs(model.model):
            path = folder / f"{graph.name}.{'onnx' if graphs == 'onnx' else 'pt2'}"
            with working(f"Writing the {graph.name} graph"):
                _write(graph, path, graphs, calibration)
            files = {"file": path.name, "inputs": graph.inputs, "outputs": graph.outputs}
            about["graphs"][graph.name] = files
        about |= {"graph_format": graphs, "torch": torch.__version__}
        about["precision"] = "float32" if calibration is None else "int8"
        if graphs == "onnx":
            import onnxruntime

            about |= {"opset": OPSET, "onnxruntime": onnxruntime.__version__}
        write_manifest(folder, about)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise ExportError(
                f"{folder}: cannot be written ({error.strerror or error})."
            ) from error
        raise
    return folder


def _write(
    graph: TracedGraph, path: Path, graphs: GraphFormat, calibration: Sequence[np.ndarray] | None
) -> None:
    if graphs == "torch":
        with warnings.catch_warnings():
            # Of tensors that share memory, such as an embedding that is the output layer.
            warnings.filterwarnings("ignore", "No complete tensor found")
            torch.export.save(graph.program, path)
        return
    _write_onnx(graph, path)
    if calibration is not None and graph.name == "image":
        quantize_static(path, calibration)
    elif calibration is not None:
        quantize_dynamic(path)


def _stored(vqa: VQA) -> dict[str, Any]:
    """The JSON files by name, and what the manifest says as "about"."""
    model = vqa.model
    head, kind = answering(model.head), head_kind(model)
    about: dict[str, Any] = {"vlm": __version__, "head": kind}
    about["parts"] = {name: type(part).__name__ for name, part in model.named_children()}
    about["in_order"] = model.text_encoder.in_order
    if vqa.calibration is not None:
        about[ABOUT] = asdict(vqa.calibration)
    stored: dict[str, Any] = {
        "about": about,
        TRANSFORM: asdict(model.image_encoder.transform),
        TOKENIZER: _stored_tokenizer(model.text_encoder.tokenizer),
    }
    if head.vocabulary is not None:
        stored[ANSWERS] = head.vocabulary.answers
    if isinstance(head, Generation):
        assert isinstance(head.decoder, TransformerDecoder)
        decoder, tokenizer = head.decoder, head.decoder.tokenizer
        if type(tokenizer) not in (ByteTokenizer, SubwordAnswers):
            raise _unwritable("head.decoder.tokenizer", tokenizer)
        first: Any = decoder.layers[0]
        heads = first.self_attention.num_heads
        about["decoder"] = {
            "begin": tokenizer.begin,
            "end": tokenizer.end,
            "max_length": decoder.max_length,
            "min_length": head.min_length,
            "layers": len(decoder.layers),
            "num_heads": heads,
            "head_dim": decoder.embedding.embedding_dim // heads,
            "tokenizer": tokenizer.arguments.get("json") or "bytes",
        }
    return stored


def _stored_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    # To the class: a subclass may split in a way of its own.
    kind, length = type(tokenizer), tokenizer.max_length
    if isinstance(tokenizer, WordTokenizer) and kind in (WordTokenizer, VectorTokenizer):
        contractions = kind is VectorTokenizer
        return {
            "kind": "words",
            "words": tokenizer.words,
            "max_length": length,
            "contractions": contractions,
        }
    if kind is SubwordTokenizer:
        json = tokenizer.arguments["json"]
        return {"kind": "pieces", "json": json, "max_length": length, "pad_id": tokenizer.pad_id}
    raise _unwritable("text_encoder.tokenizer", tokenizer)


def _unwritable(place: str, tokenizer: object) -> ExportError:
    return ExportError(
        f"{place}: {type(tokenizer).__name__} cannot be written as JSON; expected words, bytes, or "
        f"a Hugging Face tokenizer (WordTokenizer, VectorTokenizer, SubwordTokenizer)."
    )


_OPERATOR = re.compile(r"OpOverload\(op='([\w.:]+)'")


def _write_onnx(graph: TracedGraph, path: Path) -> None:
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the optimiser's, of what it leaves as it is
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, of parts of its exporter
            program = torch.onnx.export(
                graph.program,
                input_names=graph.inputs,
                output_names=graph.outputs,
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
                custom_translation_table=recurrent_forms(),
            )
        assert program is not None
        program.save(path)
    except torch.onnx.OnnxExporterError as error:
        chain, cause = [str(error)], error.__cause__
        while cause is not None:
            chain.append(str(cause))
            cause = cause.__cause__
        named = [found[1] for text in chain if (found := _OPERATOR.search(text))]
        reason = (
            f"the operator {named[-1]} has no form in ONNX opset {OPSET}"
            if named
            else chain[-1].strip().partition("\n")[0][:300]
        )
        raise ExportError(
            f"The {graph.name} graph cannot be written as ONNX: {reason}. Use --format torch, or "
            f"another part."
        ) from error
    finally:
        logging.disable(level)
