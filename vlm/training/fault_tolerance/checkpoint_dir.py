"""A run's checkpoints on the disk: one file a step, and links to the best and the last one."""

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
    """Files `step-00000123.ckpt`, and `best.ckpt` and `last.ckpt`, which are links to them.

    A file is never changed once it has its name, and a link changes from one file to another in
    one moment. So a step is written once, even if it is the best and the last.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def file(self, step: int) -> Path:
        """Of the checkpoint after so many optimiser steps."""
        return self.path / f"step-{step:08d}{SUFFIX}"

    def link(self, name: str, step: int) -> None:
        """Let `name` stand for the checkpoint of a step, which is there."""
        target, link = self.file(step), self.path / name
        partial = link.with_name(link.name + PART)
        partial.unlink(missing_ok=True)
        try:
            partial.symlink_to(target.name)
        except OSError:  # a file system without links
            shutil.copyfile(target, partial)
        partial.replace(link)

    def tidy(self) -> None:
        """Remove checkpoints but the newest two, the best and the last; and unfinished files."""
        files = sorted(p for p in self.path.iterdir() if re.fullmatch(STEP, p.name))
        linked = {os.path.realpath(self.path / name) for name in (BEST, LAST)}
        for file in files[:-KEPT]:
            if os.path.realpath(file) not in linked:
                file.unlink()
                file.with_name(file.name + SUM_SUFFIX).unlink(missing_ok=True)
        for rest in self.path.glob(f"*{PART}"):
            rest.unlink()


class WholeFiles(CheckpointIO):
    """Write what Lightning saves atomically, with a checksum, and finite (`vlm.checkpoint.file`).

    Lightning's own way leads through `TMPDIR`, and leaves half a file where that is on another file
    system and the process is killed.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        # Always onto the CPU and always without code, whatever is asked for.
        return read_checkpoint_file(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        for file in (Path(path), Path(f"{path}{SUM_SUFFIX}")):
            file.unlink(missing_ok=True)
