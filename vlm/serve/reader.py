"""Read uploaded images within limits, in a separate process that is killed if it takes too long.

A hundred kilobytes can keep a decoder busy for an hour, and a thread inside it cannot be stopped.
"""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from time import monotonic
from typing import IO, cast

from PIL import Image, UnidentifiedImageError

from vlm.image.kinds import format_of, kind_of
from vlm.image.load import FORMATS, ImageError, read_image
from vlm.image.rgb import WhiteLevel

MAX_BYTES = 10_000_000
MAX_PIXELS = 40_000_000
"""More is refused before decoding: a few kilobytes can hold gigabytes."""
READ_SECONDS = 15.0
"""Twice the time of the slowest sound image of 40 million pixels, a JPEG 2000."""
DAMAGED = "The image is damaged and cannot be read; choose another."


@dataclass(frozen=True)
class UploadedImage:
    """An image that was read, upright, in RGB and its original size, with notes on the
    conversion."""

    image: Image.Image
    notes: tuple[str, ...]


def digest_of(content: bytes) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def read_upload(content: bytes, white_level: WhiteLevel = None) -> UploadedImage:
    """Read the content of an image file of any kind that Pillow supports.

    Raises:
        ImageError: empty, not an image, damaged, or too large in bytes or pixels.
    """
    if not content:
        raise ImageError("The file is empty (0 bytes); choose another image.")
    if len(content) > MAX_BYTES:
        raise ImageError(
            f"The file has {len(content) / 1e6:,.1f} MB; at most {MAX_BYTES // 10**6} MB are read. "
            f"Scale the image down first.",
            "oversized",
        )
    try:
        read = read_image(content, white_level, MAX_PIXELS, plug_ins=False)
    except ImageError as error:
        raise ImageError(_for_visitors(error, content), error.kind) from error
    notes = {
        "It is animated or has several pages; the first of its images is used.": read.animated,
        "The image has printing colours (CMYK); they were converted.": read.mode == "CMYK",
        "The image has 16 bits, but uses only the lowest quarter and is dark.": read.narrow,
    }
    return UploadedImage(read.image, tuple(note for note, applies in notes.items() if applies))


def _for_visitors(error: ImageError, content: bytes) -> str:
    if error.kind == "oversized":
        return f"The image is too large: {str(error).removeprefix('image: ')}"
    kind = kind_of(content)
    identified = not isinstance(error.__cause__, UnidentifiedImageError)
    if kind is None and (identified or format_of(content, FORMATS)):
        return DAMAGED
    name = "not an image" if kind is None else kind.name
    return f"This file is {name}, whatever its name says; choose a JPEG, PNG, WebP or GIF image."


class Reader:
    """`read_upload` in another process, for one thread at a time and `seconds` an image."""

    def __init__(self, seconds: float = READ_SECONDS) -> None:
        self.seconds = seconds
        self._ready = self._closed = False
        self._start()

    def __call__(self, content: bytes, white_level: WhiteLevel = None) -> UploadedImage:
        """As `read_upload`.

        Raises:
            ImageError: as there, or reading takes too long.
        """
        if self._process.poll() is not None and not self._closed:  # such as for lack of memory
            self._restart()
        sent, found = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)
        limit = Timer(self.seconds, self._process.kill)
        started = math.inf
        try:
            if not self._ready:  # imports take longer than images
                self._ready = pickle.load(found)
            started = monotonic()
            limit.start()
            pickle.dump((content, white_level), sent)
            sent.flush()
            result = pickle.load(found)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            late = monotonic() - started >= self.seconds
            self._restart()
            message = f"Reading the image took longer than {self.seconds:g} s; choose another."
            raise ImageError(message if late else DAMAGED) from error
        finally:
            limit.cancel()
        if isinstance(result, ImageError):
            raise result
        return cast(UploadedImage, result)

    def close(self) -> None:
        """End the process, even while it reads."""
        self._closed = True
        self._restart()

    def _restart(self) -> None:
        self._process.kill()
        self._process.communicate()
        if not self._closed:
            self._start()

    def _start(self) -> None:
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); "
        code += f"from {__name__} import serve; serve()"
        # -P: nothing is imported from the folder where the demo was started.
        command = [sys.executable, "-P", "-c", code]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._ready = False


def serve() -> None:
    """Read images from standard input until it ends, at the latest with the demo."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the demo handles Ctrl+C
    given, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a decoder prints
    alarm = getattr(signal, "alarm", lambda seconds: None)  # Windows has none
    result: object = True
    with suppress(BrokenPipeError, EOFError):  # the demo ended
        while True:
            alarm(0)
            pickle.dump(result, answers)
            answers.flush()
            content, white_level = pickle.load(given)
            alarm(2 * math.ceil(READ_SECONDS))  # in case the demo is killed meanwhile
            try:
                result = read_upload(content, white_level)
            except ImageError as error:
                result = error
            except BaseException:  # a decoder that panics or runs out of memory
                result = ImageError(DAMAGED)
