"""How Lightning's checkpoints reach the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from vlm.checkpoint.file import SUM_SUFFIX, read_checkpoint_file, write_checkpoint


class WholeFiles(CheckpointIO):
    """Atomic, with a checksum, finite (`vlm.checkpoint.file`).

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
