"""The web application of the page: offline, with limits."""

from __future__ import annotations

import gradio as gr
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from vlm.core.compat import limit_sessions, look_less_often
from vlm.demo import ASSETS
from vlm.demo.gate import Gate
from vlm.demo.uploads import AT_ONCE, Uploads
from vlm.serve.reader import MAX_BYTES
from vlm.serve.requests import Hosts, read_form

SESSIONS = 256
"""Visitors whose last answer is kept; some take a megabyte, since they hold images."""


def application(
    page: gr.Blocks,
    uploads: Uploads,
    hosts: Hosts,
    auth: str | None = None,
    framed: bool = False,
) -> FastAPI:
    """The web application of a page from `build_page`, behind the `Gate`."""
    app = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        middleware=[
            Middleware(Gate, hosts=hosts, uploads=uploads, auth=auth, framed=framed),
            # It allows other sites nothing. Without it, Gradio adds its own, which lets other sites
            # use a visitor's credentials.
            Middleware(CORSMiddleware),
        ],
    )
    app.state.uploads = uploads
    # They replace Gradio's own routes, which write and read files.
    app.add_route("/gradio_api/upload", _upload, ["POST"])
    app.add_route("/gradio_api/file={name}", _file)
    app.add_route("/gradio_api/upload_progress", _progress)
    system = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    # Fonts of the system: the themes' own come from another server.
    theme = gr.themes.Soft(
        primary_hue="teal",
        neutral_hue="slate",
        spacing_size="sm",
        font=system,
        font_mono=["monospace"],
    ).set(
        # The theme's own are too pale to read.
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        checkbox_border_color="*neutral_500",
        input_border_color="*neutral_400",
        block_info_text_color_dark="*neutral_300",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        checkbox_label_background_fill_selected="*primary_700",
        checkbox_label_background_fill_selected_dark="*primary_700",
        block_title_background_fill="none",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        block_label_text_color="*neutral_800",
        block_label_text_color_dark="*neutral_100",
        block_label_background_fill="*neutral_50",
        block_label_background_fill_dark="*neutral_700",
        color_accent="*primary_700",
    )
    gr.mount_gradio_app(
        app,
        page,
        path="",
        show_error=False,
        max_file_size=MAX_BYTES,
        footer_links=["api"],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=theme,
        css=(ASSETS / "page.css").read_text(encoding="utf-8"),
    )
    limit_sessions(page, SESSIONS)
    look_less_often(page, 0.02)
    return app


async def _upload(request: Request) -> Response:
    try:
        form = await read_form(request, AT_ONCE)
        files = [value for value in form.getlist("files") if isinstance(value, UploadFile)]
        contents = [await file.read() for file in files]
        if not contents:
            raise ValueError
    except (MultiPartException, ValueError, KeyError):
        sentence = f"Expected a form with one file in `files`, or up to {AT_ONCE}."
        return JSONResponse({"detail": sentence}, 400)
    if any(len(content) > MAX_BYTES for content in contents):
        sentence = f"A file exceeds {MAX_BYTES // 10**6} MB; scale the image down first."
        return JSONResponse({"detail": sentence}, 413)
    uploads, visitor = request.app.state.uploads, request.scope["visitor"]
    return JSONResponse([uploads.add(content, visitor) for content in contents])


async def _file(request: Request) -> Response:
    name, visitor = request.path_params["name"], request.scope["visitor"]
    content = request.app.state.uploads.get(name, visitor)
    if content is None:
        return JSONResponse({"detail": "You have no such upload."}, 404)
    # The file is shown as an image or not at all, and no script in it runs.
    headers = {"Content-Disposition": "attachment", "Content-Security-Policy": "sandbox"}
    return Response(content, media_type="application/octet-stream", headers=headers)


async def _progress(_: Request) -> Response:
    """Report every upload as done: the page polls for this after sending a file."""
    return Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")
