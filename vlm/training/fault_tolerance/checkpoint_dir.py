"""A run's checkpoints: one file a step, and links to the best and the last of them."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from vlm.checkpoint.file import STEP, SUFFIX, SUM_SUFFIX
from vlm.core.files import PART

BEST, LAST = f"best{SUFFIX}", f"last{SUFFIX}"
KEPT = 2
"""Newest files that stay: if the last one is broken, there is another."""


class CheckpointFolder:
    """Files `step-00000123.ckpt`, and `best.ckpt` and `last.ckpt`, which are links to them.

    A file is never changed once it has its name, and a link changes from one file to another in
    one moment. So a step is written once, even if it is the best and the last.

    Args:
        path: of the folder.
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
