"""Models for others: weights without code, and a configuration that is checked first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlm.checkpoint.checkpoint import BEST, FORMAT, Checkpoint, check_format
from vlm.checkpoint.file import LARGEST_CONFIG, CheckpointError, check_weights, first_not_finite
from vlm.core.files import sha256
from vlm.core.version import __version__
from vlm.model import VQAModel

WEIGHTS, CONFIG = "model.safetensors", "config.json"
"""The two files of a shared model."""
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")

_ABOUT = (
    "augment",
    "calibration",
    "created",
    "data",
    "results",
    "seconds",
    "torch",
    "vlm",
    "vocabulary",
)
# Of these a folder must have all; the others are for people.
_NEEDED = {"about": dict, "format": int, "model": dict, "weights": dict}


def write_shared(model: VQAModel, about: dict[str, Any], folder: str | Path) -> Path:
    """Write a model for others: `model.safetensors` and `config.json`.

    Tensors that share their memory are stored once. Of `about`, which run made it, only what may be
    public is kept, and no path of this machine. The folder must be new or empty.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder}: not empty; expected a new or empty folder.")
    weights, tied = _untied(model.state_dict())
    if name := first_not_finite(weights):
        raise CheckpointError(f"{folder}: not written, since {name} is not finite.")
    kept = {key: about[key] for key in _ABOUT if about.get(key) is not None}
    for key in ("run", "data"):  # of an adapted model, both are its folder
        if about.get(key):
            kept[key] = Path(about[key]).name
    if augment := about.get("training", {}).get("data.augment"):
        kept["augment"] = {side: augment.get(side) for side in ("no_image", "no_question")}
    vocabulary, words = model.head.vocabulary, model.text_encoder.tokenizer.vocab_size
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(weights, folder / WEIGHTS)
        config = {
            "format": FORMAT,
            "vlm": __version__,
            "about": kept,
            "vocabularies": {"tokens": words, "answers": len(vocabulary or ())},
            "weights": {"sha256": sha256(folder / WEIGHTS), "tied": tied},
            "model": model.config,
        }
        # Last: a folder without it was not written to its end.
        (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        shutil.copymode(folder / CONFIG, folder / WEIGHTS)  # safetensors lets nobody else read it
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be written ({error.strerror or error})."
        ) from error
    return folder


def is_shared(path: str | Path) -> bool:
    """Whether this is the folder of a shared model, and not of a run."""
    path = Path(path)
    there = any((path / name).is_file() for name in (CONFIG, WEIGHTS))
    return there and not (path / BEST).is_file()


def read_shared(folder: str | Path, trust: bool = False) -> Checkpoint:
    """Read a shared model; one with classes from outside vlm only if `trust`. Imports nothing that
    it names, and runs no code from it."""
    folder = Path(folder)
    config = _read_config(folder)
    weights = _read_weights(folder, config["weights"])
    checkpoint = Checkpoint(folder, config["model"], weights, config["about"], 0)
    checkpoint.check(trust)
    return checkpoint


def file_inside(folder: Path, name: str) -> Path:
    """The path of a file in the folder, or one that the folder links to in the hub's cache; an
    error for any other link out of the folder."""
    path, homes = folder / name, [folder.resolve()]
    if homes[0].parent.name == "snapshots":
        homes.append(homes[0].parents[1] / "blobs")
    try:
        real = path.resolve()
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: a broken link ({error}).") from error
    if not any(real.is_relative_to(home) for home in homes):
        raise CheckpointError(
            f"{path}: a link to {real}, out of the folder; expected the file itself."
        )
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path}: this is not a file.")
    return path


def _read_config(folder: Path) -> dict[str, Any]:
    path = file_inside(folder, CONFIG)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file; expected it next to {WEIGHTS}.")
    config = read_json(path)
    if any(type(config.get(key)) is not kind for key, kind in _NEEDED.items()):
        raise CheckpointError(
            f"{path}: not a model of vlm; expected one written by `vlm share`, or a ViLT or BLIP "
            f"model for VQA."
        )
    check_format(path, config)
    return config


def _read_weights(folder: Path, about: dict[str, Any]) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    path = file_inside(folder, WEIGHTS)
    if not path.is_file():
        others = [file.name for file in sorted(folder.iterdir()) if file.suffix in PICKLES]
        more = " {} can hold code and is not read; ask its author for {}."
        hint = more.format(others[0], WEIGHTS) if others else ""
        raise CheckpointError(f"{path}: there is no such file.{hint}")
    if sha256(path) != about.get("sha256"):
        raise CheckpointError(
            f"{path}: damaged: its checksum differs from the one in {CONFIG} "
            f"({path.stat().st_size} bytes). Fetch it again."
        )
    try:
        weights: dict[str, Tensor] = load_file(path)
    except Exception as error:  # a false header can raise anything
        raise CheckpointError(f"{path}: not a safetensors file ({error!r:.300}).") from error
    check_weights(weights, path.stat().st_size, path)
    tied = about.get("tied")
    if not isinstance(tied, dict) or not {*map(str, tied.values())} <= weights.keys():
        raise CheckpointError(f"{folder / CONFIG}: weights.tied names tensors that are not there.")
    return weights | {name: weights[first] for name, first in tied.items()}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one for any other value."""
    if (size := path.stat().st_size) > LARGEST_CONFIG:
        raise CheckpointError(f"{path}: got {size:,} bytes; expected at most {LARGEST_CONFIG:,}.")
    try:
        found = json.loads(path.read_bytes(), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged: not JSON ({error}).") from error
    return found if isinstance(found, dict) else {}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object without duplicate keys, of which readers take different values."""
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(k for k in keys if keys.count(k) > 1)!r:.80} is a duplicate key")
    return made


def _untied(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor once, and of those that are another's memory, whose."""
    weights: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    for name, value in state.items():
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        if value.numel() and key in first:
            tied[name] = first[key]
            continue
        first[key] = name
        # A copy, since a part of another's memory would be refused.
        weights[name] = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    return weights, tied
