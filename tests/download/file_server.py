"""A server of files that can be cut, moved, changed, and be without ranges."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class FileServer:
    """What the server has, and how it behaves.

    Attributes:
        files: content by path.
        moved: path -> where it redirects to.
        cut: the connection ends after so many bytes of an answer; None: after all.
        failures: answers of 503 that come first.
        ranges: whether it answers a range with one.
        tags: whether it names ETags.
        lengths: whether it names lengths.
        asked: path and Range of each request.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.moved: dict[str, str] = {}
        self.cut: int | None = None
        self.failures = 0
        self.ranges = self.tags = self.lengths = True
        self.asked: list[tuple[str, str | None]] = []
        self.address = ""


class _Handler(BaseHTTPRequestHandler):
    server_files: FileServer

    def do_GET(self) -> None:
        has, wanted = self.server_files, self.headers.get("Range")
        has.asked.append((self.path, wanted))
        if has.failures:
            has.failures -= 1
            self.send_error(503)
        elif self.path in has.moved:
            self.send_response(302)
            self.send_header("Location", has.moved[self.path])
            self.end_headers()
        elif self.path not in has.files:
            self.send_error(404)
        else:
            self._send(has, has.files[self.path], wanted)

    def _send(self, has: FileServer, content: bytes, wanted: str | None) -> None:
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        start = 0
        if wanted and has.ranges and self.headers.get("If-Range") in (None, tag):
            start = int(re.match(r"bytes=(\d+)-", wanted)[1])  # type: ignore[index]
        if start >= len(content) > 0 and start:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if has.tags:
            self.send_header("ETag", tag)
        if has.lengths:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        rest = content[start:]
        self.wfile.write(rest if has.cut is None else rest[: has.cut])

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[FileServer]:
    files = FileServer()
    handler = type("Handler", (_Handler,), {"server_files": files})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    files.address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
