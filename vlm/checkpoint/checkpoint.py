"""What a checkpoint holds besides weights, and how it is read: safely, strictly, offline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from reprlib import repr
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn

from vlm.checkpoint.file import KEY, CheckpointError, read_checkpoint_file
from vlm.core.calibration import Calibration
from vlm.core.extras import missing_extra
from vlm.core.lora import merge_lora
from vlm.core.part import KEYS, check_parts
from vlm.core.rust_panic import is_panic
from vlm.core.safe_config import check_config
from vlm.core.version import __version__
from vlm.model import PARTS, VQAModel
from vlm.pretrained.availability import nothing_fetched
from vlm.pretrained.bounded_build import Sparing
from vlm.pretrained.weights import differences, misfit

T = TypeVar("T")
FORMAT = 4
"""Of stored models; 4 divides what positions add, and normalises the tokens of `ConvNet`."""
PREFIX = "model."
"""Of the model's weights in the training task's state."""
BEST = "checkpoints/best.ckpt"
"""The best checkpoint inside a run folder."""


class Checkpoint(NamedTuple):
    """A checkpoint that was read.

    Attributes:
        path: path of the file.
        model: the model's configuration (`VQAModel.config`).
        weights: its parameters and buffers.
        about: which run made it, on which data, with which answers.
        step: optimiser steps trained so far; 0 for a model whose training cannot be continued.
    """

    path: Path
    model: dict[str, Any]
    weights: dict[str, Tensor]
    about: dict[str, Any]
    step: int

    @property
    def words(self) -> list[str]:
        """The words the text encoder was built with."""
        return list(self.model["text_encoder"]["init_args"].get("words") or [])

    @property
    def answers(self) -> list[str]:
        """The answers the head was built with, in the order of its outputs; none of others."""
        return list(self.model["head"]["init_args"].get("answers") or [])

    def check(self, trust: bool = False) -> None:
        """Refuse configurations in any form but ours, and classes from outside vlm unless `trust`.
        Imports nothing that they name."""
        try:
            check_config({"model": self.model, "about": self.about}, KEYS, trust)
            Calibration.of(self.about)
            if not isinstance(self.model, dict) or set(self.model) != set(PARTS):
                raise ValueError(f"got {repr(self.model)}; expected {', '.join(PARTS)}.")
            for part, found in self.model.items():
                if not isinstance(found, dict) or "class_path" not in found:
                    raise ValueError(
                        f"{part}: got {repr(found)}; expected a part's class_path and init_args."
                    )
                for name in ("words", "answers"):
                    listed = found.setdefault("init_args", {}).get(name) or []
                    if type(listed) is not list or not all(isinstance(t, str) for t in listed):
                        raise ValueError(f"{part}.{name}: got {repr(listed)}; expected texts.")
        except ValueError as error:
            raise CheckpointError(f"{self.path}: {error}") from error


def describe(model: VQAModel, about: dict[str, Any]) -> dict[str, Any]:
    """Our part of a checkpoint: plain data that the safe loader reads."""
    return {"format": FORMAT, "model": model.config, "about": about}


def check_format(path: Path, stored: Any) -> None:
    """Refuse what another version's `describe` made; the error names the version that reads it."""
    found = stored.get("format") if isinstance(stored, dict) else stored
    if type(found) is int and found == FORMAT:
        return
    about = stored.get("about") if isinstance(stored, dict) else None
    version = about.get("vlm") if isinstance(about, dict) else None
    remedy = f" Open it with vlm {version!s:.20}, which wrote it." if version else ""
    raise CheckpointError(
        f"{path}: got format {found!r:.40}; expected {FORMAT}, which vlm {__version__} reads."
        f"{remedy}"
    )


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint or a run folder's best one. Runs no code from the file.

    Raises:
        CheckpointError: missing, empty, damaged, not finite, or not made by vlm.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / BEST).is_file():
            raise CheckpointError(
                f"{path}: this folder has no {BEST}; expected a run's folder or, where a shared "
                f"model will do, one that `vlm share` wrote.{_kind(path)}"
            )
        if not (path / BEST).resolve().is_relative_to(path.resolve()):
            raise CheckpointError(f"{path / BEST}: links out of the folder; name the file itself.")
        path = path / BEST
    content = read_checkpoint_file(path)
    if not isinstance(content, dict) or KEY not in content:
        raise CheckpointError(f"{path}: not a checkpoint of vlm; expected one made by `vlm fit`.")
    own = content[KEY]
    check_format(path, own)
    stored, step = content.get("state_dict"), content.get("global_step", 0)
    about = own.get("about")
    if not isinstance(stored, dict) or not isinstance(about, dict) or type(step) is not int:
        raise CheckpointError(
            f"{path}: damaged: its state_dict, vlm.about and global_step are "
            f"{type(stored).__name__}, {type(about).__name__} and {type(step).__name__}; expected "
            f"dict, dict and int."
        )
    weights = {
        name.removeprefix(PREFIX): value
        for name, value in stored.items()
        if name.startswith(PREFIX)
    }
    checkpoint = Checkpoint(path, own.get("model"), weights, about, step)
    checkpoint.check(trust=True)  # `load_model` and `check_origin` check the classes
    return checkpoint


def _kind(folder: Path) -> str:
    """A sentence about a folder that is of another kind than a run's, or holds runs."""
    if (folder / "manifest.json").is_file():
        return " This is an export, which can only be asked (vlm ask, vlm predict, vlm serve)."
    if (folder / "model.safetensors").is_file():
        return " This is a shared model, which has no training to continue or to look back on."
    inside = sorted(folder.glob(f"*/{BEST}"), key=lambda path: path.stat().st_mtime)
    return f" The newest run inside is {inside[-1].parents[1]}." if inside else ""


def load_model(checkpoint: Checkpoint, trust: bool = False) -> VQAModel:
    """Rebuild the model of a checkpoint, in evaluation mode, with LoRA merged into its weights.
    Fetches nothing; imports parts from outside vlm, which runs their code, only if `trust`.

    Raises:
        CheckpointError: no model can be made of its configuration, or its weights do not fit it.
    """
    model = build_stored(checkpoint, lambda: VQAModel.from_config(checkpoint.model, trust), trust)
    load_weights(model, checkpoint.weights, str(checkpoint.path))
    for part in model.children():
        if part.lora is not None:
            merge_lora(part)
    return model.eval()


def build_stored(checkpoint: Checkpoint, make: Callable[[], T], trust: bool = False) -> T:
    """What `make` builds of a checkpoint's configuration. Fetches nothing and, unless `trust`,
    takes no more memory than the weights can fill.

    Raises:
        CheckpointError: it cannot be built.
    """
    try:
        with nothing_fetched(), nullcontext() if trust else Sparing(checkpoint.weights):
            return make()
    except BaseException as error:  # whatever parts raise of arguments that are not theirs
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        own = isinstance(error, (ValueError, OSError, MemoryError)) and str(error)
        if isinstance(error, ModuleNotFoundError):
            own = missing_extra(error) or own
        reason = own or f"{error!r}"
        raise CheckpointError(f"{checkpoint.path}: cannot build the model. {reason}") from error


def check_origin(checkpoint: Checkpoint, asked: dict[str, Any]) -> None:
    """Refuse a checkpoint with classes of packages that the user's configuration does not name.

    A training command would run their code. `asked` is the model section of the configuration.
    """
    try:
        check_parts(checkpoint.model, packages_of(asked))
    except ValueError as error:
        raise CheckpointError(
            f"{checkpoint.path}: {error} A training command takes classes that its configuration "
            f"names."
        ) from error


def packages_of(config: Any) -> set[str]:
    """The packages beside vlm whose classes a configuration names."""
    return {path.partition(".")[0] for path in _class_paths(config)} - {"vlm"}


def _class_paths(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("class_path"), str):
            yield value["class_path"]
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _class_paths(item)


def load_weights(module: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Load weights strictly; the error lists what is missing, too much or of another shape."""
    if lines := differences(module.state_dict(), weights):
        raise CheckpointError(misfit(source, lines))
    module.load_state_dict(weights)


def model_differences(stored: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """Where a configuration describes another model than the checkpoint's, one line each.

    Only what `asked` sets is compared: widths, vocabularies and the like are linked.
    """
    parts = [part for part in PARTS if asked.get(part)]
    return [line for part in parts for line in _compare(part, stored[part], asked[part])]


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


def _compare(name: str, stored: Any, asked: Any) -> Iterator[str]:
    if isinstance(stored, dict) and isinstance(asked, dict):
        if "class_path" in stored:
            path, asked_path = stored["class_path"], asked["class_path"]
            if path.split(".")[-1] != asked_path.split(".")[-1]:
                yield f"{name}: {path} in the checkpoint, {asked_path} asked"
                return
            stored, asked = stored.get("init_args", {}), asked.get("init_args", {})
        for key in asked:
            if key not in _DERIVED and key in stored:
                yield from _compare(f"{name}.{key}", stored[key], asked[key])
    elif not _is(stored, asked):
        yield f"{name}: {stored} in the checkpoint, {asked} asked"


def _is(stored: Any, asked: Any) -> bool:
    """Whether a stored value is the one in `asked`, or what a constructor made more exact: of a
    model's name that of its weights (`resnet18.a1_in1k`), of no options those it filled in."""
    if isinstance(stored, (list, tuple)) and isinstance(asked, (list, tuple)):
        return list(stored) == list(asked)
    if isinstance(stored, str) and isinstance(asked, str):
        return stored == asked or stored.startswith(f"{asked}.")
    return stored == asked or (isinstance(stored, dict) and asked is None)
