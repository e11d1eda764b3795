"""Files by names that differ from theirs only in ways that nobody means."""

from __future__ import annotations

import os
from collections import defaultdict
from unicodedata import normalize


class FileNames:
    """Finds files whose names differ in case, Unicode form or slashes.

    macOS takes names of another case or form for the same file, Windows those of another case and
    with backslashes; Linux does none of that. Each folder is listed once, when it is first needed:
    what comes or goes later is not seen.
    """

    def __init__(self) -> None:
        self._exact: dict[str, set[str]] = {}
        self._alike: dict[str, dict[str, list[str]]] = {}

    def find(self, path: str) -> str:
        """The path of the file that is meant, or `path` itself if there is none.

        Raises:
            ValueError: several files are alike; as the rest of a sentence.
        """
        folder, name = os.path.split(path)
        if name in self._names(folder) or os.path.exists(path):
            return path
        folder = self._folder(path.replace("\\", "/"))
        there = self._there(folder, os.path.basename(path.replace("\\", "/")))
        if len(there) > 1:
            raise ValueError(
                f"got {path!r}, and {folder!r} holds {' and '.join(map(repr, there))}; expected "
                f"the very name of one"
            )
        return os.path.join(folder, there[0]) if there else path

    def _folder(self, path: str) -> str:
        """The folder of a path, with as many of its parts found as are there."""
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
