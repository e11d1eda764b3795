"""`vlm share`: a trained model as a folder that others can load without trusting its author."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vlm.cli.command_parser import add_checkpoint, add_trust, command_parser


def share(arguments: Sequence[str]) -> None:
    """Write the folder and say what to do with it."""
    parser = command_parser(
        "share",
        "Write a trained model for others: model.safetensors and config.json, without code.",
        "example:\n  vlm share runs/easy_vqa/RUN shapes-model",
    )
    add_checkpoint(parser)
    parser.add_argument("folder", help="new or empty folder to write")
    add_trust(parser)
    given = parser.parse_args(arguments)
    # Here and not above: `--help` and a mistake need not wait for torch.
    from vlm.checkpoint.sharing import WEIGHTS
    from vlm.inference import load

    try:
        folder = load(given.checkpoint, trust=given.trust).save(given.folder)
    except ValueError as error:
        sys.exit(f"vlm share: {error}")
    size = (folder / WEIGHTS).stat().st_size / 1e6
    ask = f"vlm ask {'--trust ' if given.trust else ''}{folder} photo.png QUESTION"
    print(f"{folder}: {size:,.1f} MB. It holds no code. Try it: {ask}")
