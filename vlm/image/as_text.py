"""A picture as a text, so that an answer may be one: a data URL (RFC 2397) of its PNG.

Nothing here needs torch.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from io import BytesIO

import numpy as np
from PIL import Image

PICTURE = "data:image/png;base64,"
"""What the text of a picture starts with, and no other answer."""


def picture_text(pixels: np.ndarray) -> str:
    """The text of a picture (H, W, 3) uint8, for data whose answers are pictures.

    Example:
        >>> import numpy as np
        >>> vlm.image.picture_text(np.zeros((2, 2, 3), np.uint8))[:22]
        'data:image/png;base64,'
    """
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return PICTURE + b64encode(buffer.getvalue()).decode()


def is_picture(text: str) -> bool:
    """Whether an answer is a picture.

    >>> is_picture("red"), is_picture(picture_text(np.zeros((2, 2, 3), np.uint8)))
    (False, True)
    """
    return text.startswith(PICTURE)


def in_words(answer: str) -> str:
    """An answer for people to read: "a picture" for one.

    >>> in_words("red"), in_words(PICTURE)
    ('red', 'a picture')
    """
    return "a picture" if is_picture(answer) else answer


def picture_of(text: str) -> Image.Image:
    """The picture of a text that `is_picture`, in RGB.

    Raises:
        ValueError: the text holds no PNG.
    """
    from vlm.image.load import load_image

    try:
        content = b64decode(text.removeprefix(PICTURE), validate=True)
        if not content.startswith(b"\x89PNG"):
            raise ValueError("no PNG")
        return load_image(content)
    except ValueError as error:
        raise ValueError(f"picture: got {text[:60]!r} ...; expected a PNG in base64.") from error
