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
    """Load a trained model or an export of one; needs no network but for `hf:`. Runs no code from
    it, whoever made it.

    Args:
        path: a `.ckpt` file that `vlm fit` wrote, a run's folder (its best checkpoint), a folder
            that `VQA.save`, `vlm share` or `vlm export` wrote, or one with a ViLT or BLIP model for
            VQA, or with an image-text-to-text model of transformers; "scenes" or "easy_vqa", small
            models that come with vlm; or `hf:` and the name of a model on the hub, which is fetched
            to the hub's cache and then loaded as any stranger's folder.
        device: where to run; an export runs on the CPU, with as many threads as torch.
        trust: also import parts from outside vlm, or load a torch export, either of which may run
            code of their authors'.
        revision: a branch, tag or commit on the hub; its main branch if None.
        prompt: what an image-text-to-text model reads, with {question} in it; None for one that
            asks for a word or phrase.

    Raises:
        CheckpointError: missing, damaged or of another kind, with the reason.
        ExportError: an export that is damaged, of another version, or for another device.
        OSError: a model of the hub that cannot be had; says where it was looked for.
        ValueError: a model of the hub of another kind, a revision of what is not there, or a
            `prompt` for a model that reads none.
    """
    if prompt is not None or revision is not None or not (Path(path) / MANIFEST).is_file():
        return load_any(path, device, trust, revision, prompt)
    if torch.device(device).type != "cpu":
        raise ExportError(f"device: got {device} for the export {path}; expected cpu.")
    return Exported(path, torch.get_num_threads(), trust)
