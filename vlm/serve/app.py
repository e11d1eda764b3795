"""The web application: the door that every request passes, and the routes behind it."""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import traceback
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from time import perf_counter
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.datastructures import Headers, MutableHeaders, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlm.core.rust_panic import AnswerError
from vlm.core.version import __version__
from vlm.serve.batcher import FullError
from vlm.serve.openai import PREFIX, add_openai, as_openai
from vlm.serve.questions import MAX_IMAGES, as_dict
from vlm.serve.requests import Bodies, Hosts, image_content, read_form, read_json, replayed
from vlm.serve.schema import Given, Said, mistake, required_body
from vlm.serve.service import Reply, Service

log = logging.getLogger(__name__)
OPEN = {"/health", "/ready"}
"""Routes without a key: they say nothing but whether the server lives."""
GONE = 499
"""The status, in logs and metrics, of a request whose client went away; nginx's number."""


class Door:
    """The middleware around the application: host, key and body are checked here, and each request
    is logged by route, status and time alone.

    Args:
        app: the application.
        service: whose metrics count the requests.
        hosts: names that requests may be for.
        keys: of which every request must bear one; none lets everybody in.
    """

    def __init__(self, app: ASGIApp, service: Service, hosts: Hosts, keys: tuple[str, ...]) -> None:
        self.app, self.metrics, self.hosts = app, service.metrics, hosts
        self.keys = [key.encode() for key in keys]
        self._bodies = Bodies()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        start, status, number = perf_counter(), GONE, secrets.token_hex(8)
        scope["request_id"] = number

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = number
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        try:
            self.hosts.check(scope)
            self._check_key(scope)
            if scope["path"] in OPEN:  # without a key, nobody fills the memory
                await self._until_gone(scope, b"", receive, answer)
            else:
                async with self._bodies.read(scope, receive) as body:
                    self.metrics.took("receive", perf_counter() - start)
                    await self._until_gone(scope, body, receive, answer)
        except HTTPException as error:
            await refusal(scope, error)(scope, receive, answer)
        except Exception as error:
            # Where, and not what: a message may hold a question.
            where = traceback.format_tb(error.__traceback__)[-1].strip().splitlines()[0]
            log.error("%s %s in %s", number, type(error).__name__, where)
            said = HTTPException(500, f"The server failed; its log has the reason ({number}).")
            await refusal(scope, said)(scope, receive, answer)
        seconds = perf_counter() - start
        # The matched route, or none: anybody can make up paths.
        route = getattr(scope.get("route"), "path", "-")
        self.metrics.took("total", seconds)
        self.metrics.requests.labels(route, status).inc()
        log.info("%s %s %s %d %.1f ms", number, scope["method"], route, status, 1000 * seconds)

    def _check_key(self, scope: Scope) -> None:
        kind, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        known = [hmac.compare_digest(key.strip().encode("latin-1"), own) for own in self.keys]
        if self.keys and scope["path"] not in OPEN and (kind.lower() != "bearer" or not any(known)):
            raise HTTPException(
                401,
                "Expected a key of this server: the header `Authorization: Bearer KEY`.",
                {"WWW-Authenticate": "Bearer"},
            )

    async def _until_gone(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Run the application, and stop it when its client goes away."""
        gone = asyncio.ensure_future(_gone(receive))
        work = asyncio.ensure_future(self.app(scope, replayed(body, asyncio.Future), send))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
        with suppress(asyncio.CancelledError):
            await work


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def refusal(scope: Scope, error: HTTPException) -> JSONResponse:
    """An error as JSON, for OpenAI's routes in their form."""
    # Halves of surrogate pairs, which JSON can carry and no response, become their codes.
    said = error.detail.encode(errors="backslashreplace").decode()
    error = HTTPException(error.status_code, said, error.headers)
    openai = scope["path"].startswith(PREFIX)
    content = as_openai(error) if openai else {"detail": error.detail}
    return JSONResponse(content, error.status_code, error.headers)


def application(
    service: Service,
    name: str,
    hosts: Hosts,
    keys: tuple[str, ...] = (),
    image_hosts: tuple[str, ...] = (),
) -> FastAPI:
    """The application of a service.

    Args:
        service: answers the questions.
        name: of the model, for OpenAI's routes.
        hosts: names that requests may be for.
        keys: of which every request must bear one.
        image_hosts: from which images named by address are fetched.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        working = asyncio.create_task(service.batcher.work())
        yield
        working.cancel()

    app = FastAPI(
        title="vlm",
        version=__version__,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        middleware=[Middleware(Door, service=service, hosts=hosts, keys=keys)],
    )

    @app.exception_handler(HTTPException)
    async def refuse(request: Request, error: HTTPException) -> Response:
        return refusal(request.scope, error)

    async def ask(given: Given, contents: Sequence[bytes] = ()) -> Reply:
        """The reply to a question about the content of files, or else the images that it names; or
        the status that says why there is none."""
        named = [given.image or ""] if not isinstance(given.image, list) else given.image
        try:
            least = service.vqa.least(given.max_risk)
            service.check(given.question, given.choices, len(contents or named))
            service.check_room()
            async with asyncio.timeout(service.seconds):
                contents = contents or [await image_content(url, image_hosts) for url in named]
                return await service.answer(contents, given.question, given.choices, least)
        except FullError as full:
            raise HTTPException(429, str(full), {"Retry-After": str(full.seconds)}) from None
        except TimeoutError:
            raise HTTPException(504, f"No answer within {service.seconds:g} s.") from None
        except ValueError as error:
            status = 500 if isinstance(error, AnswerError) else 422
            raise HTTPException(status, str(error)) from None

    @app.post("/answer", response_model=Said, openapi_extra=required_body(Given))
    async def answer(request: Request) -> Response:
        """Answer a question about an image: JSON with a data: URL, or a form with a file."""
        start = perf_counter()
        given, contents = await _given(request)
        reply = await ask(given, contents)
        return JSONResponse(
            {
                **as_dict(reply.answer),
                "warnings": [*reply.answer.warnings, *reply.notes],
                "milliseconds": round(1000 * (perf_counter() - start), 3),
            }
        )

    @app.get("/", include_in_schema=False)
    async def home() -> dict[str, str]:
        """What this server is, for whoever opens it in a browser."""
        asked = "POST /answer with an image and a question; /openapi.json describes all requests"
        return {"server": f"vlm {__version__}", "model": name, "ask": asked}

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the process lives."""
        return {"status": "ok", "version": __version__}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        """Whether a question would be taken: 429 if the queue is full."""
        try:
            service.check_room()
        except FullError as full:
            raise HTTPException(429, str(full), {"Retry-After": str(full.seconds)}) from None
        return {"status": "ready", "model": name}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Numbers for Prometheus."""
        return Response(service.metrics.page(), media_type="text/plain; version=0.0.4")

    add_openai(app, name, ask)
    return app


async def _given(request: Request) -> tuple[Given, list[bytes]]:
    """What a request asks, and the content of its images' files where it is a form."""
    contents: list[bytes] = []
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        try:
            form = await read_form(request, MAX_IMAGES)
        except (MultiPartException, KeyError, ValueError) as error:
            raise HTTPException(
                400,
                f"The form cannot be read ({error}); expected one file `image`, or up to "
                f"{MAX_IMAGES}, and `question`.",
            ) from None
        values: dict[str, Any] = {key: form[key] for key in form if key != "choices"}
        for key in {*form} - {"choices", "image"}:
            if len(form.getlist(key)) > 1:
                raise HTTPException(
                    422, f"{key}: got it {len(form.getlist(key))} times in one form."
                )
        if texts := form.getlist("choices"):
            values["choices"] = texts
        for key in {*form} - {"image"}:
            if any(isinstance(value, UploadFile) for value in form.getlist(key)):
                raise HTTPException(422, f"{key}: got a file; expected a text.")
        files = form.getlist("image")
        if files and all(isinstance(file, UploadFile) for file in files):
            values.pop("image")
            contents = [await file.read() for file in files]  # type: ignore[union-attr]  # as seen
        elif len(files) > 1:
            values["image"] = files  # several data: URLs; a file among them is refused below
        await form.close()
        for text in files:
            if isinstance(text, str) and not text.startswith(("data:", "http:", "https:")):
                raise HTTPException(
                    422,
                    f"image: got the text {text[:80]!r}; expected a file or a data: URL. With "
                    f"curl, an @ stands before a file's path: -F image=@photo.png",
                )
    else:
        values = await read_json(request)
    try:
        given = Given.model_validate(values)
    except ValidationError as error:
        raise HTTPException(422, mistake(error)) from None
    if not contents and not given.image:
        raise HTTPException(422, "image: got none; expected a file or a data: URL.")
    return given, contents
