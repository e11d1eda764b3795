"""Image files without the parts that their pixels do not need.

Pillow parses comments, profiles and thumbnails as it opens a file, and fails with them. Its own
switches for this are globals, which every thread would see.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

JPEG_END = b"\xff\xd9"
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"


def pixels_only(content: bytes) -> bytes | None:
    """The same image without comments, profiles and whatever else its pixels do not need.

    EXIF stays, for the orientation, and is checked by whoever reads it.

    Args:
        content: of a file, however damaged.

    Returns:
        Content of the same format; None for a format without such parts.
    """
    try:
        if content.startswith(_PNG):
            return _PNG + b"".join(_png(content))
        if content.startswith(_JPEG):
            return _JPEG + b"".join(_jpeg(content))
        if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
            return _webp(content)
        if content[:4] in (b"II*\0", b"MM\0*"):
            return _tiff(content)
    except (IndexError, struct.error):  # it ends in the middle
        pass
    return None


def _png(content: bytes) -> Iterator[bytes]:
    place = len(_PNG)
    while place < len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4])
        name, chunk = content[place + 4 : place + 8], content[place + 4 : end - 4]
        sound = content[end - 4 : end] == zlib.crc32(chunk).to_bytes(4)
        # An upper-case letter marks what a decoder must understand.
        if name[:1].isupper() or (name in (b"tRNS", b"eXIf") and sound):
            yield content[place:end]
        place = end


def _jpeg(content: bytes) -> Iterator[bytes]:
    place = len(_JPEG)
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
        # What says how colours are stored is needed, and has a length of its own.
        if marker in (0xE0, 0xEE):
            needed = (segment[2:6] == b"JFIF" and length > 15) or (
                segment[2:7] == b"Adobe" and length > 13
            )
        else:
            needed = segment[2:8] == b"Exif\0\0" or not (marker == 0xFE or marker & 0xF0 == 0xE0)
        if needed:
            yield bytes((0xFF, marker)) + segment
        place += 1 + length


def _webp(content: bytes) -> bytes:
    chunks, place = [], 12
    while place + 8 <= len(content):
        name, length = struct.unpack_from("<4sI", content, place)
        end = place + 8 + length + length % 2
        if name == b"VP8X":  # whether there are profile, EXIF and XMP; alpha and animation stay
            chunks.append(content[place : place + 8] + bytes((content[place + 8] & 0b10010,)))
            chunks.append(content[place + 9 : end])
        elif name in (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"):
            chunks.append(content[place:end])
        place = end
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _tiff(content: bytes) -> bytes:
    """Without the tags of the first picture whose values the file does not hold."""
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
    table = struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)
    return content[:start] + table + content[start + len(table) :]
