"""Serving the page: on loopback, offline, with limits."""

from __future__ import annotations

import asyncio
import socket
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from gradio import processing_utils
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlm.demo.page import ASSETS
from vlm.demo.photo import MAX_BYTES

MAX_BODY = 2 * MAX_BYTES
"""Bytes of a request: a picture as base64 is a third larger than its file."""


FIRST_PORT, PORTS = 7860, 100


def serve(page: gr.Blocks, host: str, port: int | None, inbrowser: bool) -> None:
    """Serve a page that `build_page` made until the process is interrupted.

    Args:
        page: what to serve.
        host: address to listen on.
        port: None for the first free one from 7860.
        inbrowser: open it in the machine's browser.

    Raises:
        OSError: the port is taken.
    """
    # uvicorn ends well at an interruption and then passes it on; asyncio, before uvicorn is up,
    # makes it a cancellation.
    ended = suppress(KeyboardInterrupt, asyncio.CancelledError)
    with ended, listen(host, port) as connection:
        address = "http://{}:{}".format(*connection.getsockname()[:2])

        def ready() -> None:
            print(f"The demo is at {address} (Ctrl+C ends it).", flush=True)
            if inbrowser:
                webbrowser.open(address)

        config = uvicorn.Config(application(page), log_level="warning")
        Server(config, ready).run(sockets=[connection])


class Server(uvicorn.Server):
    """Says that it is there when it is: an interruption before could be lost.

    Gradio's own server gives up where the machine is too busy to answer it at once.

    Args:
        config: of the application.
        ready: called then.
    """

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


def application(page: gr.Blocks) -> FastAPI:
    """The page as a web application with our limits."""
    never_fetch()
    app = FastAPI(
        docs_url=None, redoc_url=None, openapi_url=None, middleware=[Middleware(BodyLimit)]
    )
    system = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    # Fonts of the system: the themes' own come from another server.
    theme = gr.themes.Soft(
        primary_hue="teal", neutral_hue="slate", font=system, font_mono=["monospace"]
    ).set(
        # The theme's own are too pale to read.
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        block_label_text_color="*primary_800",
        block_title_text_color="*primary_800",
        color_accent="*primary_600",
    )
    return gr.mount_gradio_app(
        app,
        page,
        path="",
        show_error=False,
        max_file_size=MAX_BYTES,
        footer_links=["api", "settings"],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=theme,
        css=(ASSETS / "page.css").read_text(encoding="utf-8"),
    )


def listen(host: str, port: int | None) -> socket.socket:
    """An open connection that waits for visitors.

    Raises:
        OSError: the port is taken, or there is no such address.
    """
    wanted = range(FIRST_PORT, FIRST_PORT + PORTS) if port is None else (port,)
    error = OSError("no port")
    for number in wanted:
        try:
            return socket.create_server((host, number))
        except OSError as caught:
            error = caught
    raise OSError(
        f"port: {host}:{wanted[0]} cannot be listened on ({error.strerror}); choose another --port."
    )


def never_fetch() -> None:
    """Gradio downloads a picture whose address is sent in the place of a file; here it refuses."""

    async def refuse(url: str, cache_dir: str) -> str:
        raise gr.Error(
            "image: got an address, and this server fetches none; send the picture itself.",
            print_exception=False,
        )

    processing_utils.async_ssrf_protected_download = refuse


class BodyLimit:
    """Ends requests that are larger than any picture can make them, before they fill memory."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > MAX_BODY:
            await _too_large(send)
            return
        received, refused, begun = 0, False, False

        async def counted() -> Message:
            nonlocal received, refused
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY:
                refused = True
                return {"type": "http.disconnect"}
            return message

        async def unless_refused(message: Any) -> None:
            nonlocal begun
            if not refused:
                begun = True
                await send(message)

        try:
            await self.app(scope, counted, unless_refused)
        except Exception:  # who reads the body itself is told that the visitor has gone
            if not refused:
                raise
        if refused and not begun:
            await _too_large(send)


async def _too_large(send: Send) -> None:
    body = f"The request is larger than {MAX_BODY // 10**6} MB.".encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})
