"""Check the sender, the route and the content of every request before Gradio gets it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
import secrets
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlm.demo.api import check_arguments
from vlm.demo.space import SITE
from vlm.demo.uploads import Uploads
from vlm.serve.requests import Bodies, Hosts, from_data_url, parse_json, replayed

MAX_TEXT = 50_000
"""Bytes of a question without its image, which Gradio keeps for each session."""

COOKIE = "vlm_visitor"
_VISITOR = re.compile(rf"(?:^|;) ?{COOKIE}=([0-9a-f]{{32}}) ?(?=;|$)")
"""Python's own parser takes half a minute for 64 KB of backslashes."""
NOT_YOURS = (
    "image: expected an image that you uploaded, or a data: URL; addresses and paths are not "
    "read. Send the image again."
)

# Gradio has many more: some read files, some forward requests, one restarts the queue.
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
DROPPED = {b"x-gradio-server", b"cookie"}
"""Gradio would take its own address from the first, and parse the second."""
DROPPED |= {b"content-type", b"content-length", b"transfer-encoding"}
"""These describe the body, which is checked and written again."""


class Gate:
    """The middleware around Gradio's application.

    No request can name a file, address or session of Gradio's: a file must be one of the visitor's
    `Uploads`, the mark of Gradio's own files is removed, and session names are bound to the
    visitor. `auth` is the "USER:PASSWORD" that every request must give; None for none. If `framed`,
    pages of Hugging Face may show this one in a frame.
    """

    def __init__(
        self, app: ASGIApp, hosts: Hosts, uploads: Uploads, auth: str | None, framed: bool = False
    ) -> None:
        self.app, self.hosts, self.uploads = app, hosts, uploads
        self.framed = framed
        self.code = base64.b64encode((auth or "").encode())
        self._bodies = Bodies()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        cookie = _VISITOR.search(Headers(scope=scope).get("cookie", ""))
        known = "" if cookie is None else cookie[1]
        visitor = known or secrets.token_hex(16)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                if self.framed:
                    headers["Content-Security-Policy"] = f"frame-ancestors 'self' {SITE}"
                else:
                    headers["X-Frame-Options"] = "DENY"
                if not known:
                    # From inside another site's page, browsers send only a Secure cookie; over
                    # plain HTTP, they refuse to store one.
                    secure = "https" in (
                        scope.get("scheme"),
                        Headers(scope=scope).get("x-forwarded-proto"),
                    )
                    where = "None; Secure; Partitioned" if self.framed and secure else "Lax"
                    value = f"{COOKIE}={visitor}; Path=/; HttpOnly; SameSite={where}"
                    headers.append("Set-Cookie", value)
            await send(message)

        try:
            inner, receive = await self._admit(scope, receive, visitor, known)
        except HTTPException as refused:
            content = {"detail": refused.detail}
            response = JSONResponse(content, refused.status_code, refused.headers)
            await response(scope, receive, answer)
            return
        await self.app(inner, receive, answer)

    async def _admit(
        self, scope: Scope, receive: Receive, visitor: str, known: str
    ) -> tuple[Scope, Receive]:
        """The checked request for the application.

        Raises:
            HTTPException: a request that may not pass.
        """
        headers, path, method = Headers(scope=scope), scope["path"], scope["method"]
        self._check_sender(scope, headers)
        if method not in ROUTES or not ROUTES[method].fullmatch(path):
            raise HTTPException(404, "There is nothing here.")
        of_body: dict[str, str] = {}
        if method == "POST":
            content_type = headers.get("content-type", "")
            async with self._bodies.read(scope, receive) as body:
                if path != UPLOAD:
                    body = await asyncio.to_thread(self._json, path, body, visitor, known)
                    content_type = "application/json"
            of_body = {"content-type": content_type, "content-length": str(len(body))}
            receive = replayed(body, receive)
        if path.startswith(HEARTBEAT):
            path = HEARTBEAT + _bound(path.removeprefix(HEARTBEAT), known)
        query = [
            (name, _bound(value, known) if name == "session_hash" else value)
            for name, value in parse_qsl(scope["query_string"].decode("latin-1"))
            if name != "deep_link"
        ]
        kept = [(name, value) for name, value in scope["headers"] if name not in DROPPED]
        changed = {
            "headers": [*kept, *Headers(of_body).raw],
            "path": path,
            "raw_path": path.encode(),
            "query_string": urlencode(query).encode(),
            "visitor": visitor,
        }
        return {**scope, **changed}, receive

    def _check_sender(self, scope: Scope, headers: Headers) -> None:
        self.hosts.check(scope)
        kind, _, code = headers.get("authorization", "").partition(" ")
        known = kind.lower() == "basic" and hmac.compare_digest(code.strip().encode(), self.code)
        if self.code and not known:
            challenge = {"WWW-Authenticate": 'Basic realm="vlm demo", charset="UTF-8"'}
            raise HTTPException(401, "This demo requires a user and a password.", challenge)

    def _json(self, path: str, body: bytes, visitor: str, known: str) -> bytes:
        """The request written as JSON again, so that Gradio reads only what was checked."""

        def checked(value: dict[str, Any]) -> dict[str, Any]:
            return self._without_files(value, visitor)

        sent = parse_json(body, checked)
        if isinstance(sent.get("session_hash"), str):
            sent["session_hash"] = _bound(sent["session_hash"], known)
        if isinstance(sent.get("event_data"), dict):  # what was chosen, and not its value too
            sent["event_data"] = {"index": sent["event_data"].get("index")}
        try:
            text = json.dumps(sent, allow_nan=False).encode()
        except (ValueError, RecursionError):
            raise HTTPException(400, "The request is not a readable JSON object.") from None
        if len(text) > MAX_TEXT:
            raise HTTPException(
                413, f"A question has at most {MAX_TEXT // 1000} KB without its image."
            )
        check_arguments(path, sent)
        return text

    def _without_files(self, value: dict[str, Any], visitor: str) -> dict[str, Any]:
        """The object with no file but an upload of the visitor, and without Gradio's mark."""
        path, url = value.pop("path", None), value.pop("url", None)
        value.pop("meta", None)
        if isinstance(url, str) and url.startswith("data:"):
            value["path"] = self.uploads.add(from_data_url(url), visitor)
        elif path is not None or url is not None:
            if self.uploads.get(path, visitor) is None:
                raise HTTPException(403, NOT_YOURS)
            value["path"] = path
        return value


def _bound(session: str, visitor: str) -> str:
    """A session's name that no other visitor can give."""
    return hashlib.sha256(f"{visitor}/{session}".encode()).hexdigest()
