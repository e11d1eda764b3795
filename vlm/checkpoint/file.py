"""A checkpoint's file: written whole or not at all, and checked when it is read."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from vlm.core.compat import pickled_names
from vlm.core.files import sha256, sync, whole_file

SUFFIX = ".ckpt"
SUM_SUFFIX = ".sha256"
"""Of the file beside a checkpoint with its checksum, as `sha256sum -c` reads it."""
KEY = "vlm"
"""The key of our data in a Lightning checkpoint."""
STEP = r"step-\d+\.ckpt"
"""The names of a run's checkpoints."""
SHARED = 8
"""Most names that may share a weight's memory."""
LARGEST_CONFIG = 256_000_000
"""Most bytes of all but the weights; the largest vocabularies take some tens of millions."""

DTYPES = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.uint8} | {
    torch.int8, torch.int16, torch.int32, torch.int64, torch.complex64, torch.complex128,
}  # fmt: skip
"""Types of numbers that weights may have."""
_NAMED = re.compile(
    r"collections\.(OrderedDict|Counter)|builtins\.set|torch\.(Size|device|\w+Storage)"
    r"|torch\.serialization\._get_layout|torch\._utils\._rebuild_(tensor_v2|parameter)"
    r"|torch\.(bfloat|complex|float|int|uint)\d+|torch\.bool"
)
"""The names that plain data and tensors need. torch's safe loader allows more, with which a few
bytes can claim any amount of memory, or make tensors without numbers of their own."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used or written; the message names the file and the reason.

    It is shortened and has no control characters, since a stranger may have written parts of it.
    """

    def __init__(self, message: str) -> None:
        shown = message if len(message) <= 2000 else f"{message[:1000]} ... {message[-900:]}"
        super().__init__(
            "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in shown)
        )


def write_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint, plain data and tensors with the weights under "state_dict", so that at
    every moment the old one or the new one is there, whole.

    Raises:
        CheckpointError: weights that are not finite, or a file that cannot be written.
    """
    if name := first_not_finite(content["state_dict"]):
        raise CheckpointError(f"{path}: not written, since {name} is not finite.")
    sum_file = path.with_name(path.name + SUM_SUFFIX)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(sum_file) as sums, whole_file(path) as file:
            hashed = _Hashed(file)
            try:
                torch.save(content, hashed)  # type: ignore[arg-type]  # it only writes
            except RuntimeError:
                # torch says no more than that its writer failed.
                raise hashed.error or OSError("torch.save failed") from None
            run = content.get(KEY, {}).get("about", {}).get("run")
            named = f"# {Path(run).name}\n" if run else ""
            sums.write(f"{named}{hashed.digest.hexdigest()}  {path.name}\n".encode())
            sync(file)
            sync(sums)
            # Never a new file with an old checksum: killed in between, it has none.
            sum_file.unlink(missing_ok=True)
        _flush_folder(path.parent)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror or error}). Older checkpoints are "
            "untouched; free disk space and continue from the last one."
        ) from error


def read_checkpoint_file(path: Path) -> dict[str, Any]:
    """Read a checkpoint's content onto the CPU. Runs no code from the file; warns once of one whose
    checksum is not beside it.

    Raises:
        CheckpointError: missing, damaged, or anything but a checkpoint; names another one of the
            same run with a matching checksum, if the folder has one.
    """
    try:
        return _read(path)
    except CheckpointError as error:
        if other := _another(path):
            raise CheckpointError(f"{error} {other} is intact.") from error
        raise


def newest_whole(folder: Path, broken: list[CheckpointError]) -> Path | None:
    """The newest checkpoint of a run's folder that can be read, or None; `broken` receives the
    errors of newer ones."""
    for path in _newest_first(folder):
        try:
            _read(path)
            return path
        except CheckpointError as error:
            broken.append(error)
    return None


def _newest_first(folder: Path) -> list[Path]:
    """A run's own checkpoints, without links."""
    named = (path for path in folder.glob(f"step-*{SUFFIX}") if re.fullmatch(STEP, path.name))
    return sorted(
        (path for path in named if path.is_file() and not path.is_symlink()),
        key=lambda path: path.stat().st_mtime,
        reverse=True,
    )


def _another(path: Path) -> Path | None:
    """Another checkpoint of the same run with a matching checksum. No other file of the folder is
    opened."""
    real = path.resolve()
    own = _Sum.of(real)
    if own is None:
        return None
    for other in _newest_first(real.parent):
        found = _Sum.of(other) if other != real else None
        if found and found.run == own.run and found.digest == sha256(other):
            return other
    return None


class _Sum(NamedTuple):
    """The content of a checksum file."""

    digest: str
    run: str | None

    @classmethod
    def read(cls, file: Path) -> _Sum | None:
        """None if the file is missing or not one of ours."""
        if not file.is_file() or file.stat().st_size > 4096:
            return None
        lines = file.read_text(errors="replace").splitlines()
        runs = [line.removeprefix("# ") for line in lines if line.startswith("#")]
        sums = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
        return cls(sums[0], runs[0] if runs else None) if sums else None

    @classmethod
    def of(cls, path: Path) -> _Sum | None:
        return cls.read(path.with_name(path.name + SUM_SUFFIX))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        found = "this is neither a file nor a folder" if path.exists() else "there is no such file"
        raise CheckpointError(
            f"{path}: {found}; expected a run's folder, its checkpoint or, where a shared model "
            f"will do, a folder that `vlm share` wrote."
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
        raise CheckpointError(f"{path}: this is {kind}; expected a checkpoint made by vlm.")
    verified = _verified(path)
    try:
        _check_archive(path, size)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error) if isinstance(error, ValueError) else type(error).__name__
        raise CheckpointError(
            f"{path}: damaged, or it holds more than weights and plain data, which is never "
            f"loaded ({reason:.300}, {size} bytes). Take another checkpoint of the run."
        ) from error
    weights = content.get("state_dict") if isinstance(content, dict) else None
    if isinstance(weights, dict):
        check_weights(weights, size, path)
    if not verified:
        _warn_unverified(path)
    return content


def _check_archive(path: Path, size: int) -> None:
    """Refuse an archive that unpacks to more than its bytes, or names more than `_NAMED`."""
    with zipfile.ZipFile(path) as archive:
        files = archive.infolist()
        names = {file.filename for file in files}
        if (
            len(names) < len(files)
            or any(file.compress_type != zipfile.ZIP_STORED for file in files)
            or sum(file.file_size for file in files) > size
        ):
            raise ValueError("its files are compressed, overlapping or duplicated")
        data = f"{files[0].filename.partition('/')[0]}/data.pkl" if files else ""
        if data not in names or archive.getinfo(data).file_size > LARGEST_CONFIG:
            raise ValueError(f"no data.pkl, or one of more than {LARGEST_CONFIG:,} bytes")
        for name in pickled_names()(BytesIO(archive.read(data))):
            if not _NAMED.fullmatch(name):
                raise ValueError(f"it names {name}")


def check_weights(weights: Mapping[Any, Any], size: int, path: Path) -> None:
    """Refuse what cannot be the weights, by name, of a model in a file of `size` bytes: no tensor,
    not of `DTYPES`, more bytes than the file has, or not finite."""
    held = 0
    for name, value in weights.items():
        if not isinstance(name, str) or type(value) not in (Tensor, torch.nn.Parameter):
            raise CheckpointError(
                f"{path}: {name!r:.200} is {type(value).__name__}; expected weights by name."
            )
        if value.dtype not in DTYPES:
            raise CheckpointError(
                f"{path}: {name} holds {value.dtype}; expected floats of 16 bits or more, "
                f"complex or whole numbers, or bool."
            )
        if value.nbytes > value.untyped_storage().nbytes():
            raise CheckpointError(
                f"{path}: {name} claims {value.nbytes:,} bytes; the file has "
                f"{value.untyped_storage().nbytes():,} for this tensor."
            )
        held += value.nbytes
    if held > SHARED * size:
        raise CheckpointError(
            f"{path}: {len(weights):,} tensors claim {held:,} bytes; the file has {size:,}."
        )
    if name := first_not_finite(weights):
        raise CheckpointError(f"{path}: {name} is not finite, so the model is broken.")


def _verified(path: Path) -> bool:
    """Whether the content has the checksum beside it; False if there is none, an error if it has
    another."""
    real = path.resolve()  # `last.ckpt` is a link
    own = real.with_name(real.name + SUM_SUFFIX)
    # Where a link has become a copy, its content is that of another file of the run.
    files = [own] if own.is_file() else [*real.parent.glob(f"step-*{SUFFIX}{SUM_SUFFIX}")]
    sums = {found.digest for file in files if (found := _Sum.read(file))}
    if sums and sha256(path) in sums:
        return True
    if own.is_file():
        raise CheckpointError(
            f"{path}: damaged: its checksum differs from the one in {own.name} "
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


def _flush_folder(folder: Path) -> None:
    # The names too: after a power cut a file may else be there under its old one.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
