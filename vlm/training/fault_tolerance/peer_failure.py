"""Ends the processes of all machines when one of them fails.

torchrun ends the other processes on the machine that failed. Those on other machines would wait in
their next collective operation until torch's limit of half an hour. So a failing process writes
its reason to torchrun's store, which every process checks.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta

from torch.distributed import DistError, TCPStore, is_initialized

from vlm.training.fault_tolerance.leave import abandon

CONNECT_SECONDS = 10.0
"""torchrun's store is there before the processes are."""
AGAIN_SECONDS = 2.0
"""To reach it once more."""
LATE_SECONDS = 20.0
"""Machines start seconds apart."""
ASK_SECONDS = 1.0
"""Between two looks whether a process has failed. To wait for it in the store ends with a page of
torch's warnings whenever the waiting comes to its limit."""
OWN_END_SECONDS = 10.0
"""Time for a process to end by itself once another has failed, which says more and may save."""
_FAILED, _LISTENING = "vlm/failed", "vlm/listening"
_ends = threading.Event()
_heard: list[str] = []


class MachinesError(Exception):
    """The first machine cannot be reached."""


def listen() -> None:
    """End this process as soon as one on any machine reports a failure.

    Does nothing if all processes are on one machine or torchrun restarts failed processes.

    Raises:
        MachinesError: the first machine's store does not answer.
    """
    if not _several():
        return
    try:
        store = _store(CONNECT_SECONDS)
        store.add(_LISTENING, 1)
    except (OSError, DistError):
        raise MachinesError(
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}: torchrun on the first "
            "machine does not answer; expected it to run. If a process there failed, its output "
            "says why."
        ) from None
    _ends.clear()
    threading.Thread(target=_listen, args=(store,), daemon=True, name="machines").start()


def tell(message: str, late_seconds: float = LATE_SECONDS) -> None:
    """Report to the processes of all machines why this one fails; only the first report counts.

    Args:
        message: reason of the failure.
        late_seconds: how long to wait for processes that do not listen yet.
    """
    if not _several():
        return
    _ends.set()  # its own listener must not end it before its report is complete
    said = f"process {os.environ['RANK']} on {socket.gethostname()} has failed: {message}"
    with suppress(Exception):  # errors here must not hide why the process fails
        if heard():
            return
        store = _store()
        store.compare_set(_FAILED, "", said.encode("utf-8", "backslashreplace").decode())
        until = time.monotonic() + late_seconds
        while store.add(_LISTENING, 0) < int(os.environ["WORLD_SIZE"]) and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(3 * ASK_SECONDS)  # the store may end with this machine's processes


def heard() -> str | None:
    """Which process failed and why; None if none has reported a failure."""
    if _several() and not _heard:
        with suppress(Exception):
            store = _store()
            if store.check([_FAILED]):
                _heard.append(store.get(_FAILED).decode())
    return _heard[0] if _heard else None


def _several() -> bool:
    machines = int(os.environ.get("GROUP_WORLD_SIZE", "1"))
    has_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    final = os.environ.get("TORCHELASTIC_MAX_RESTARTS") == "0"
    return machines > 1 and has_store and final


def _store(seconds: float = AGAIN_SECONDS) -> TCPStore:
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # torch's own attempts take up to a minute, whatever the timeout.
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), timeout=seconds).close()
            break
        except OSError:
            if time.monotonic() > until:
                raise
        time.sleep(0.2)
    limit = timedelta(seconds=CONNECT_SECONDS)
    return TCPStore(host, port, is_master=False, timeout=limit, wait_for_workers=False)


def _listen(store: TCPStore) -> None:
    said = _failure(store)
    if said is None:
        return
    _heard.append(said)
    if not _ends.wait(OWN_END_SECONDS):
        print(f"vlm: {said}", file=sys.stderr, flush=True)
        abandon()


def _failure(store: TCPStore) -> str | None:
    while not _ends.wait(ASK_SECONDS):
        try:
            if store.check([_FAILED]):
                return store.get(_FAILED).decode()
        except DistError:
            try:
                store = _store()
            except (OSError, DistError):
                # Once training has started, the store is no longer needed.
                return None if is_initialized() else "torchrun of the first machine has ended."
    return None
