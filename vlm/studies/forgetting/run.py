"""A finished run: its checkpoint and the configuration that its encoders started from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vlm.checkpoint.checkpoint import (
    Checkpoint,
    CheckpointError,
    model_differences,
    read_checkpoint,
)
from vlm.core.validation import counted
from vlm.heads.vocabulary import AnswerVocabulary
from vlm.training.run_dir import folder_of_checkpoint

CONFIG = "config.yaml"


@dataclass(frozen=True)
class FineTuned:
    """A run to measure, by its name in the report, its config.yaml and its checkpoint."""

    name: str
    path: Path
    checkpoint: Checkpoint
    config: dict[str, Any]

    @property
    def seed(self) -> Any:
        """Seed of its training."""
        return self.config.get("seed_everything")

    @property
    def vocabulary(self) -> dict[str, Any] | None:
        """Description of the answer vocabulary from its checkpoint; None if there is none."""
        about: dict[str, Any] | None = self.checkpoint.about.get("vocabulary")
        if about or not self.checkpoint.answers:
            return about
        answers = AnswerVocabulary(self.checkpoint.answers)  # source unknown
        return {"size": len(answers), "hash": answers.hash}

    def init_args(self, part: str) -> dict[str, Any]:
        """The arguments of a part, as given in the configuration."""
        arguments: dict[str, Any] = self.config["model"][part].get("init_args") or {}
        return arguments

    def training_of(self, part: str) -> str:
        """How a part was trained, in words."""
        tuning = (self.config["model"].get("tuning") or {}).get(part) or {}
        if tuning.get("frozen"):
            return "frozen"
        lora, start = tuning.get("lora"), tuning.get("from_epoch", 0)
        words = [f"LoRA of rank {lora['rank']}" if lora else "trained"]
        if start:
            words.append(f"from epoch {start}")
        if (layers := tuning.get("layers_per_epoch")) is not None:
            words.append(f"{counted(layers, 'more layer')} an epoch")
        if (scale := tuning.get("lr_scale") or 1) != 1:
            words.append(f"learning rate x {scale:g}")
        if (decay := tuning.get("layer_decay", 1)) != 1:
            words.append(f"layer decay {decay:g}")
        return ", ".join(words)


def read_run(path: str | Path, name: str | None = None) -> FineTuned:
    """Read a run from its folder (the best checkpoint) or from a checkpoint in it.

    Raises:
        CheckpointError: no valid checkpoint, or no config.yaml of the same model next to it.
    """
    checkpoint = read_checkpoint(path)
    folder = folder_of_checkpoint(checkpoint.path)
    config = None if folder is None else folder / CONFIG
    if folder is None or config is None or not config.is_file():
        raise CheckpointError(
            f"{checkpoint.path}: there is no {CONFIG} of its run, which says what weights its "
            f"encoders began with; expected RUN or RUN/checkpoints/NAME.ckpt, as `vlm fit` "
            f"left them."
        )
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
        model = {part: content["model"][part] for part in checkpoint.model}
        differences = model_differences(checkpoint.model, model)
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{config}: cannot be read as the configuration of a run ({type(error).__name__}); "
            f"expected the file that `vlm fit` wrote."
        ) from error
    if differences:
        raise CheckpointError(
            f"{config} is of another model than {checkpoint.path}:\n  "
            + "\n  ".join(differences)
            + "\nExpected the checkpoint's own."
        )
    return FineTuned(name or folder.name, config, checkpoint, content)
