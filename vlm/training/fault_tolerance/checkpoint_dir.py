"""A run's checkpoints on disk: one file per saved step, and links to the best and the last."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from vlm.checkpoint.file import STEP, SUFFIX, SUM_SUFFIX, read_checkpoint_file, write_checkpoint
from vlm.core.files import PART

BEST, LAST = f"best{SUFFIX}", f"last{SUFFIX}"
KEPT = 2
"""Newest files that stay: if the last one is broken, there is another."""


class CheckpointFolder:
    """Files `step-00000123.ckpt`, with links `best.ckpt` and `last.ckpt` to them.

    A file never changes once it has its name, and links are replaced atomically. A step is
    written only once, even if it is both the best and the last.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def file(self, step: int) -> Path:
        """The file of the checkpoint after this many optimiser steps."""
        return self.path / f"step-{step:08d}{SUFFIX}"

    def link(self, name: str, step: int) -> None:
        """Point `name` at the existing checkpoint of a step."""
        target, link = self.file(step), self.path / name
        partial = link.with_name(link.name + PART)
        partial.unlink(missing_ok=True)
        try:
            partial.symlink_to(target.name)
        except OSError:  # the file system has no links
            shutil.copyfile(target, partial)
        partial.replace(link)

    def tidy(self) -> None:
        """Remove unfinished files and all checkpoints but the newest two, the best and the last."""
        files = sorted(p for p in self.path.iterdir() if re.fullmatch(STEP, p.name))
        linked = {os.path.realpath(self.path / name) for name in (BEST, LAST)}
        for file in files[:-KEPT]:
            if os.path.realpath(file) not in linked:
                file.unlink()
                file.with_name(file.name + SUM_SUFFIX).unlink(missing_ok=True)
        for rest in self.path.glob(f"*{PART}"):
            rest.unlink()


class WholeFiles(CheckpointIO):
    """Write Lightning's checkpoints atomically, checked for finite values and with a checksum.

    See `vlm.checkpoint.file`. Lightning itself writes by way of `TMPDIR`. If that is on another
    file system and the process is killed, it leaves half a file.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        # Always load onto the CPU and without running code, whatever the arguments.
        return read_checkpoint_file(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        for file in (Path(path), Path(f"{path}{SUM_SUFFIX}")):
            file.unlink(missing_ok=True)
