"""A checkpoint's file: written whole or not at all, and checked when it is read."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

SUFFIX = ".ckpt"
SUM_SUFFIX = ".sha256"
"""Of the file beside a checkpoint with its checksum, as `sha256sum -c` reads it."""
PARTIAL = ".partial"
"""Of a file that is still being written, or was when the process was killed."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used or written; the message names the file and the reason."""


def write_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint so that at every moment the old one or the new one is there, whole.

    Args:
        content: plain data and tensors; the weights under "state_dict".
        path: to write; an older file there is replaced.

    Raises:
        CheckpointError: weights that are not finite, or a file that cannot be written.
    """
    if name := first_not_finite(content["state_dict"]):
        raise CheckpointError(f"{path}: not written, since {name} is not finite.")
    # In the same folder, since a rename is atomic within one file system only.
    partial = path.with_name(path.name + PARTIAL)
    sum_file = path.with_name(path.name + SUM_SUFFIX)
    sum_partial = sum_file.with_name(sum_file.name + PARTIAL)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            hashed = _Hashed(file)
            try:
                torch.save(content, hashed)  # type: ignore[arg-type]  # it only writes
            except RuntimeError:
                # torch says no more than that its writer failed.
                raise hashed.error or OSError("torch.save failed") from None
            _flush(file)
        with sum_partial.open("w") as text:
            text.write(f"{hashed.digest.hexdigest()}  {path.name}\n")
            _flush(text)
        # Never a new file with an old checksum: killed in between, it has none.
        sum_file.unlink(missing_ok=True)
        partial.replace(path)
        sum_partial.replace(sum_file)
        _flush_folder(path.parent)
    except OSError as error:
        for left in (partial, sum_partial):
            with suppress(OSError):
                left.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror or error}). Older checkpoints are "
            f"untouched; make room and continue from the last one."
        ) from error


def read_checkpoint_file(path: Path) -> dict[str, Any]:
    """Read a checkpoint's content onto the CPU. Runs no code from the file; warns once of one whose
    checksum is not beside it.

    Raises:
        CheckpointError: missing, empty, of another kind, damaged, or with weights that are not
            finite; names a checkpoint of the same folder that is whole, if there is one.
    """
    try:
        return _read(path)
    except CheckpointError as error:
        if other := newest_whole(path.parent, without=path):
            raise CheckpointError(f"{error} {other} is whole.") from error
        raise


def newest_whole(
    folder: Path, without: Path | None = None, broken: list[CheckpointError] | None = None
) -> Path | None:
    """The newest checkpoint of a folder that can be read, or None.

    Args:
        folder: of the checkpoints.
        without: is not looked at.
        broken: takes what is wrong with newer ones.
    """
    left_out = without and without.resolve()
    files = {path.resolve() for path in folder.glob(f"*{SUFFIX}")} - {left_out}
    for path in sorted(files, key=_time, reverse=True):
        try:
            _read(path)
            return path
        except CheckpointError as error:
            if broken is not None:
                broken.append(error)
    return None


def _time(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(
            f"{path}: there is no such file or folder; wanted a run's folder, or its checkpoint."
        )
    size = path.stat().st_size
    if size == 0:
        raise CheckpointError(f"{path}: the file is empty.")
    with path.open("rb") as file:
        start = file.read(64)
    # Checked by hand, since the loader's own message advises turning its safety off.
    if not start.startswith(b"PK"):
        kind = "a web page" if b"<" in start[:16] else "no checkpoint"
        if start.startswith(b"version https://git-lfs"):
            kind = "a Git LFS pointer; fetch the file itself with `git lfs pull`"
        elif start.startswith(b"\x80"):
            kind = "a pickle, which can run code as it is opened, and is not read"
        elif path.suffix == ".safetensors":
            kind = "weights alone; name the folder with its config.json"
        raise CheckpointError(f"{path}: this is {kind}; wanted a checkpoint made by vlm.")
    verified = _verified(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path}: damaged, or it holds more than weights and plain data, which is never "
            f"loaded ({type(error).__name__}, {size} bytes). Take another checkpoint of the run."
        ) from error
    weights = content.get("state_dict") if isinstance(content, dict) else None
    if isinstance(weights, dict) and (name := first_not_finite(weights)):
        raise CheckpointError(f"{path}: {name} is not finite, so the model is broken.")
    if not verified:
        _warn_unverified(path)
    return content


def _verified(path: Path) -> bool:
    """Whether the content has the checksum beside it; False if there is none.

    Raises:
        CheckpointError: another checksum.
    """
    real = path.resolve()  # `last.ckpt` is a link
    own = real.with_name(real.name + SUM_SUFFIX)
    # Where a link has become a copy, its content is that of another file of the folder.
    files = [own] if own.is_file() else [*real.parent.glob(f"*{SUM_SUFFIX}")]
    sums = {word for file in files for word in file.read_bytes().split()}
    if sums and _digest(path).encode() in sums:
        return True
    if own.is_file():
        raise CheckpointError(
            f"{path}: damaged: its content does not have the checksum of {own.name} "
            f"({path.stat().st_size} bytes). Take another checkpoint of the run."
        )
    return False


@cache
def _warn_unverified(path: Path) -> None:
    """Once for each file."""
    warnings.warn(
        f"{path}: its content cannot be verified, since there is no "
        f"{path.resolve().name}{SUM_SUFFIX} beside it; copy both.",
        stacklevel=2,
    )


def first_not_finite(weights: Mapping[str, Any]) -> str | None:
    """The first weight with a NaN or an infinity in it."""
    floats = {
        name: value
        for name, value in weights.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    if not floats:
        return None
    # One transfer from the device for all of them.
    finite = torch.stack([value.isfinite().all() for value in floats.values()]).tolist()
    return next((name for name, good in zip(floats, finite, strict=True) if not good), None)


class _Hashed:
    """A file whose checksum is known once it is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    # The names too: after a power cut a file may else be there under its old one.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
