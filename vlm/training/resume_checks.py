"""A training is continued as it was, or not at all: what differs is listed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm.checkpoint.checkpoint import Checkpoint, model_differences
from vlm.checkpoint.file import CheckpointError
from vlm.core.errors import ConfigError
from vlm.model import PARTS, VQAModel
from vlm.training.schedule import WarmupSteps

LENGTHS = ("trainer.max_epochs", "trainer.max_steps")


def refuse(path: str | Path, differences: Sequence[str], what: str) -> None:
    """Refuse a checkpoint where another model or training is asked for.

    Raises:
        CheckpointError: lists the differences, if there are any.
    """
    if differences:
        raise CheckpointError(
            f"{path} holds another {what} than the configuration:\n  "
            + "\n  ".join(differences)
            + "\nUse the run's own config.yaml, or make the task and its data as that run did."
        )


def part_differences(stored: Mapping[str, Any], model: VQAModel) -> list[str]:
    """Where a model was built with other arguments than a checkpoint's, one line each. Weights in
    the place of other words or answers would give silently wrong scores.
    """
    asked = model.config
    lines = model_differences(dict(stored), asked)
    for part, name in (("text_encoder", "words"), ("head", "answers")):
        theirs, ours = (config[part]["init_args"].get(name) or [] for config in (stored, asked))
        if theirs != ours:
            what = "in another order" if sorted(theirs) == sorted(ours) else f"and {len(ours)} here"
            lines.append(f"{part}.{name}: {len(theirs)} in the checkpoint, {what}")
    return lines


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
            f"expected one of them: the first starts a new run, the second continues one with its "
            f"own weights."
        )


def fact_differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Differences between a configuration's training and a checkpoint's, one line each.

    A training may be extended, unless the first steps of its schedule depend on its length.
    """
    lines = []
    for name in asked:
        if name not in stored or stored[name] == asked[name]:
            continue
        line = f"{name}: {stored[name]} in the checkpoint, {asked[name]} asked"
        if name in LENGTHS and _longer(stored[name], asked[name]):
            schedule = asked["model.schedule"]
            if not _spans_all(schedule):
                continue
            line += (
                f"; {schedule['class_path'].split('.')[-1]} spans the whole training, so all its "
                f"steps would have had other learning rates. To train on, start a run from these "
                f"weights: --model.tuning.init_from=CHECKPOINT instead of --ckpt_path. A run with "
                f"model.schedule=null, or WarmupSteps in epochs or steps, can be extended"
            )
        lines.append(line)
    return lines


def _longer(length: int | None, other: int | None) -> bool:
    unlimited = (None, -1)
    return length not in unlimited and (other in unlimited or other > length)


def _spans_all(schedule: Mapping[str, Any] | None) -> bool:
    """Whether a schedule's first steps depend on the number of steps; True if unknown."""
    if schedule is None:
        return False
    path = schedule["class_path"]
    ours = path.startswith("vlm.training.") and path.endswith(f".{WarmupSteps.__name__}")
    return not ours or schedule["init_args"]["unit"] == "share"
