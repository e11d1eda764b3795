"""Whether models can be fetched, known before a library tries for a minute. Needs no torch."""

from __future__ import annotations

import math
import os
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from time import monotonic
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from vlm.core.compat import hub_constants

PATIENCE = 1.5
"""Seconds that a server may take to answer before it counts as out of reach."""
REMEMBERED = 10.0
"""Seconds for which a server that did not answer is not asked again: a model is several files."""

_ELSEWHERE = (
    "Run once with a network, copy the cache from a machine that has one (set HF_HOME to move it), "
    "or name a local folder"
)


class FetchError(OSError):
    """A model that cannot be found; the message says where vlm looked and what to do."""


_closed: ContextVar[bool] = ContextVar("closed", default=False)
_silent: dict[str, tuple[float, str]] = {}
"""Servers that did not answer: when, and what was found."""


_offline: list[bool] = []
"""The values of the hub client's offline switch that the running `_hub_offline` found."""
_lock = Lock()


@contextmanager
def nothing_fetched() -> Iterator[None]:
    """Inside, this thread reaches no server: a stored model contains all it needs.

    `hub_access` and `url_access` fail, the hub's client is offline, and Python's sockets cannot
    connect. Other threads' sockets still can.
    """
    _watch_sockets()
    token = _closed.set(True)
    try:
        with _hub_offline():
            yield
    finally:
        _closed.reset(token)


@cache
def _watch_sockets() -> None:
    """Cached, since a hook stays for as long as Python runs."""
    reaching = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}

    def refuse(event: str, args: Any) -> None:
        if event in reaching and _closed.get():
            _check_open(str(args[-1] if event == "socket.connect" else args[0]))

    sys.addaudithook(refuse)


@contextmanager
def _hub_offline() -> Iterator[None]:
    """Inside, the hub's client reads its cache only. Threads may overlap."""
    if find_spec("huggingface_hub") is None:  # comes with the extra `encoders`
        yield
        return
    constants = hub_constants()
    with _lock:
        _offline.append(constants.HF_HUB_OFFLINE)
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        with _lock:  # the last of overlapping threads restores what the first found
            constants.HF_HUB_OFFLINE = _offline.pop()


@contextmanager
def hub_access(
    name: str, from_scratch: bool = False, what: str = "model", cache: object = None
) -> Iterator[None]:
    """Load the model `name` inside: from its folder, the hub, or the cache if there is no network.

    The hub's client tries an unreachable server again and again, up to 46 s, before it turns to the
    cache or gives up; here the server is tried once. If `from_scratch`, the error advises
    `pretrained=False`, which needs none of the files; `cache` is the hub's own folder if None.

    Raises:
        FetchError: `name` cannot be found.
    """
    _check_open(name)
    constants = hub_constants()
    local = Path(name).is_dir()
    obstacle = None if local else _obstacle()
    try:
        with _hub_offline() if obstacle else nullcontext():
            yield
    except OSError as error:
        reason = _reason(error)
        from huggingface_hub.errors import GatedRepoError

        if isinstance(error, GatedRepoError):
            looked = (
                f"its licence wants a login: accept it at {constants.ENDPOINT}/{name}, then run "
                f"`hf auth login` or set HF_TOKEN."
            )
        elif local:
            looked = f"looked in this folder, and got: {reason}. Check the files in it."
        elif obstacle:
            looked = _not_here(obstacle, from_scratch, cache)
        else:
            looked = (
                f"looked in the cache {cache or constants.HF_HUB_CACHE} and at "
                f"{constants.ENDPOINT}, and got: {reason}. Check the name, and `hf auth login` if "
                f"the {what} is not public."
            )
        raise FetchError(f"{name}: the {what} could not be loaded; {looked}") from error


def check_hub(name: str, from_scratch: bool = False) -> None:
    """Say at once, before anything heavy is imported, that a model is neither on the hub nor in the
    cache, where one file of the model stands for all. Arguments as for `hub_access`.
    """
    _check_open(name)
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if Path(name).is_dir():
        return
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise FetchError(f"{name}: no name of a model on the hub ({_reason(error)}).") from error
    folder = Path(hub_constants().HF_HUB_CACHE, "models--" + name.replace("/", "--"), "snapshots")
    if not folder.is_dir() and (obstacle := _obstacle()):
        advice = _not_here(obstacle, from_scratch)
        raise FetchError(f"{name}: the model could not be loaded; {advice}")


def hub_obstacle() -> str | None:
    """Why the hub cannot be asked; None if it answers."""
    return _obstacle()


def _not_here(obstacle: str, from_scratch: bool = False, cache: object = None) -> str:
    constants = hub_constants()
    more = ", or build from scratch with pretrained=False." if from_scratch else "."
    cache = cache or constants.HF_HUB_CACHE
    return f"looked in the cache {cache} only, since {obstacle}. {_ELSEWHERE}{more}"


@contextmanager
def url_access(name: str, url: str) -> Iterator[None]:
    """Load the model's `url` inside through `torch.hub`: from its cache, or from the server if it
    answers."""
    _check_open(name)
    import torch

    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name

    def failed(found: str) -> FetchError:
        return FetchError(
            f"{name}: the weights could not be loaded; looked for {cached}{found}. Run once with a "
            f"network, copy the file there (set TORCH_HOME to move the cache), name a local file, "
            f"or build from scratch with pretrained=False."
        )

    if not cached.is_file() and (obstacle := _obstacle(url)):
        raise failed(f", and {obstacle}")
    try:
        yield
    except OSError as error:
        raise failed(f" and at {url}, and got: {_reason(error)}") from error


def _check_open(name: str) -> None:
    if _closed.get():
        raise FetchError(
            f"{name}: a stored model may not fetch this; expected its configuration and tokenizer "
            "inside the model."
        )


def _reason(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


def _obstacle(url: str | None = None) -> str | None:
    """Why the hub, or the server of `url`, cannot be asked; None if it can."""
    constants = hub_constants()
    url = url or constants.ENDPOINT
    # The environment too: the constant is read once, when the hub's client is imported.
    switch = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    with _lock:
        offline = _offline[0] if _offline else constants.HF_HUB_OFFLINE
    if offline or switch.upper() in {"1", "ON", "YES", "TRUE"}:
        return "HF_HUB_OFFLINE is set"
    since, said = _silent.get(url, (-math.inf, ""))
    if monotonic() - since < REMEMBERED:
        return said
    if _offline:
        return "another thread is loading a stored model, which may fetch nothing"
    # In a thread: looking up a name keeps to no timeout of ours.
    answers: SimpleQueue[str | None] = SimpleQueue()
    Thread(target=lambda: answers.put(_asked(url)), daemon=True).start()
    try:
        found = answers.get(timeout=PATIENCE)
    except Empty:
        found = f"{url} does not answer within {PATIENCE:g} s"
    if found:
        _silent[url] = monotonic(), found
    return found


def _asked(url: str) -> str | None:
    try:
        urlopen(Request(url, method="HEAD"), timeout=PATIENCE).close()
    except HTTPError:
        return None  # any answer will do
    except OSError as error:
        # The client may have certificates that we lack.
        if isinstance(error, URLError) and isinstance(error.reason, ssl.SSLError):
            return None
        return f"{url} does not answer ({error})"
    except Exception as error:  # no URL, or no answer of HTTP
        return f"{url} does not answer ({_reason(error)})"
    return None
