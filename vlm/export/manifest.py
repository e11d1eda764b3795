"""What an export's folder holds, with the digest of each file and its own. Needs no torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

MANIFEST, TOKENIZER, TRANSFORM, ANSWERS = (
    "manifest.json",
    "tokenizer.json",
    "transform.json",
    "answers.json",
)
FORMAT = 1
"""Of the folder; a reader refuses any other."""
OWN = "sha256"
"""Where the manifest keeps the digest of all else in it."""


class ExportError(ValueError):
    """A model that cannot be exported, or an export that cannot be used, and why."""


def write_json(path: Path, value: Any) -> None:
    """Write plain data."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def write_manifest(folder: Path, about: dict[str, Any]) -> None:
    """Write `about` with the digests of every file that the folder has, and of itself."""
    names = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)
    files = {name: _sha256(folder / name) for name in names}
    about = {**about, "format": FORMAT, "files": files}
    write_json(folder / MANIFEST, about | {OWN: _own(about)})


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `write_manifest` wrote, with itself and every file checked.

    Raises:
        ExportError: no export, one of another format, or a file that is missing, is not listed or
            has changed.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise ExportError(
            f"{folder}: there is no {MANIFEST}; expected a folder that `vlm export` wrote."
        )
    try:
        about = json.loads(manifest.read_bytes())
        files, found = dict(about["files"]), about["format"]
        needed = {TOKENIZER, TRANSFORM, *(graph["file"] for graph in about["graphs"].values())}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ExportError(
            f"{manifest}: damaged ({error!r:.200}); export the model again."
        ) from error
    if found != FORMAT:
        raise ExportError(
            f"{manifest}: got format {found!r:.40}; expected {FORMAT}. Export the model again, or "
            f"read it with vlm {about.get('vlm')!s:.20}, which wrote it."
        )
    if about.get(OWN) != _own(about):
        raise ExportError(
            f"{manifest}: its SHA-256 is not the one that it states, so it was changed or damaged. "
            f"Copy or export the model again."
        )
    if unlisted := sorted(needed - set(files)):
        raise ExportError(
            f"{manifest}: lists no digest of {unlisted[0]!r:.80}, which the model needs. Export "
            f"the model again."
        )
    for name, digest in files.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise ExportError(f"{path}: there is no such file, but {MANIFEST} lists it.")
        if _sha256(path) != digest:
            raise ExportError(
                f"{path}: its SHA-256 is not the one in {MANIFEST}, so it was changed or damaged. "
                f"Copy or export the model again."
            )
    return dict(about)


def _own(about: dict[str, Any]) -> str:
    text = json.dumps({key: value for key, value in about.items() if key != OWN}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
