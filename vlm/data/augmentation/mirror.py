"""A mirror: left and right change places in the image, in what is asked and in what is answered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from vlm.core.features import Features
from vlm.core.validation import check_probability
from vlm.data.augmentation.meaning import EXCHANGED, Language, exchange
from vlm.datasets.errors import DataError
from vlm.image.as_text import is_picture, picture_of, picture_text


@dataclass(frozen=True)
class Mirror:
    """Mirrors images, and with each image all its questions, choices and answers.

    Pixels are mirrored left to right, and boxes of regions move to the other side. In texts, "left"
    and "right" are exchanged wherever they occur, even in "How many are left?". Text in a mirrored
    image is unreadable, so do not mirror if questions ask about such text (TextVQA).

    Args:
        probability: share of the images that are mirrored in an epoch, in (0, 1].
        words: language of the texts, "en", "de" or "es"; or, for another language, each word with
            its opposite, such as {"gauche": "droite", "droite": "gauche"}.

    Raises:
        ValueError: a probability outside (0, 1], an unknown language, or words that are not each
            other's opposites.

    Example:
        >>> mirror = vlm.data.augmentation.Mirror()
        >>> mirror.text("Is it left of the cup?")
        'Is it right of the cup?'
        >>> mirror.completed(["left", "red"])
        ['left', 'red', 'right']
    """

    probability: float = 0.5
    words: Language | dict[str, str] = "en"

    def __post_init__(self) -> None:
        check_probability(**{"mirror.probability": self.probability})
        known = get_args(Language)
        if isinstance(self.words, str) and self.words not in known:
            raise ValueError(
                f"mirror.words: got {self.words!r}; expected one of {', '.join(known)}, or for "
                "another language a dictionary of each word's opposite."
            )
        for word, other in self.opposite.items():
            if self.opposite.get(other) != word or word != word.lower():
                raise ValueError(
                    f"mirror.words: got {word!r} with the opposite {other!r}; expected lower case, "
                    f"and {other!r} with the opposite {word!r} too."
                )

    @property
    def opposite(self) -> Mapping[str, str]:
        """Each word for left or right with its opposite."""
        return EXCHANGED[self.words] if isinstance(self.words, str) else self.words

    def text(self, text: str) -> str:
        """A question, choice or answer about the mirrored image; a drawn answer is mirrored too."""
        if is_picture(text):
            return picture_text(np.asarray(picture_of(text))[:, ::-1])
        return exchange(text, self.opposite)

    def completed(self, texts: Sequence[str]) -> list[str]:
        """Words or answers, and at the end those that mirroring adds."""
        return list(dict.fromkeys([*texts, *map(self.text, texts)]))

    def check(self, words: Iterable[str], answers: Sequence[str]) -> None:
        """Check that the data's texts can be mirrored.

        Args:
            words: lower-case words of the questions and answers.
            answers: the head's vocabulary; empty where it has none.

        Raises:
            DataError: texts of another language, or an answer without its opposite.
        """
        used = set(words)
        others = [language for language, table in EXCHANGED.items() if used & table.keys()]
        if others and not used & self.opposite.keys():
            found = sorted(used & EXCHANGED[others[0]].keys())
            raise DataError(
                f"data.augment.mirror.words: got {self.words!r}, of which no word is in the "
                f"questions or answers, but {', '.join(map(repr, found))} of {others[0]!r} are; "
                f"expected data.augment.mirror.words={others[0]}."
            )
        known = set(answers)
        if missing := [text for text in answers if self.text(text) not in known]:
            raise DataError(
                f"data.augment.mirror: the answer {missing[0]!r} becomes "
                f"{self.text(missing[0])!r} in a mirrored image, which the head's vocabulary lacks "
                f"({len(missing):,} of {len(answers):,} answers). Build the head with the data "
                "module's `answers`, or leave the mirror out."
            )

    def images(self, images: Tensor | Features, chosen: Sequence[bool]) -> Tensor | Features:
        """A batch with the chosen images mirrored.

        Args:
            images: (U, C, H, W), or features of U images' regions with boxes.
            chosen: U values.
        """
        rows = torch.tensor(chosen, dtype=torch.bool)
        if isinstance(images, Tensor):
            return torch.where(rows[:, None, None, None], images.flip(-1), images)
        assert images.boxes is not None
        x0, y0, x1, y1 = images.boxes.unbind(-1)
        mirrored = torch.stack([1 - x1, y0, 1 - x0, y1], -1)
        rows = rows[:, None, None] & images.mask[..., None]
        return images._replace(boxes=torch.where(rows, mirrored, images.boxes))
