"""Every Gradio route is kept or blocked, and the gate ignores what it cannot serve."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from typing import Any

import pytest
from gradio_routes import KEPT, SHUT, judged

from vlm.demo.gate import ROUTES, Gate
from vlm.demo.uploads import Uploads
from vlm.serve.requests import Hosts

LIST_ROUTES = """
import gradio, json
from fastapi import FastAPI

def walk(routes):
    for route in routes:
        inner = getattr(getattr(route, "original_router", None), "routes", None)
        yield from walk(inner) if inner else ((m, route.path) for m in route.methods)

with gradio.Blocks() as page:
    gradio.Button().click(lambda: None)
app = gradio.mount_gradio_app(FastAPI(), page, path="", run_history=False)
print(json.dumps(list(walk(app.routes[-1].app.routes))))
"""


def test_every_route_of_gradio_was_judged() -> None:
    """A route that a new Gradio adds stays blocked until someone has reviewed it."""
    listed = subprocess.run(
        [sys.executable, "-c", LIST_ROUTES], capture_output=True, check=True, text=True
    )
    found = {(method, path) for method, path in json.loads(listed.stdout.splitlines()[-1])}
    assert len(found) > 40
    kept, shut = judged(KEPT), judged(SHUT)
    assert found - kept - shut == set(), "new routes: are they needed, and what do they open?"
    values = {"{api_name}": "predict", "{event_id}": "0" * 32, "{path:path}": "index.js"}
    for method, path in shut:
        for name, value in values.items():
            path = path.replace(name, value)
        path = "/".join("x" if part.startswith("{") else part for part in path.split("/"))
        assert method not in ROUTES or not ROUTES[method].fullmatch(path), path


def test_a_websocket_is_closed() -> None:
    got: list[Any] = []

    async def send(message: Any) -> None:
        got.append(message)

    async def receive() -> Any:
        raise AssertionError

    gate = Gate(receive, Hosts("127.0.0.1", 80), Uploads(), None)  # type: ignore[arg-type]  # no app
    asyncio.run(gate({"type": "websocket", "path": "/"}, receive, send))
    assert got == [{"type": "websocket.close", "code": 1008}]


def test_a_request_that_never_ends_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlm.serve.requests.BODY_SECONDS", 0.1)
    got: list[Any] = []

    async def send(message: Any) -> None:
        got.append(message)

    async def receive() -> Any:
        await asyncio.sleep(0.03)
        return {"type": "http.request", "body": b" ", "more_body": True}

    gate = Gate(receive, Hosts("127.0.0.1", 80), Uploads(), None)  # type: ignore[arg-type]  # no app
    scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "query_string": b""}
    scope |= {"headers": [(b"host", b"localhost")], "server": ("127.0.0.1", 80)}
    start = time.monotonic()
    asyncio.run(gate(scope, receive, send))
    assert time.monotonic() - start < 5
    assert got[0]["status"] == 408
