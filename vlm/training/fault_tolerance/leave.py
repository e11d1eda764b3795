"""End a process that is one of several."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
from typing import NoReturn


def leave(code: int) -> NoReturn:
    """End this process with an exit code, skipping the interpreter's finalisation.

    A gloo thread may release the last collective's tensors late. If the interpreter is already
    shutting down, the process aborts (SIGABRT) and a successful run reports a failure:
    https://github.com/pytorch/pytorch/issues/190489. Destroying the process group first, as
    advised there, does not end these threads under FSDP2, whose caches hold the group.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def abandon() -> NoReturn:
    """End this process as failed, from a thread other than the one that is stuck."""
    for worker in multiprocessing.active_children():
        worker.kill()  # a hanging worker does not notice that its parent has ended
    os._exit(1)
