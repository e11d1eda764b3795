"""Decode images in a separate process, which is killed if one takes too long.

A hundred kilobytes can keep a decoder busy for an hour, and a thread inside it cannot be stopped.
"""

from __future__ import annotations

import math
import os
import pickle
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Timer
from typing import IO, cast

import vlm
from vlm.demo.photo import Photo, read_photo
from vlm.image.load import ImageError
from vlm.image.rgb import WhiteLevel

READ_SECONDS = 15.0
"""Twice the time of the slowest sound image of 40 million pixels, a JPEG 2000."""


class Reader:
    """`read_photo` in another process, for one thread at a time.

    Args:
        seconds: time limit for an image.
    """

    def __init__(self, seconds: float = READ_SECONDS) -> None:
        self.seconds = seconds
        self._process = self._started()
        self._ready = self._closed = False

    def __call__(self, content: bytes, white_level: WhiteLevel = None) -> Photo:
        """As `read_photo`.

        Raises:
            ImageError: as there, or the image takes too long.
        """
        late = False

        def end() -> None:
            nonlocal late
            late = True
            self._process.kill()

        if self._process.poll() is not None and not self._closed:  # such as for lack of memory
            self._renew()
        sent, found = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)
        timer = Timer(self.seconds, end)
        try:
            if not self._ready:  # imports take longer than pictures
                self._ready = pickle.load(found)
            timer.start()
            pickle.dump((content, white_level), sent)
            sent.flush()
            result = pickle.load(found)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            self._renew()
            message = "The picture is damaged and cannot be read; choose another."
            if late:
                message = (
                    f"Reading the picture took longer than {self.seconds:g} s; choose another."
                )
            raise ImageError(message) from error
        finally:
            timer.cancel()
        if isinstance(result, ImageError):
            raise result
        return cast(Photo, result)

    def close(self) -> None:
        """End the process, even while it reads."""
        self._closed = True
        self._end()

    def _renew(self) -> None:
        self._end()
        if not self._closed:
            self._process, self._ready = self._started(), False

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()

    @staticmethod
    def _started() -> subprocess.Popen[bytes]:
        here = str(Path(vlm.__file__).parents[1])
        path = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
        # -P: nothing is imported from the folder where the demo was started.
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "vlm.demo.reader"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
        )


def _serve() -> None:
    """Read images from standard input until it ends, at the latest with the demo."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the demo handles Ctrl+C
    given, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a decoder prints
    alarm = getattr(signal, "alarm", lambda seconds: None)  # Windows has none
    result: object = True
    while True:
        alarm(0)
        pickle.dump(result, answers)
        answers.flush()
        try:
            content, white_level = pickle.load(given)
        except EOFError:
            return
        alarm(2 * math.ceil(READ_SECONDS))  # in case the demo is killed meanwhile
        try:
            result = read_photo(content, white_level)
        except ImageError as error:
            result = error
        except BaseException:  # a decoder that panics or runs out of memory
            result = ImageError("The picture is damaged and cannot be read; choose another.")


if __name__ == "__main__":
    with suppress(BrokenPipeError):  # the demo ended first
        _serve()
