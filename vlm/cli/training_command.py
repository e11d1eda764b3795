"""A training command, from its arguments to its exit code."""

from __future__ import annotations

import atexit
import errno
import re
import signal
import sys
from collections.abc import Sequence

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from vlm.cli.check import refusal
from vlm.cli.error_messages import explain
from vlm.cli.training_cli import VQACLI
from vlm.core.errors import ConfigError
from vlm.training.fault_tolerance.leave import leave
from vlm.training.fault_tolerance.peer_failure import heard, listen, tell
from vlm.training.fault_tolerance.signals import EXIT_CODE, SIGNALS, Preempted
from vlm.training.readable import READABLE


def run(arguments: Sequence[str]) -> None:
    """Run a training command: its name, then its options.

    Mistakes of the user end in a short message, with exit code 2 for those of the configuration and
    1 for those of the data, of checkpoints and of numbers that are not finite. A training that a
    signal ended has exit code 75.
    """
    code = 0
    try:
        listen()
        VQACLI(arguments)
    except Exception as error:
        code, said = _outcome(error, arguments)
        if said is None:
            atexit.register(tell, f"{type(error).__name__}: {error}")  # below its traceback
            raise
        print(said, file=sys.stderr, flush=True)
        if code != EXIT_CODE:
            tell(said)
    except (KeyboardInterrupt, SystemExit) as left:
        if not isinstance(left, SystemExit) or left.code:
            tell(repr(left))
        raise
    if torch.distributed.is_initialized():
        leave(code)
    if code:
        sys.exit(code)


def _outcome(error: Exception, arguments: Sequence[str]) -> tuple[int, str | None]:
    """The exit code, and the line that says all there is to say; None if it takes a traceback."""
    if isinstance(error, MisconfigurationException):  # of Lightning, once the data are loaded
        error = ConfigError(f"trainer: {error}")
    if isinstance(error, ConfigError):
        return 2, refusal(explain(str(error)), arguments)
    if isinstance(error, READABLE):
        return 1, f"vlm: {_without_traceback(str(error))}"
    if isinstance(error, Preempted):
        # A launcher sends another one as soon as the first process has left.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        return EXIT_CODE, f"vlm: {error}"
    message = _explained(error) or _failed_worker(error)
    return 1, f"vlm: {message}" if message else None


def _explained(error: Exception) -> str | None:
    """What is to be done about it, where that is known."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{error.filename or 'a file'}: cannot be written ({error.strerror}). Free disk space "
            "and continue from the last checkpoint."
        )
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"{error.filename or 'a file'}: cannot be read or written ({error.strerror}). Results "
            f"go into run.folder: choose a folder that you may write to."
        )
    if not isinstance(error, (MemoryError, RuntimeError)):
        return None
    if re.search(r"Connection (closed|reset) by peer|Connection was likely closed", str(error)):
        return heard() or "another process has ended; see its own message."
    # torch has a class of its own for it on devices, and none on the CPU.
    if re.search(r"allocate memory|out of memory|Unable to allocate", str(error)):
        # The allocator's own words, to the end of the sentence, without the place in its source.
        pattern = r"((you )?tried|Unable) to allocate ([^.]|\.\d)*"
        words = re.search(pattern, str(error), re.IGNORECASE)
        needed = words[0] if words else str(error).splitlines()[0]
        return (
            f"out of memory ({needed}). Lower data.images_per_batch (a higher "
            f"trainer.accumulate_grad_batches keeps the step as it is), or make the model smaller."
        )
    return None


def _failed_worker(error: Exception) -> str | None:
    """How a loader worker ended, which torch reports below a page of traceback."""
    # The wait for a batch ends with "exited unexpectedly", and has the signal as its cause.
    for text in (str(error.__cause__), str(error)):
        if found := re.search(r"DataLoader worker \(pid.*(is killed|exited)[^.]*", text):
            return (
                f"a loader worker ended: {found[0].strip()}. Its own message, if it had one, is "
                f"above. A killed worker has usually run out of memory: lower data.workers or "
                f"data.images_per_batch."
            )
    _, found_one, traceback = str(error).rstrip().partition("Original Traceback")
    if found_one:
        cause = traceback.splitlines()[-1]
        return f"a loader worker failed: {cause}\nIts traceback{traceback}"
    return None


def _without_traceback(message: str) -> str:
    """A loader worker's error arrives with its traceback, whose last line is the error itself."""
    if "Original Traceback" not in message:
        return message
    return message.strip().splitlines()[-1].partition(": ")[2]
