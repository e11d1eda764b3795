"""Check the sender, the route and the content of every request before Gradio gets it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlm.demo.arguments import check_arguments
from vlm.demo.photo import MAX_BYTES
from vlm.demo.uploads import Uploads

MAX_BODY = 2 * MAX_BYTES
"""Bytes of a request; an image as base64 is a third larger than its file."""
MAX_BODIES = 10 * MAX_BODY
"""Bytes of all requests that are being received, so that slow ones do not fill the memory."""
MAX_TEXT = 50_000
MAX_PARTS = 10_000
"""Bytes of a question without its image, which Gradio keeps for each session, and its commas and
brackets, since JSON of nothing but brackets takes 30 times its size in memory."""
BODY_SECONDS = 120

COOKIE = "vlm_visitor"
_VISITOR = re.compile(rf"(?:^|;) ?{COOKIE}=([0-9a-f]{{32}}) ?(?=;|$)")
"""Python's own parser takes half a minute for 64 KB of backslashes."""
_ADDRESS = re.compile(r"(?:(https?)://)?([\w.-]+|\[[0-9a-f:]+\])(?::(\d{1,5}))?", re.ASCII)
NOT_YOURS = (
    "image: expected an image that you uploaded, or a data: URL; addresses and paths are not "
    "read. Send the image again."
)

# Gradio has many more: some read files, some forward requests, one restarts the queue.
NOTHING = re.compile(r"(?!)")
ROUTES = {
    "HEAD": re.compile("/"),
    "GET": re.compile(
        r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)"
        r"|/(assets|static)(/[\w-][\w.-]{0,99}){1,9}"
        r"|/gradio_api/(info|openapi\.json|queue/data|upload_progress|file=\w+|heartbeat/\w+"
        r"|call/(v2/)?ask/\w+)",
        re.ASCII,
    ),
    "POST": re.compile(r"/gradio_api/(upload|queue/join|call/(v2/)?ask|cancel|reset)"),
}
UPLOAD = "/gradio_api/upload"
HEARTBEAT = "/gradio_api/heartbeat/"
LENGTHS = (b"content-length", b"transfer-encoding")
UNHEARD = (b"x-gradio-server", b"cookie")
"""Gradio would take its own address from the first, and parse the second."""


class Refused(Exception):
    """A refused request; the message is for its sender."""

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.headers = status, headers


class Hosts:
    """The host names that the demo accepts.

    This refuses a page of another site whose name points at this machine.

    Args:
        host: that the demo listens on.
        port: that it listens on; `host` and the loopback names are accepted with this port only.
        allowed: more names, with any port.
    """

    def __init__(self, host: str, port: int, allowed: tuple[str, ...] = ()) -> None:
        self.port = port
        self.names = {"localhost", "127.0.0.1", "::1", host.lower()}
        self.allowed = {name.lower() for name in allowed}

    def know(self, address: str, arrived_at: str = "") -> bool:
        """Whether to accept `host[:port]` or `scheme://host[:port]`; `arrived_at` is our own IP."""
        parts = _ADDRESS.fullmatch(address.lower())
        if parts is None:
            return False
        scheme, name, port = parts[1], parts[2].strip("[]"), parts[3]
        ports = {"http": {80}, "https": {443}, None: {80, 443}}[scheme]
        ours = self.port in (ports if port is None else {int(port)})
        return name in self.allowed or (ours and (name in self.names or name == arrived_at))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class Gate:
    """The middleware around Gradio's application.

    No request can name a file, address or session of Gradio's: a file must be one of the visitor's
    `Uploads`, the mark of Gradio's own files is removed, and session names are bound to the
    visitor.

    Args:
        app: the application behind it.
        hosts: that it accepts.
        uploads: of all visitors.
        auth: "USER:PASSWORD" that every request must give; None for none.
    """

    def __init__(self, app: ASGIApp, hosts: Hosts, uploads: Uploads, auth: str | None) -> None:
        self.app, self.hosts, self.uploads, self.auth = app, hosts, uploads, auth
        self._receiving = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        known = _cookie(Headers(scope=scope))
        visitor = known or secrets.token_hex(16)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["X-Frame-Options"] = "DENY"
                if not known:
                    cookie = f"{COOKIE}={visitor}; Path=/; HttpOnly; SameSite=Lax"
                    headers.append("Set-Cookie", cookie)
            await send(message)

        try:
            inner, receive = await self._admit(scope, receive, visitor, known)
        except Refused as refused:
            response = JSONResponse({"detail": str(refused)}, refused.status, refused.headers)
            await response(scope, receive, answer)
            return
        await self.app(inner, receive, answer)

    async def _admit(
        self, scope: Scope, receive: Receive, visitor: str, known: str
    ) -> tuple[Scope, Receive]:
        """The checked request for the application.

        Raises:
            Refused: a request that may not pass.
        """
        headers, path, method = Headers(scope=scope), scope["path"], scope["method"]
        self._check_sender(scope, headers)
        if not ROUTES.get(method, NOTHING).fullmatch(path):
            raise Refused(404, "There is nothing here.")

        def own(session: str) -> str:
            return hashlib.sha256(f"{known}/{session}".encode()).hexdigest()

        query = parse_qsl(scope["query_string"].decode("latin-1"))
        query = [(k, own(v) if k == "session_hash" else v) for k, v in query if k != "deep_link"]
        if path.startswith(HEARTBEAT):
            path = HEARTBEAT + own(path.removeprefix(HEARTBEAT))
        kept = [(name, value) for name, value in scope["headers"] if name not in UNHEARD]
        if method == "POST":
            body = await self._body(receive, headers)
            if path != UPLOAD:
                body = await asyncio.to_thread(self._json, path, body, visitor, own)
                kept = [(name, value) for name, value in kept if name != b"content-type"]
                kept.append((b"content-type", b"application/json"))
            kept = [(name, value) for name, value in kept if name not in LENGTHS]
            kept.append((b"content-length", str(len(body)).encode()))
            receive = _replayed(body, receive)
        changed = {
            "headers": kept,
            "path": path,
            "raw_path": path.encode(),
            "query_string": urlencode(query).encode(),
            "visitor": visitor,
        }
        return {**scope, **changed}, receive

    def _check_sender(self, scope: Scope, headers: Headers) -> None:
        arrived_at = (scope.get("server") or ("",))[0]
        for name in ("host", "x-forwarded-host", "origin"):
            given = headers.getlist(name)
            if name == "host" and len(given) != 1:
                raise Refused(400, "Host: expected exactly one.")
            for value in given:
                if not self.hosts.know(value, arrived_at):
                    raise Refused(
                        403,
                        f"{name.title()}: got {value[:80]!r}; expected a host name that this demo "
                        f"accepts (`--allow-host` adds one).",
                    )
        if self.auth is not None and not _same(headers.get("authorization", ""), self.auth):
            challenge = {"WWW-Authenticate": 'Basic realm="vlm demo", charset="UTF-8"'}
            raise Refused(401, "This demo requires a user and a password.", challenge)

    async def _body(self, receive: Receive, headers: Headers) -> bytes:
        too_large = Refused(413, f"The request is larger than {MAX_BODY // 10**6} MB.")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 20 or int(length) > MAX_BODY:
            raise too_large
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                more = True
                while more:
                    message = await receive()
                    chunk = message.get("body", b"")
                    chunks.append(chunk)
                    size += len(chunk)
                    self._receiving += len(chunk)
                    if size > MAX_BODY:
                        raise too_large
                    if self._receiving > MAX_BODIES:
                        raise Refused(503, "The demo is busy; try again.")
                    more = message.get("more_body", False)
        except TimeoutError:
            raise Refused(408, f"The request took longer than {BODY_SECONDS} s.") from None
        finally:
            self._receiving -= size
        return b"".join(chunks)

    def _json(self, path: str, body: bytes, visitor: str, own: Callable[[str], str]) -> bytes:
        """The request written as JSON again, so that Gradio reads only what was checked."""
        too_long = Refused(413, f"A question has at most {MAX_TEXT // 1000} KB without its image.")
        if sum(map(body.count, (b",", b"[", b"{"))) > MAX_PARTS:
            raise too_long
        try:
            sent = json.loads(body)
            if not isinstance(sent, dict):
                raise ValueError
            sent = self._without_files(sent, visitor)
            if isinstance(sent.get("session_hash"), str):
                sent["session_hash"] = own(sent["session_hash"])
            text = json.dumps(sent, allow_nan=False).encode()
        except (ValueError, RecursionError):
            raise Refused(400, "The request is not a readable JSON object.") from None
        if len(text) > MAX_TEXT:
            raise too_long
        try:
            check_arguments(path, sent)
        except ValueError as error:
            raise Refused(400, str(error)) from None
        return text

    def _without_files(self, sent: Any, visitor: str) -> Any:
        if isinstance(sent, list):
            return [self._without_files(value, visitor) for value in sent]
        if not isinstance(sent, dict):
            return sent
        rest = {
            key: self._without_files(value, visitor)
            for key, value in sent.items()
            if key not in ("path", "url", "meta")
        }
        path, url = sent.get("path"), sent.get("url")
        if isinstance(url, str) and url.startswith("data:"):
            rest["path"] = self.uploads.add(_from_data_url(url), visitor)
        elif path is not None or url is not None:
            if self.uploads.get(path, visitor) is None:
                raise Refused(403, NOT_YOURS)
            rest["path"] = path
        return rest


def _from_data_url(url: str) -> bytes:
    try:
        content = base64.b64decode(url.partition(",")[2], validate=True)
    except ValueError:
        raise Refused(400, "image: the data: URL is not base64.") from None
    if len(content) > MAX_BYTES:
        raise Refused(413, f"image: at most {MAX_BYTES // 10**6} MB are read.")
    return content


def _cookie(headers: Headers) -> str:
    found = _VISITOR.search(headers.get("cookie", ""))
    return "" if found is None else found[1]


def _same(header: str, auth: str) -> bool:
    kind, _, code = header.partition(" ")
    try:
        given = base64.b64decode(code, validate=True)
    except ValueError:
        return False
    return kind.lower() == "basic" and hmac.compare_digest(given, auth.encode())


def _replayed(body: bytes, receive: Receive) -> Receive:
    first = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay
