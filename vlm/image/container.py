"""Strip image files of the parts that their pixels do not need.

Pillow parses comments, profiles and thumbnails as it opens a file: it fails if they are damaged,
and takes time that grows with the square of their number. Its own switches are global to all
threads.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

JPEG_END = b"\xff\xd9"
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_MARKER = re.compile(rb"\xff+([\x02-\xcf\xd9-\xfe])")
"""Of a JPEG, where a length follows; the others stand within pixels."""


def pixels_only(content: bytes) -> bytes | None:
    """The same image without comments, profiles and other parts that its pixels do not need.

    EXIF stays for the orientation, and its reader checks it. None for a format without such parts.
    """
    try:
        if content.startswith(_PNG):
            return _PNG + b"".join(_png(content))
        if content.startswith(_JPEG):
            return _JPEG + b"".join(_jpeg(content))
        if content.startswith(b"GIF8"):
            return b"".join(_gif(content))
        if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
            return _webp(content)
        if content[:4] in (b"II*\0", b"MM\0*"):
            return _tiff(content)
    except (IndexError, struct.error):  # a truncated file
        pass
    return None


def _png(content: bytes) -> Iterator[bytes]:
    place = len(_PNG)
    while place < len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4])
        name = content[place + 4 : place + 8]
        needed = name[:1].isupper()  # marks what a decoder must understand
        if name in (b"tRNS", b"eXIf", b"acTL"):
            chunk = content[place + 4 : end - 4]
            sound = content[end - 4 : end] == zlib.crc32(chunk).to_bytes(4)
            needed = sound and (name != b"acTL" or len(chunk) == 12)
        if needed:
            yield content[place:end]
        place = end


def _jpeg(content: bytes) -> Iterator[bytes]:
    place, exif = len(_JPEG), False
    while (place := content.find(b"\xff", place)) >= 0:
        while content[place] == 0xFF:  # any number of them may fill the space before a marker
            place += 1
        marker = content[place]
        if marker == 0xDA:  # the scan, and all that follows
            yield b"\xff" + content[place:]
            return
        if marker in (0x00, 0x01, *range(0xD0, 0xD9)):  # of no length
            continue
        length = int.from_bytes(content[place + 1 : place + 3])
        segment = content[place + 1 : place + 1 + length]
        # Segments that say how colours are stored are needed, if they have their full length.
        if marker in (0xE0, 0xEE):
            needed = (segment[2:6] == b"JFIF" and length > 15) or (
                segment[2:7] == b"Adobe" and length > 13
            )
        else:
            needed = not (marker == 0xFE or marker & 0xF0 == 0xE0)
            if segment[2:8] == b"Exif\0\0":
                needed, exif = not exif, True
        if needed:
            yield bytes((0xFF, marker)) + segment
        place += 1 + length


def jpeg_scans(content: bytes) -> int:
    """How often a JPEG's decoder goes over the pixels. Phones put videos behind a JPEG's end."""
    place, scans = len(_JPEG), 0
    while (found := _MARKER.search(content, place)) and found[1] != JPEG_END[1:]:
        scans += found[1] == b"\xda"
        place = found.end() + int.from_bytes(content[found.end() : found.end() + 2])
    return scans


def _gif(content: bytes) -> Iterator[bytes]:
    place = 13 + _colours(content[10])
    yield content[:place]
    while place < len(content):
        start, block = place, content[place]
        if block == 0x21:  # an extension: needed are the times and transparent colours of frames
            place += 2
        elif block == 0x2C:  # a frame, its colours, and the width of its codes
            place += 11 + _colours(content[place + 9])
        else:
            yield content[place:]
            return
        while length := content[place]:
            place += 1 + length
        place += 1
        if block == 0x2C or content[start + 1 : start + 3] == b"\xf9\4":
            yield content[start:place]


def _colours(flags: int) -> int:
    """Bytes of a table of colours."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _webp(content: bytes) -> bytes:
    chunks, place = [], 12
    while place + 8 <= len(content):
        name, length = struct.unpack_from("<4sI", content, place)
        end = place + 8 + length + length % 2
        chunk = content[place:end]
        if name == b"VP8X":  # its flags announce a profile and XMP, too
            chunk = chunk[:8] + bytes((chunk[8] & 0b11010,)) + chunk[9:]
        if name in (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF") or (
            name == b"EXIF" and length and end <= len(content)
        ):
            chunks.append(chunk)
        place = end
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _tiff(content: bytes) -> bytes:
    """Without the tags of the first image whose values lie outside the file."""
    order = "<" if content[:1] == b"I" else ">"
    (start,) = struct.unpack_from(order + "I", content, 4)
    (count,) = struct.unpack_from(order + "H", content, start)
    size = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
    entries = []
    for place in range(start + 2, start + 2 + 12 * count, 12):
        _, kind, number, offset = struct.unpack_from(order + "HHII", content, place)
        length = size.get(kind, len(content)) * number
        if length <= 4 or offset + length <= len(content):
            entries.append(content[place : place + 12])
    end = start + 2 + 12 * count
    following = content[end : end + 4]
    table = struct.pack(order + "H", len(entries)) + b"".join(entries) + following
    return content[:start] + table + content[start + len(table) :]
