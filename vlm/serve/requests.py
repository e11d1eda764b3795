"""What every request must be: for a host that is ours, small enough, and quick enough."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope

from vlm.core.compat import keep_in_memory
from vlm.serve.reader import MAX_BYTES

MAX_BODY = 2 * MAX_BYTES
"""Bytes of a request; an image as base64 is a third larger than its file."""
MAX_BODIES = 10 * MAX_BODY
"""Bytes of all requests that are not answered yet, so that they cannot fill the memory."""
BODY_SECONDS = 120.0
MAX_PARTS = 10_000
"""Commas and brackets of a request's JSON."""
INLINE_BYTES = 50_000
"""Larger JSON is parsed in a thread, so that others need not wait."""
FETCH_SECONDS = 10.0

_ADDRESS = re.compile(r"(?:(https?)://)?([\w.-]+|\[[0-9a-f:]+\])(?::(\d{1,5}))?", re.ASCII)


class Hosts:
    """The host names that a server accepts: `host` and the loopback names with its port only, those
    in `allowed` with any.

    A page of another site is refused, even if its name points at this machine.
    """

    def __init__(self, host: str, port: int, allowed: tuple[str, ...] = ()) -> None:
        self.port = port
        self.names = {"localhost", "127.0.0.1", "::1", host.lower()}
        self.allowed = {name.lower() for name in allowed}

    def accept(self, address: str, arrived_at: str = "") -> bool:
        """Whether to accept `host[:port]` or `scheme://host[:port]`; `arrived_at` is our own IP."""
        parts = _ADDRESS.fullmatch(address.lower())
        if parts is None:
            return False
        scheme, name, port = parts[1], parts[2].strip("[]"), parts[3]
        ports = {"http": {80}, "https": {443}, None: {80, 443}}[scheme]
        ours = self.port in (ports if port is None else {int(port)})
        return name in self.allowed or (ours and (name in self.names or name == arrived_at))

    def check(self, scope: Scope) -> None:
        """Refuse a request for another host, or of a page of one.

        Raises:
            HTTPException: with the header and its value.
        """
        headers, arrived_at = Headers(scope=scope), (scope.get("server") or ("",))[0]
        for name in ("host", "x-forwarded-host", "origin"):
            given = headers.getlist(name)
            if name == "host" and len(given) != 1:
                raise HTTPException(400, "Host: expected exactly one.")
            for value in given:
                if not self.accept(value, arrived_at):
                    expected = "a host name that this server accepts (`--allow-host` adds one)"
                    sentence = f"{name.title()}: got {value[:80]!r}; expected {expected}."
                    raise HTTPException(403, sentence)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class Bodies:
    """Receive the bodies of requests, within limits for each and for all at once."""

    def __init__(self) -> None:
        self._held = 0

    @asynccontextmanager
    async def read(self, scope: Scope, receive: Receive) -> AsyncIterator[bytes]:
        """The whole body, which counts until the block ends.

        Raises:
            HTTPException: too large or too slow, or too many at once.
        """
        request = Request(scope, receive)
        too_large = HTTPException(413, f"The request is larger than {MAX_BODY // 10**6} MB.")
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 20 or int(length) > MAX_BODY:
            raise too_large
        body = bytearray()
        try:
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    async for chunk in request.stream():
                        body += chunk
                        self._held += len(chunk)
                        if len(body) > MAX_BODY:
                            raise too_large
                        if self._held > MAX_BODIES:
                            raise HTTPException(
                                503, "The server is busy; try again.", {"Retry-After": "1"}
                            )
            except (TimeoutError, ClientDisconnect):
                late = f"The request took longer than {BODY_SECONDS:g} s."
                raise HTTPException(408, late) from None
            yield bytes(body)
        finally:
            self._held -= len(body)


def replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` for an application that has yet to read a body that was received."""
    first = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay


async def read_form(request: Request, files: int = 1) -> FormData:
    """A form whose body was received, with at most so many files; nothing is written to disk.

    Raises:
        MultiPartException, KeyError: not a form, one of more files or fields, or in another
            charset than UTF-8.
    """
    _, options = parse_options_header(request.headers.get("content-type"))
    if (charset := options.get(b"charset", b"utf-8").lower()) not in (b"utf-8", b"utf8"):
        # Python takes minutes to decode some, such as punycode, while all other requests wait.
        raise MultiPartException(f"got the charset {charset!r:.40}; expected UTF-8")
    parser = MultiPartParser(
        request.headers,
        request.stream(),
        max_files=files,
        max_fields=64,
        max_part_size=MAX_BODY,  # a data: URL is a field
    )
    keep_in_memory(parser, MAX_BODY)
    return await parser.parse()


def parse_json(
    body: bytes, hook: Callable[[dict[str, Any]], dict[str, Any]] | None = None
) -> dict[str, Any]:
    """A request's JSON object; `hook` sees every object in it.

    Raises:
        HTTPException: it is none, or has too many parts.
    """
    # JSON of nothing but brackets takes 30 times its size in memory.
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_PARTS:
        raise HTTPException(413, f"The request has more than {MAX_PARTS:,} commas and brackets.")
    try:
        sent = json.loads(body, object_hook=hook)
    except (ValueError, RecursionError):
        sent = None
    if not isinstance(sent, dict):
        raise HTTPException(400, "The request is not a readable JSON object.")
    return sent


async def read_json(request: Request) -> dict[str, Any]:
    """`parse_json` of a request, in a thread if it is large, so that others need not wait."""
    body = await request.body()
    if len(body) > INLINE_BYTES:
        return await asyncio.to_thread(parse_json, body)
    return parse_json(body)


async def image_content(url: str, hosts: Collection[str] = ()) -> bytes:
    """The content of an image given as a data: URL, or at an address of one of the `hosts`.

    Raises:
        HTTPException: another address, or one that gives no image of at most `MAX_BYTES`.
    """
    if url.startswith("data:"):
        return from_data_url(url)
    import httpx

    try:
        # Read once, by the client itself: two readers could see two hosts in one address.
        address = httpx.URL(url)
        host = address.host
    except (httpx.InvalidURL, UnicodeError):  # such as a host that no encoding of names can give
        address, host = httpx.URL(), ""
    # Without encryption, only from this machine.
    schemes = ("http", "https") if is_loopback(host) else ("https",)
    if address.scheme not in schemes or host not in hosts:
        expected = "a data: URL (data:image/png;base64,...)"
        if hosts:
            expected += f", or an address at {', '.join(sorted(hosts))}"
        raise HTTPException(
            400, f"image: got {url[:80]!r}; expected {expected}. Other addresses are not fetched."
        )
    content = bytearray()
    try:
        async with (
            asyncio.timeout(FETCH_SECONDS),
            httpx.AsyncClient(follow_redirects=False, trust_env=False) as client,
            # What is packed could be far larger than what is received.
            client.stream("GET", address, headers={"Accept-Encoding": "identity"}) as answer,
        ):
            if answer.status_code != 200:
                raise HTTPException(400, f"image: {host} said {answer.status_code}.")
            async for chunk in answer.aiter_raw():
                content += chunk
                if len(content) > MAX_BYTES:
                    raise HTTPException(413, f"image: at most {MAX_BYTES // 10**6} MB are read.")
    except (httpx.HTTPError, TimeoutError) as error:
        reason = type(error).__name__
        raise HTTPException(400, f"image: {host} gave none ({reason}).") from None
    return bytes(content)


def from_data_url(url: str) -> bytes:
    """The content of a data: URL.

    Raises:
        HTTPException: it is not base64, is of another type than an image, or holds too much.
    """
    head, _, body = url.partition(",")
    kind = head.removeprefix("data:").partition(";")[0]
    # Clients that do not know the type leave it out, or call it a stream of octets.
    if kind and not kind.lower().startswith(("image/", "application/octet-stream")):
        raise HTTPException(400, f"image: got a data: URL of {kind:.40}; expected image/...")
    no_base64 = HTTPException(400, "image: the data: URL is not base64.")
    if not head.endswith(";base64"):
        raise no_base64
    try:
        content = base64.b64decode(body, validate=True)
    except ValueError:
        raise no_base64 from None
    if len(content) > MAX_BYTES:
        raise HTTPException(413, f"image: at most {MAX_BYTES // 10**6} MB are read.")
    return content
