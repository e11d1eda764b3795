"""Where the tuning that a configuration asks for is not that of the checkpoint it names."""

from __future__ import annotations

from typing import Any

from vlm.checkpoint.checkpoint import Checkpoint
from vlm.core.errors import ConfigError
from vlm.model import PARTS


def lora_differences(checkpoint: Checkpoint, asked: dict[str, Any], fits: bool) -> list[str]:
    """The parts for which another LoRA is asked for than the checkpoint's, one line each.

    Args:
        checkpoint: that is read.
        asked: `model.tuning` of the configuration, plain data.
        fits: whether the training goes on, which to say nothing of LoRA would end; elsewhere the
            checkpoint's is taken then.
    """
    lines = []
    for part in PARTS:
        stored, lora = checkpoint.model[part].get("lora"), asked[part]["lora"]
        if lora != stored and (lora is not None or fits):
            lines.append(f"tuning.{part}.lora: {stored} in the checkpoint, {lora} asked")
    return lines


def refuse_two_beginnings(checkpoint: Checkpoint, asked: dict[str, Any]) -> None:
    """A run that is continued began with `init_from`, or without it.

    Raises:
        ConfigError: another `init_from` than the run's own.
    """
    tuning = checkpoint.about.get("training", {}).get("model.tuning", {})
    if asked["init_from"] not in (None, tuning.get("init_from")):
        raise ConfigError(
            f"model.tuning.init_from: got {asked['init_from']}, and --ckpt_path={checkpoint.path}; "
            f"wanted one of them: the first starts a new run, the second continues one with its "
            f"own weights."
        )
