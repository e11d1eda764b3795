"""Random changes of the training data that know what is asked about them."""

from vlm.data.augmentation.images import (
    Crop,
    Erasing,
    ImageAugmentation,
    RandAugment,
    TrivialAugment,
)
from vlm.data.augmentation.mirror import Mirror
from vlm.data.augmentation.options import Augment
from vlm.data.augmentation.questions import DroppedWords, QuestionAugmentation, Typos

__all__ = [
    "Augment",
    "Crop",
    "DroppedWords",
    "Erasing",
    "ImageAugmentation",
    "Mirror",
    "QuestionAugmentation",
    "RandAugment",
    "TrivialAugment",
    "Typos",
]
