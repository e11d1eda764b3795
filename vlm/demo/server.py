"""Serving the page: on loopback, offline, with limits."""

from __future__ import annotations

import asyncio
import socket
import webbrowser
from collections.abc import Awaitable, Callable
from contextlib import suppress

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from vlm.core.compat import keep_in_memory, limit_sessions
from vlm.demo.gate import MAX_BODY, Gate, Hosts
from vlm.demo.page import ASSETS
from vlm.demo.photo import MAX_BYTES
from vlm.demo.uploads import Uploads

FIRST_PORT, PORTS = 7860, 100
SESSIONS = 256
"""Visitors whose last answer is kept; some take a megabyte."""
GRACE_SECONDS = 3


def serve(app: FastAPI, connection: socket.socket, inbrowser: bool) -> None:
    """Serve an `application` until the process is interrupted.

    Args:
        app: what to serve.
        connection: that `listen` opened.
        inbrowser: open it in the machine's browser.
    """
    # uvicorn ends well at an interruption and then passes it on; asyncio, before uvicorn is up,
    # makes it a cancellation.
    ended = suppress(KeyboardInterrupt, asyncio.CancelledError)
    with ended, connection:
        host, port = connection.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"

        def ready() -> None:
            print(f"The demo is at {address} (Ctrl+C ends it).", flush=True)
            if inbrowser:
                webbrowser.open(address)

        # Each open page holds a connection; shutdown does not wait for them. uvicorn would prefer
        # httptools, where it is installed; but only h11 limits the size of headers.
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            log_level="warning",
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
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


def application(
    page: gr.Blocks, uploads: Uploads, hosts: Hosts, auth: str | None = None
) -> FastAPI:
    """The web application of a page from `build_page`, behind our `Gate`."""
    app = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        middleware=[
            Middleware(Gate, hosts=hosts, uploads=uploads, auth=auth),
            # It allows other sites nothing. Without it, Gradio adds its own, which lets other sites
            # use a visitor's credentials.
            Middleware(CORSMiddleware),
        ],
    )
    # They replace Gradio's own routes, which write and read files.
    app.post("/gradio_api/upload")(_upload(uploads))
    app.get("/gradio_api/file={name}")(_file(uploads))
    app.get("/gradio_api/upload_progress")(_progress)
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
    gr.mount_gradio_app(
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
    # Both hold images.
    limit_sessions(page, SESSIONS)
    return app


def _upload(uploads: Uploads) -> Callable[[Request], Awaitable[Response]]:
    async def upload(request: Request) -> Response:
        try:
            parser = MultiPartParser(request.headers, request.stream(), max_files=1, max_fields=8)
            keep_in_memory(parser, MAX_BODY)
            form = await parser.parse()
            (file,) = (value for value in form.getlist("files") if isinstance(value, UploadFile))
            content = await file.read()
        except (MultiPartException, ValueError, KeyError):
            return JSONResponse({"detail": "Expected a form with one file in `files`."}, 400)
        if len(content) > MAX_BYTES:
            sentence = f"The file exceeds {MAX_BYTES // 10**6} MB; scale the picture down first."
            return JSONResponse({"detail": sentence}, 413)
        return JSONResponse([uploads.add(content, request.scope["visitor"])])

    return upload


def _file(uploads: Uploads) -> Callable[[Request, str], Awaitable[Response]]:
    async def file(request: Request, name: str) -> Response:
        content = uploads.get(name, request.scope["visitor"])
        if content is None:
            return JSONResponse({"detail": "You have no such upload."}, 404)
        # The file is shown as an image or not at all, and no script in it runs.
        headers = {"Content-Disposition": "attachment", "Content-Security-Policy": "sandbox"}
        return Response(content, media_type="application/octet-stream", headers=headers)

    return file


async def _progress() -> Response:
    """Report every upload as done: the page polls for this after sending a file."""
    return Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")


def listen(host: str, port: int | None) -> socket.socket:
    """An open connection that waits for visitors.

    Raises:
        OSError: the port is taken, or there is no such address.
    """
    wanted = range(FIRST_PORT, FIRST_PORT + PORTS) if port is None else (port,)
    error = OSError("no port")
    for number in wanted:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host, number), family=family)
        except OSError as caught:
            error = caught
    raise OSError(
        f"port: {host}:{wanted[0]} cannot be listened on ({error.strerror}); choose another --port."
    )
