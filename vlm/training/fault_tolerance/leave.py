"""The end of a process that is one of several."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
from typing import NoReturn


def leave(code: int) -> NoReturn:
    """End this process with an exit code, and without the interpreter's own finalisation.

    A thread of gloo lets go of the last collective's tensors when it comes to it. Where the
    interpreter is being taken down by then, the process aborts (SIGABRT), and a training that has
    succeeded reports a failure: https://github.com/pytorch/pytorch/issues/190489. To destroy the
    process group first, as advised there, does not end these threads under FSDP2, whose caches
    hold the group.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def abandon() -> NoReturn:
    """End this process as failed, from another thread than the one that gets no further."""
    for worker in multiprocessing.active_children():
        worker.kill()  # one that hangs does not see that its parent has gone
    os._exit(1)
