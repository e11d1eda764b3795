"""`vlm share`: write a trained model to a folder or the hub, for others to load without trusting
its author."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vlm.cli.command_parser import HUB, add_checkpoint, add_trust, command_parser

EXAMPLE = """\
examples:
  vlm share RUN shapes-model
  vlm share RUN hf:me/shapes-model     after `hf auth login`
"""


def share(arguments: Sequence[str]) -> None:
    """Write the folder, upload it if it is for the hub, and print how to use it."""
    parser = command_parser(
        "share",
        "Write a trained model for others, without code: model.safetensors, config.json and a\n"
        "model card (README.md).",
        EXAMPLE,
    )
    add_checkpoint(parser)
    parser.add_argument("folder", help="new or empty folder to write, or hf:USER/NAME for the hub")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    add_trust(parser)
    given = parser.parse_args(arguments)
    if given.private and not given.folder.startswith(HUB):
        parser.error(f"--private: got a folder, {given.folder}; expected hf:USER/NAME.")
    # Here and not above: `--help` and a mistake need not wait for torch.
    from vlm.checkpoint.publishing import (
        CARD,
        RESULTS,
        model_card,
        published,
        read_record,
        upload,
    )
    from vlm.checkpoint.sharing import WEIGHTS
    from vlm.inference import load

    try:
        vqa = load(given.checkpoint, trust=given.trust)
        record = read_record(given.checkpoint, vqa.about)
        if record.results is None and Path(given.checkpoint, RESULTS).is_file():
            print(
                f"Left out: {RESULTS} is of another state of this run. To measure this one: "
                f"vlm test {given.checkpoint}",
                file=sys.stderr,
            )
        hub = given.folder.startswith(HUB)
        # Where a folder lies is nobody else's affair.
        name = given.folder if hub else Path(given.folder).name
        card = model_card(vqa.model, vqa.about, record, name, vqa.digest)
        if record.results is not None:
            vqa.about |= {"results": published(record.results)}
        with tempfile.TemporaryDirectory() as temporary:
            folder = vqa.save(Path(temporary, "model") if hub else given.folder)
            (folder / CARD).write_text(card, encoding="utf-8")
            size = (folder / WEIGHTS).stat().st_size / 1e6
            if hub:
                print(upload(folder, given.folder.removeprefix(HUB), given.private))
    except (OSError, ValueError) as error:
        sys.exit(f"vlm share: {error}")
    ask = f"vlm ask {'--trust ' if given.trust else ''}{given.folder} photo.png QUESTION"
    print(f"{given.folder}: {size:,.1f} MB, without code. Try it: {ask}")
