"""How much memory there is, so that what cannot fit is refused before the system kills for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vlm.datasets.errors import DataError

ROOT = Path("/")


def free_memory(root: Path = ROOT) -> int | None:
    """Bytes that this process can still take, of the machine and of the control group that it is in
    (a container's, a cluster job's); None where the system does not show it, as Linux does in
    /proc and /sys of `root`."""
    return min(_free(root), default=None)


def _free(root: Path) -> Iterator[int]:
    for name, size in _numbers(root / "proc/meminfo").items():
        if name == "MemAvailable":
            yield size * 1024
    for group in _groups(root):
        limit = _number(group / "memory.max")
        used = _number(group / "memory.current")
        if limit is not None and used is not None:
            # The cache of files counts as used, and goes when room is needed.
            yield limit - used + _numbers(group / "memory.stat").get("inactive_file", 0)


def _groups(root: Path) -> Iterator[Path]:
    """The folders of this process's control group (version 2) and of those around it."""
    top = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, path = line.split(":", 2)
        if number == "0":
            own = top / path.lstrip("/")
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(top))


def _numbers(path: Path) -> dict[str, int]:
    """Lines such as `MemFree:  1234 kB` by their names."""
    rows = [line.split() for line in _text(path).splitlines()]
    return {row[0].rstrip(":"): int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None  # "max" is no limit


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


@dataclass(frozen=True)
class LocalProcesses:
    """The `count` processes of this machine that keep images in memory, each for itself; `barrier`
    waits until all have come so far."""

    count: int = 1
    barrier: Callable[[], object] = lambda: None


ALONE = LocalProcesses()


def check_kept(count: int, each: float, split: str, processes: LocalProcesses) -> None:
    """Check that `count` images of `each` bytes can be kept in memory.

    No process returns before all have checked: what the first ones take would otherwise count
    twice.

    Raises:
        DataError: they need more than there is.
    """
    apart = f" in each of {processes.count} processes" if processes.count > 1 else ""
    _check(
        count * each * processes.count,
        f"data.images.in_memory: got true, and the {count:,} {split} images of "
        f"{_size(each)}{apart} need",
        "Leave it out to read images when they are needed, or lower the image encoder's "
        "image_size.",
    )
    processes.barrier()


def check_batch(count: int, each: float) -> None:
    """Check that a batch of `count` images of `each` bytes fits, whatever the model makes of it.

    Raises:
        DataError: they need more memory than there is.
    """
    _check(
        count * each,
        f"data.images_per_batch: got {count:,}; such a batch, at {_size(each)} an image, needs",
        "Lower it, or the image encoder's image_size.",
    )


def _check(needed: float, what: str, remedy: str) -> None:
    free = free_memory()
    if free is not None and needed > free:
        raise DataError(
            f"{what} {_size(needed)}, but only {_size(free)} of memory is free. {remedy}"
        )


def _size(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e3:,.1f} kB"
