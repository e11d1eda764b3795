"""Ends the processes of all machines when one of them fails."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from datetime import timedelta

from torch.distributed import DistError, TCPStore, is_initialized

from vlm.training.leave import abandon

CONNECT_SECONDS = 20.0
"""torchrun's store is there before the processes are."""
TELL_SECONDS = 10.0
"""Machines start seconds apart: so long the failure waits for those that do not listen yet."""
ASK_SECONDS = 1.0
"""Between two looks whether a machine has failed. To wait for it in the store ends with a page of
torch's warnings whenever the waiting comes to its limit."""
OWN_END_SECONDS = 10.0
"""A process that is told has so long to end by itself, which says more and may save."""
_FAILED, _LISTENING = "vlm/failed", "vlm/listening"


class MachinesError(Exception):
    """The first machine cannot be reached."""


class Machines:
    """The machines of one launch. A process that fails writes why into torchrun's store; one
    process of each machine waits for that, and ends.

    torchrun alone ends the processes of the machine that failed. Those of the others would wait in
    the next collective operation, or for the first one, until torch's limit of half an hour.

    Raises:
        MachinesError: the first machine's store does not answer.
    """

    def __init__(self) -> None:
        self._number = int(os.environ["GROUP_WORLD_SIZE"])
        if os.environ["LOCAL_RANK"] != "0":
            return
        try:
            store = _store()
            store.add(_LISTENING, 1)
        except DistError:
            raise MachinesError(
                f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}: torchrun of the first "
                f"machine did not answer in {CONNECT_SECONDS:g} s; wanted one that runs. It has "
                f"ended if a process there has failed, which its own output says."
            ) from None
        threading.Thread(target=_listen, args=(store,), daemon=True, name="machines").start()

    def tell(self, message: str) -> None:
        """Let all machines know why this process fails; the first one that does is heard."""
        said = f"process {os.environ['RANK']} on {socket.gethostname()} has failed: {message}"
        try:
            store = _store()
            store.compare_set(_FAILED, "", said)
            until = time.monotonic() + TELL_SECONDS
            while store.add(_LISTENING, 0) < self._number and time.monotonic() < until:
                time.sleep(0.1)
            time.sleep(3 * ASK_SECONDS)  # the store ends with the first machine's processes
        except DistError:
            return  # the first machine has ended, which the others find out as this one does


def of_this_launch() -> Machines | None:
    """None where all processes are on one machine, or torchrun starts those that fail again.

    Raises:
        MachinesError: the first machine's store does not answer.
    """
    several = int(os.environ.get("GROUP_WORLD_SIZE", "1")) > 1
    has_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    final = os.environ.get("TORCHELASTIC_MAX_RESTARTS") == "0"
    return Machines() if several and has_store and final else None


def _store() -> TCPStore:
    return TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=timedelta(seconds=CONNECT_SECONDS),
        wait_for_workers=False,
    )


def _listen(store: TCPStore) -> None:
    said = _failure(store)
    if said is None:
        return
    time.sleep(OWN_END_SECONDS)
    print(f"vlm: {said}", file=sys.stderr, flush=True)
    abandon()


def _failure(store: TCPStore) -> str | None:
    try:
        while not store.check([_FAILED]):
            time.sleep(ASK_SECONDS)
        return store.get(_FAILED).decode()
    except DistError:
        # Later, a network that fails for a moment must not end a training that goes on.
        return None if is_initialized() else "torchrun of the first machine has ended."
