"""What a checkpoint holds besides weights, and how it is read: safely, strictly, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vlm.model import PARTS, VQAModel

KEY = "vlm"
"""Where our own data stands in a Lightning checkpoint."""
FORMAT = 1
PREFIX = "model."
"""Of the model's weights in the training task's state."""
BEST = "checkpoints/best.ckpt"
"""The best checkpoint inside a run folder."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and the reason."""


class Checkpoint(NamedTuple):
    """A checkpoint that was read.

    Attributes:
        path: of the file.
        model: the model's configuration (`VQAModel.config`).
        weights: its parameters and buffers.
        about: which run made it, on which data, with which answers.
    """

    path: Path
    model: dict[str, Any]
    weights: dict[str, Tensor]
    about: dict[str, Any]

    @property
    def words(self) -> list[str]:
        """The words the text encoder was built with."""
        return list(self.model["text_encoder"]["init_args"].get("words") or [])

    @property
    def answers(self) -> list[str]:
        """The answers the head was built with, in the order of its outputs."""
        return list(self.model["head"]["init_args"]["answers"])


def describe(model: VQAModel, about: dict[str, Any]) -> dict[str, Any]:
    """Our part of a checkpoint: plain data that the safe loader reads."""
    return {"format": FORMAT, "model": model.config, "about": about}


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint or a run folder's best one. Runs no code from the file.

    Raises:
        CheckpointError: missing, empty, truncated, or not made by vlm.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / BEST).is_file():
            raise CheckpointError(f"{path}: this folder has no {BEST}; wanted a run's folder.")
        path = path / BEST
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file.")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: the file is empty.")
    with path.open("rb") as file:
        start = file.read(64)
    # Checked by hand, since the loader's own message advises turning its safety off.
    if not start.startswith(b"PK"):
        kind = "a web page" if b"<" in start[:16] else "no checkpoint"
        if start.startswith(b"version https://git-lfs"):
            kind = "a Git LFS pointer; fetch the file itself with `git lfs pull`"
        raise CheckpointError(f"{path}: this is {kind}; wanted a checkpoint made by vlm.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path}: damaged, or it holds more than weights and plain data, which is never "
            f"loaded ({type(error).__name__}, {path.stat().st_size} bytes). Take another "
            f"checkpoint of the run."
        ) from error
    if not isinstance(content, dict) or KEY not in content:
        raise CheckpointError(
            f"{path}: a checkpoint of another program; wanted one that `vlm fit` made."
        )
    own = content[KEY]
    if own["format"] != FORMAT:
        raise CheckpointError(
            f"{path}: written in format {own['format']}; this version of vlm reads {FORMAT}."
        )
    weights = {
        name.removeprefix(PREFIX): value
        for name, value in content["state_dict"].items()
        if name.startswith(PREFIX)
    }
    return Checkpoint(path, own["model"], weights, own["about"])


def load_model(checkpoint: Checkpoint, trust: bool = False) -> VQAModel:
    """Rebuild the model of a checkpoint, in evaluation mode.

    Args:
        checkpoint: as `read_checkpoint` gives it.
        trust: also import parts from outside vlm, which runs their code.

    Raises:
        CheckpointError: weights that do not fit the configuration, with the difference.
    """
    model = VQAModel.from_config(checkpoint.model, trust)
    load_weights(model, checkpoint.weights, str(checkpoint.path))
    return model.eval()


def load_weights(module: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Load weights strictly.

    Raises:
        CheckpointError: what is missing, what is too much and which shapes differ.
    """
    own = module.state_dict()
    missing = [f"missing here: {name}" for name in own if name not in weights]
    unexpected = [f"not in the model: {name}" for name in weights if name not in own]
    shapes = [
        f"{name}: {tuple(weights[name].shape)} here, {tuple(own[name].shape)} in the model"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if problems := missing + unexpected + shapes:
        shown = "\n  ".join(problems[:10])
        more = f"\n  and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise CheckpointError(f"{source}: its weights do not fit the model:\n  {shown}{more}")
    module.load_state_dict(weights)


def model_differences(stored: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """Where a configuration asks for another model than the checkpoint's, one line each.

    Only what `asked` sets is compared: widths, vocabularies and the like are linked.

    Args:
        stored: the checkpoint's model configuration.
        asked: the model section of a parsed configuration.
    """
    lines: list[str] = []
    for part in PARTS:
        if asked.get(part):
            _compare(part, stored[part], asked[part], lines)
    return lines


# Set by links or by the constructor itself, so what the user wrote says nothing about them.
_DERIVED = {
    "words",
    "answers",
    "in_dim",
    "image_dim",
    "text_dim",
    "pretrained",
    "tokenizer",
    "config",
}


def _compare(name: str, stored: Any, asked: Any, lines: list[str]) -> None:
    if isinstance(stored, dict) and isinstance(asked, dict):
        if "class_path" in stored:
            if stored["class_path"].split(".")[-1] != asked["class_path"].split(".")[-1]:
                lines.append(
                    f"{name}: {stored['class_path']} in the checkpoint, {asked['class_path']} asked"
                )
                return
            stored, asked = stored.get("init_args", {}), asked.get("init_args", {})
        for key in asked:
            if key not in _DERIVED and key in stored:
                _compare(f"{name}.{key}", stored[key], asked[key], lines)
    elif (list(stored) if isinstance(stored, (list, tuple)) else stored) != (
        list(asked) if isinstance(asked, (list, tuple)) else asked
    ):
        lines.append(f"{name}: {stored} in the checkpoint, {asked} asked")
