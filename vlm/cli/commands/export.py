"""`vlm export`: a trained model as graphs for onnxruntime or torch, with proof that they agree."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm.cli.check import parse_with_data
from vlm.cli.command_parser import add_checkpoint, add_trust, command_parser, data_config
from vlm.core.extras import missing_from

CALIBRATION_IMAGES = 128
EXAMPLES = """\
examples:
  vlm export RUN my_export
  vlm export RUN small_export --int8
  vlm export shared_model my_export -c configs/own_data.yaml --dataset.path questions.jsonl

The export is compared with the model on the validation split. Other options set its data, as for
`vlm fit`.
"""


def export_command(arguments: Sequence[str]) -> None:
    """Write the export, and a report that compares it with the model."""
    parser = command_parser(
        "export",
        "Export a model as ONNX or torch graphs, and compare their answers with the model's.",
        EXAMPLES,
    )
    add_checkpoint(parser)
    parser.add_argument("folder", type=Path, help="new or empty folder to write")
    parser.add_argument(
        "--format", choices=("onnx", "torch"), default="onnx", help="graph format (default: onnx)"
    )
    parser.add_argument("--int8", action="store_true", help="compute in 8 bits (ONNX only)")
    parser.add_argument(
        "-c", "--config", help="configuration of the data (default: the run's own config.yaml)"
    )
    add_trust(parser)
    given, options = parse_with_data(parser, arguments)
    config = data_config(parser, given.checkpoint, given.config)
    if given.int8 and given.format != "onnx":
        parser.error("--int8: got --format torch; 8 bits need --format onnx.")
    if given.format == "onnx" and (missing := missing_from("export")):
        sys.exit(f"vlm export: {missing}")
    # Here and not above: `--help` and a mistake need not wait for torch.
    from vlm.cli.data_only import read_data
    from vlm.core.terminal import WIDTH, new_console, new_table
    from vlm.export.exported import Exported
    from vlm.export.parity import HEADINGS, measure_parity
    from vlm.export.write import export
    from vlm.inference import load

    try:
        model = load(given.checkpoint, trust=given.trust)
        data = read_data("export", config, options).datamodule
        images = None
        if given.int8:
            paths = data.table("validation")["image"].unique().to_pylist()[:CALIBRATION_IMAGES]
            transform: Any = model.model.processor.transform
            images = [transform.open(data.open_images.content(path)).numpy() for path in paths]
        exported = Exported(export(model, given.folder, given.format, images), trust=True)
        parity = measure_parity(model, exported, data)
        parity.write(exported)
    except (ValueError, OSError) as error:
        sys.exit(f"vlm export: {error}")
    print("\n".join(parity.findings(exported.about)))
    table = new_table("", *HEADINGS, numbers=HEADINGS, note=parity.note)
    for row in parity.rows():
        table.add_row(*row)
    new_console(width=WIDTH).print(table)
    print(
        f"Export: {given.folder}. Ask it: vlm ask {given.folder} IMAGE QUESTION; without torch, by "
        f"the package vlm-vqa-runtime: vlm-answer {given.folder} IMAGE QUESTION"
    )
