"""The server under load and at its end: a full queue, late answers, clients that leave, SIGTERM."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from serving import QUESTION, Server, data_url, held, picture, serving

pytest.importorskip("prometheus_client", reason="install it with `pip install 'vlm-vqa[serve]'`")


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def busy(folder: Path, *options: str) -> Iterator[tuple[Server, Path, ThreadPoolExecutor]]:
    """A server whose model has begun a question and goes on once the file is gone."""
    model, hold = held(folder)
    with (
        serving(model, folder, "--trust", *options) as server,
        ThreadPoolExecutor(16) as pool,
    ):
        hold.touch()
        try:
            yield server, hold, pool
        finally:
            hold.unlink(missing_ok=True)


def ask_many(server: Server, pool: ThreadPoolExecutor, count: int) -> list[Future[httpx.Response]]:
    """One question that the model is at, and `count` that wait behind it."""
    first = [pool.submit(server.ask, picture(0))]
    until(lambda: server.metric("vlm_batch_questions_sum") == 1)
    waiting = [pool.submit(server.ask, picture(number)) for number in range(1, count + 1)]
    until(lambda: server.metric("vlm_queue_questions") == count)
    return first + waiting


def test_a_full_queue_says_when_to_come_again(tmp_path: Path) -> None:
    with busy(tmp_path, "--waiting=3") as (server, hold, pool):
        asked = ask_many(server, pool, 3)
        refused = server.ask(picture(9))
        assert refused.status_code == server.client.get("/ready").status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert "try again in" in refused.json()["detail"]
        assert server.client.get("/health").is_success
        hold.unlink()
        assert [future.result(60).status_code for future in asked] == [200] * 4
        assert server.ask(picture(9)).is_success
        assert server.metric("vlm_batch_questions_count") == 3, "those that waited went together"


def test_whoever_leaves_gives_up_the_place(tmp_path: Path) -> None:
    with busy(tmp_path) as (server, hold, pool):
        asked = ask_many(server, pool, 1)
        body = {"image": data_url(picture(9)), "question": QUESTION}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{server.address}/answer", json=body, headers=server.client.headers, timeout=1
            )
        until(lambda: server.metric("vlm_queue_questions") == 1)
        hold.unlink()
        assert [future.result(60).status_code for future in asked] == [200] * 2
        until(lambda: " POST /answer 499 " in server.log.read_text())
        assert server.metric("vlm_batch_questions_sum") == 2


def test_an_answer_that_would_be_late_is_given_up(tmp_path: Path) -> None:
    with busy(tmp_path, "--seconds=1") as (server, hold, _):
        late = server.ask(picture(0))
        assert (late.status_code, late.json()["detail"]) == (504, "No answer within 1 s.")
        hold.unlink()
        assert server.ask(picture(1)).is_success


def test_a_terminated_server_answers_what_it_took(tmp_path: Path) -> None:
    with busy(tmp_path) as (server, hold, pool):
        asked = ask_many(server, pool, 5)
        server.process.send_signal(signal.SIGTERM)

        def shut() -> bool:
            try:
                httpx.get(f"{server.address}/health").close()
            except httpx.TransportError:
                return True
            return False

        until(shut)
        hold.unlink()
        assert [future.result(60).status_code for future in asked] == [200] * 6
        assert server.process.wait(60) == 0
        assert "Traceback" not in server.log.read_text()
