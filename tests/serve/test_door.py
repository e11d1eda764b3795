"""The door in front of the server: what may be held in memory, and for whom."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from vlm.serve import requests
from vlm.serve.requests import Hosts

pytest.importorskip("prometheus_client", reason="install it with `pip install 'vlm-vqa[serve]'`")

KEY = b"Bearer a-key"


def ask(path: str, size: int, key: bytes, within: Callable[[], Awaitable[object]]) -> Any:
    """A request to a door, whose application runs `within`: a function of the door."""

    async def asked(door: Any) -> int:
        headers = [(b"host", b"localhost"), (b"authorization", key)]
        scope = {"type": "http", "path": path, "method": "POST", "headers": headers}
        body = [{"type": "http.request", "body": bytes(size), "more_body": False}]
        said: list[Message] = []

        async def receive() -> Message:
            return body.pop() if body else await asyncio.Future()

        async def send(message: Message) -> None:
            said.append(message)

        await door({**scope, "within": within}, receive, send)
        return int(said[0]["status"])

    return asked


def door() -> Any:
    from vlm.serve.app import Door
    from vlm.serve.metrics import Metrics

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await scope["within"]()
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200 + len(body) % 7, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    service: Any = SimpleNamespace(metrics=Metrics(lambda: 0))
    return Door(application, service, Hosts("localhost", 80), ("a-key",))


def test_what_is_held_for_answers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_BODIES", 100)

    async def main() -> list[int]:
        made, go = door(), asyncio.Event()

        async def at_once() -> None:
            pass

        first = asyncio.create_task(ask("/answer", 71, KEY, go.wait)(made))
        await asyncio.sleep(0.01)
        refused = await ask("/answer", 31, KEY, at_once)(made)
        small = await ask("/answer", 29, KEY, at_once)(made)
        go.set()
        return [await first, refused, small, await ask("/answer", 31, KEY, at_once)(made)]

    assert asyncio.run(main()) == [201, 503, 201, 203]


def test_those_without_a_key_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_BODIES", 100)

    async def main() -> list[int]:
        made, go = door(), asyncio.Event()
        tasks = [
            asyncio.create_task(ask(path, 71, key, go.wait)(made))
            for path, key in (("/health", b""), ("/ready", b""), ("/answer", KEY), ("/answer", b""))
        ]
        await asyncio.sleep(0.01)
        go.set()
        return list(await asyncio.gather(*tasks))

    assert asyncio.run(main()) == [200, 200, 201, 401]
