"""Load what can be asked, whoever wrote it: `vlm fit`, `vlm share` or `vlm export`."""

from __future__ import annotations

from pathlib import Path

import torch

from vlm.adapters.image_text_to_text import ImageTextToText
from vlm.export.exported import Exported
from vlm.export.manifest import MANIFEST, ExportError
from vlm.inference import VQA, load_any


def load(
    path: str | Path,
    device: str | torch.device = "cpu",
    trust: bool = False,
    revision: str | None = None,
    prompt: str | None = None,
) -> VQA | Exported | ImageTextToText:
    """Load a trained model or an export of one. This runs no code from the model, whoever made it,
    and needs a network only for `hf:`.

    Args:
        path: a `.ckpt` file that `vlm fit` wrote; a run's folder (its best checkpoint); a folder
            that `VQA.save`, `vlm share` or `vlm export` wrote; a folder with a ViLT or BLIP model
            for VQA, or with an image-text-to-text model of transformers; "scenes" or "easy_vqa",
            small models that come with vlm; or `hf:` and the name of a model on the hub, which is
            downloaded to the hub's cache and then loaded like any stranger's folder.
        device: device of the model; an export runs on the CPU, with as many threads as torch.
        trust: whether to import parts from outside vlm too, or to load a torch export; either may
            run code of its author.
        revision: a branch, tag or commit on the hub; None for the main branch.
        prompt: text that an image-text-to-text model reads, with {question} in it; None for a
            prompt that asks for a word or phrase.

    Raises:
        CheckpointError: a file that is missing, damaged or of another kind, with the reason.
        ExportError: an export that is damaged, of another version, or for another device.
        OSError: a model of the hub that is not available, with the places searched.
        ValueError: a model of the hub of another kind, a revision for something that is not on the
            hub, or a `prompt` for a model that reads none.
    """
    if prompt is not None or revision is not None or not (Path(path) / MANIFEST).is_file():
        return load_any(path, device, trust, revision, prompt)
    if torch.device(device).type != "cpu":
        raise ExportError(f"device: got {device} for the export {path}; expected cpu.")
    return Exported(path, torch.get_num_threads(), trust)
