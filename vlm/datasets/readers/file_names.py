"""Find files under the names that other systems accept."""

from __future__ import annotations

import os
from collections import defaultdict
from unicodedata import normalize


class FileNames:
    """Finds files whose names differ in case, Unicode form or slashes.

    macOS ignores case and Unicode form, Windows ignores case and accepts backslashes; Linux does
    neither. Each folder is listed once, when it is first needed; later changes are not seen.
    """

    def __init__(self) -> None:
        self._exact: dict[str, set[str]] = {}
        self._alike: dict[str, dict[str, list[str]]] = {}

    def find(self, path: str) -> str:
        """The path of the matching file, or `path` itself if there is none.

        Raises:
            ValueError: several files match; the message continues a sentence.
        """
        folder, name = os.path.split(path)
        if name in self._names(folder) or os.path.exists(path):
            return path
        folder = self._folder(path.replace("\\", "/"))
        there = self._there(folder, os.path.basename(path.replace("\\", "/")))
        if len(there) > 1:
            raise ValueError(
                f"got {path!r}, but {folder!r} holds {' and '.join(map(repr, there))}; expected "
                f"the exact name of one"
            )
        return os.path.join(folder, there[0]) if there else path

    def _folder(self, path: str) -> str:
        """The folder of a path, with its existing parts spelt as on disk."""
        folder = os.path.dirname(path)
        if not folder or os.path.isdir(folder) or os.path.dirname(folder) == folder:
            return folder
        above = self._folder(folder)
        there = self._there(above, os.path.basename(folder))
        return os.path.join(above, there[0] if len(there) == 1 else os.path.basename(folder))

    def _there(self, folder: str, name: str) -> list[str]:
        if name in self._names(folder):
            return [name]
        if folder not in self._alike:
            alike = defaultdict(list)
            for other in sorted(self._names(folder)):
                alike[_folded(other)].append(other)
            self._alike[folder] = alike
        return self._alike[folder].get(_folded(name), [])

    def _names(self, folder: str) -> set[str]:
        if folder not in self._exact:
            try:
                self._exact[folder] = set(os.listdir(folder or "."))
            except OSError:
                self._exact[folder] = set()
        return self._exact[folder]


def _folded(name: str) -> str:
    return normalize("NFC", name).casefold()
