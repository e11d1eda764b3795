"""Fetch a file over HTTP: continued after an interruption, and whole or not there at all."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from vlm.core.files import PART, sha256, sync, write_whole
from vlm.core.version import __version__

TRIES = 5
"""How often a connection is made again without a byte in between."""
WAIT_SECONDS = 1.0
"""Before the second connection; then twice as long each time."""
TIMEOUT_SECONDS = 60.0
SPARE_BYTES = 64 << 20
"""Of the disk, for others."""
_CHUNK = 1 << 20
_GONE = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE, HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED)


class DownloadError(ValueError):
    """A file that cannot be had; the message says what was found and the remedy."""


class _Cut(Exception):
    """The connection ended early; what came is kept."""


class _Begun(NamedTuple):
    """What is known of the file that a part belongs to, to continue with that file only.

    Attributes:
        url: its address.
        tag: its strong ETag, or the time of its last change; None where the server names neither,
            and nothing can be continued.
        size: in bytes; None where the server names none.
    """

    url: str
    tag: str | None
    size: int | None


class _NoDowngrade(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        if req.type == "https" and not newurl.startswith("https:"):
            raise DownloadError(f"{req.full_url}: leads to {newurl}; expected an https address.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(
    url: str,
    target: Path,
    digest: str,
    size: int | None = None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> None:
    """Fetch a file, or go on where an earlier try ended.

    What has come is beside the target with the suffix `.part`, and what file it is a part of in
    `.part.json`; a server that has another file by now sends it from the beginning. The target gets
    its name only once its content has the digest.

    Args:
        url: address, http or https; redirects are followed, but not from https to http.
        target: file to write, in a folder that is made if need be.
        digest: SHA-256 of the content, in hexadecimal.
        size: of the content in bytes, where it is known.
        progress: called with the bytes that are there and the size, None where it is unknown.

    Raises:
        DownloadError: an address without this file, another file than expected, no space for it, or
            a connection that ends again and again.
        OSError: the file cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        if (found := sha256(target)) != digest:
            raise DownloadError(
                f"{target}: got a file with the SHA-256 {found}; expected {digest}, that of "
                f"{url}. Move this file away."
            )
        return
    part = target.with_name(target.name + PART)
    tries = 0
    while True:
        before = _length(part)
        try:
            _receive(url, part, size, progress)
            break
        except _Cut as cut:
            tries = 0 if _length(part) > before else tries + 1
            if tries >= TRIES:
                raise DownloadError(
                    f"{url}: {cut}; {_length(part):,} bytes are kept in {part}. Run the "
                    "command again to go on from there."
                ) from cut
            time.sleep(WAIT_SECONDS * 2**tries)
    if (found := sha256(part)) != digest:
        _drop(part)
        raise DownloadError(
            f"{url}: got a file with the SHA-256 {found}; expected {digest}. It has changed, "
            "or was damaged on the way, and is not kept: run the command again, and if it "
            "stays so, get the set by hand."
        )
    os.replace(part, target)
    _note(part).unlink(missing_ok=True)


def check_space(folder: Path, needed: int, what: str) -> None:
    """Check that the disk of a folder has room.

    Raises:
        DownloadError: it has not.
    """
    free = shutil.disk_usage(folder).free
    if needed + SPARE_BYTES > free:
        raise DownloadError(
            f"{folder}: {what} needs {needed:,} bytes and the disk has {free:,}; expected "
            f"{SPARE_BYTES:,} more than needed. Free space, or name a folder on another disk."
        )


def _receive(
    url: str, part: Path, size: int | None, progress: Callable[[int, int | None], None]
) -> None:
    """Bring a part to its end.

    Raises:
        _Cut: the connection ended before.
    """
    begun, have = _read_note(part), _length(part)
    if begun is None or begun.url != url or begun.tag is None:
        have = 0
    headers = {"User-Agent": f"vlm/{__version__}", "Accept-Encoding": "identity"}
    if have and begun is not None and begun.tag is not None:
        if have == begun.size:  # whole already, but its digest was not looked at
            return
        headers |= {"Range": f"bytes={have}-", "If-Range": begun.tag}
    try:
        with build_opener(_NoDowngrade).open(
            Request(url, headers=headers), timeout=TIMEOUT_SECONDS
        ) as response:
            total = _total(response)
            if response.status != HTTPStatus.PARTIAL_CONTENT:
                have = 0
            elif have != _start(response) or (begun and total != begun.size):
                _drop(part)
                raise _Cut("the server continued another file")
            if None not in (size, total) and size != total:
                raise DownloadError(
                    f"{url}: the server has {total:,} bytes; expected {size:,}. The file has "
                    "changed: get the set by hand."
                )
            check_space(part.parent, (total or size or have) - have, url)
            write_whole(_note(part), json.dumps(_Begun(url, _tag(response), total)).encode())
            with part.open("ab" if have else "wb") as file:
                _copy(response, file, have, total, progress)
    except HTTPError as error:
        error.close()  # it is the answer too, and holds the connection
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            _drop(part)
        if error.code in _GONE:
            raise DownloadError(
                f"{url}: the server answers {error.code} ({error.reason}). The file was moved or "
                "removed: get the set by hand."
            ) from error
        raise _Cut(f"the server answers {error.code} ({error.reason})") from error
    except (ConnectionError, TimeoutError, http.client.HTTPException) as error:
        raise _Cut(f"the connection ended ({type(error).__name__})") from error
    except OSError as error:  # URLError too: no such host, no network
        if getattr(error, "reason", None) is None:
            raise  # of the disk
        raise _Cut(f"there is no connection ({error.reason})") from error  # type: ignore[attr-defined]  # a URLError


def _copy(
    response: Any,
    file: BinaryIO,
    have: int,
    total: int | None,
    progress: Callable[[int, int | None], None],
) -> None:
    while chunk := response.read(_CHUNK):
        file.write(chunk)
        have += len(chunk)
        progress(have, total)
    sync(file)
    # Where a length was announced, `read` ends early without an error.
    if total is not None and have < total:
        raise _Cut(f"the connection ended at {have:,} of {total:,} bytes")


def _total(response: Any) -> int | None:
    """The size of the whole file, as far as the server names it."""
    if response.status == HTTPStatus.PARTIAL_CONTENT:
        found = re.fullmatch(r"bytes \d+-\d+/(\d+)", response.headers.get("Content-Range", ""))
        return int(found[1]) if found else None
    length = response.headers.get("Content-Length")
    return None if length is None else int(length)


def _start(response: Any) -> int | None:
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _tag(response: Any) -> str | None:
    tag: str | None = response.headers.get("ETag")
    # A weak one may stay the same while bytes change.
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _length(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_note(part: Path) -> _Begun | None:
    try:
        return _Begun(*json.loads(_note(part).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _drop(part: Path) -> None:
    for path in (part, _note(part)):
        path.unlink(missing_ok=True)
