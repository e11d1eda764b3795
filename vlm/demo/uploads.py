"""Visitors' uploads in memory: their names are not paths, so no request can name a file."""

from __future__ import annotations

import hmac
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from time import monotonic

from vlm.serve.reader import MAX_BYTES, digest_of

KEPT_SECONDS = 3600
VISITOR_UPLOADS = 32
AT_ONCE = VISITOR_UPLOADS - 1
"""Files of one upload, so that the table that they belong to stays."""
VISITOR_BYTES = 10 * MAX_BYTES
ALL_BYTES = 40 * MAX_BYTES
"""Limits: the least recently used go first. The images of all waiting questions fit in."""
LEAST_BYTES = MAX_BYTES // 100
"""Least bytes that an image counts for, which limits the number of small ones."""


@dataclass
class _Upload:
    content: bytes
    visitor: str
    used: float

    @property
    def size(self) -> int:
        return max(len(self.content), LEAST_BYTES)


class Uploads:
    """Image files under names that cannot be guessed and work for one visitor only.

    Nothing is written to disk, so nothing remains however the process ends.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._shown: dict[str, bytes] = {}
        self._kept: OrderedDict[str, _Upload] = OrderedDict()
        self._lock = Lock()

    def show(self, content: bytes) -> str:
        """Keep an image of the demo's own for all visitors, for good; its name."""
        name = self._name(content, "")
        self._shown[name] = content
        return name

    def add(self, content: bytes, visitor: str) -> str:
        """Keep an image for one visitor; its name, which is the same for the same image."""
        name = self._name(content, visitor)
        with self._lock:
            self._kept[name] = _Upload(content, visitor, monotonic())
            self._kept.move_to_end(name)
            self._forget(visitor)
        return name

    def get(self, name: object, visitor: str) -> bytes | None:
        """The image, if this visitor may name it; None otherwise, whatever the reason."""
        if not isinstance(name, str):
            return None
        with self._lock:
            self._forget(visitor)
            upload = self._kept.get(name)
            if upload is None or upload.visitor != visitor:
                return self._shown.get(name)
            upload.used = monotonic()
            self._kept.move_to_end(name)
            return upload.content

    def read(self, name: str) -> bytes | None:
        """The image under a name that `get` accepted; None if it was forgotten since."""
        with self._lock:
            upload = self._kept.get(name)
            return self._shown.get(name) if upload is None else upload.content

    def _name(self, content: bytes, visitor: str) -> str:
        return hmac.digest(self._key, f"{visitor}/{digest_of(content)}".encode(), "sha256").hex()

    def _forget(self, visitor: str) -> None:
        """Remove what is old or over a limit, the least recently used first."""
        old = monotonic() - KEPT_SECONDS
        count = size = total = 0
        for name, upload in reversed([*self._kept.items()]):
            if upload.visitor == visitor:
                count, size = count + 1, size + upload.size
            over = upload.visitor == visitor and (count > VISITOR_UPLOADS or size > VISITOR_BYTES)
            total += 0 if over else upload.size
            if over or total > ALL_BYTES or upload.used < old:
                del self._kept[name]
