"""Augmentations of images, by torchvision's transforms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from functools import cached_property
from typing import Any

from torch import Tensor

from vlm.core.compat import leave_operations_out
from vlm.core.part import Configured
from vlm.core.validation import check_positive, check_probability
from vlm.data.augmentation.meaning import Meaning
from vlm.image.transform import GREY

COLOR_OPERATIONS = (
    "Brightness", "Color", "Contrast", "Posterize", "Solarize", "AutoContrast", "Equalize",
    "Invert",
)  # fmt: skip
"""Operations of torchvision's policies after which a color may go by another name."""


class ImageAugmentation(Configured, ABC):
    """Base of the random changes of training images that keep their questions and answers true.

    Attributes:
        changes: which of "color" and "direction" the augmentation changes. `Augment` refuses it for
            data whose questions or answers mention these.

    Example:
        >>> class Darker(vlm.data.augmentation.ImageAugmentation):
        ...     changes = ("color",)
        ...     def __call__(self, image):
        ...         return (image * torch.empty(1).uniform_(0.5, 1)).to(torch.uint8)
        >>> Darker()(torch.full((3, 8, 8), 200, dtype=torch.uint8)).shape
        torch.Size([3, 8, 8])
    """

    changes: tuple[Meaning, ...] = ()

    @abstractmethod
    def __call__(self, image: Tensor) -> Tensor:
        """An image (3, H, W) uint8, changed, of the same shape.

        Draws from torch's generator, which is set for each image before.
        """


class _Policy(ImageAugmentation):
    """An automatic augmentation of torchvision without some of its operations."""

    left_out: Collection[str]

    @abstractmethod
    def make(self) -> Any:
        """torchvision's own, with all operations."""

    @cached_property
    def transform(self) -> Callable[[Tensor], Tensor]:
        made: Callable[[Tensor], Tensor] = self.make()
        leave_operations_out(made, self.left_out)
        return made

    def __getstate__(self) -> dict[str, Any]:
        # Its operations are lambdas, which no spawned loader worker could be sent.
        return {name: value for name, value in self.__dict__.items() if name != "transform"}

    def __call__(self, image: Tensor) -> Tensor:
        return self.transform(image)


class RandAugment(_Policy):
    """Several operations of one strength, drawn for each image (Cubuk et al., arXiv 1909.13719).

    `torchvision.transforms.v2.RandAugment`: shears and translations to both axes, rotation by at
    most 30 degrees, brightness, color, contrast, sharpness, posterize, solarize, equalize. Color
    inversion and cutout are left out, as in ViLT (arXiv 2102.03334, section 4.1), which uses two
    operations of magnitude 9.

    Args:
        operations: number of operations, one after the other, at least 1.
        magnitude: strength of each operation, 0 to 30; at 9, a rotation is by 9 degrees.
        colors: whether to use the operations that change colors, which are all except the geometric
            ones and sharpness.

    Example:
        >>> augment = vlm.data.augmentation.RandAugment(colors=False)
        >>> augment(torch.zeros(3, 64, 64, dtype=torch.uint8)).shape, augment.changes
        (torch.Size([3, 64, 64]), ())
    """

    def __init__(self, operations: int = 2, magnitude: int = 9, colors: bool = True) -> None:
        check_positive(operations=operations)
        if not isinstance(magnitude, int) or not 0 <= magnitude <= 30:
            raise ValueError(f"magnitude: got {magnitude!r}; expected a whole number, 0 to 30.")
        self.operations, self.magnitude = operations, magnitude
        self.left_out = () if colors else COLOR_OPERATIONS
        self.changes = ("color",) if colors else ()

    def make(self) -> Any:
        from torchvision.transforms import v2

        return v2.RandAugment(self.operations, self.magnitude, fill=GREY)


class TrivialAugment(_Policy):
    """One operation of any strength, drawn for each image (Müller & Hutter, arXiv 2103.10158).

    `torchvision.transforms.v2.TrivialAugmentWide`: the operations of `RandAugment`, each up to a
    strength at which little is left of the image, so you need not choose a strength.

    Args:
        colors: whether to use the operations that change colors.
        rotations: whether to use rotations, here of up to 135 degrees, after which left may be
            right and above may be below.

    Example:
        >>> vlm.data.augmentation.TrivialAugment().changes
        ('color', 'direction')
        >>> vlm.data.augmentation.TrivialAugment(colors=False, rotations=False).changes
        ()
    """

    def __init__(self, colors: bool = True, rotations: bool = True) -> None:
        left_out = [] if colors else [*COLOR_OPERATIONS]
        self.left_out = left_out if rotations else [*left_out, "Rotate"]
        changes: list[Meaning] = ["color"] if colors else []
        self.changes = (*changes, "direction") if rotations else tuple(changes)

    def make(self) -> Any:
        from torchvision.transforms import v2

        return v2.TrivialAugmentWide(fill=GREY)


class Crop(ImageAugmentation):
    """A part of the image instead of the whole.

    `torchvision.transforms.v2.RandomResizedCrop`. A question may be about the part that is cut off,
    so the default keeps most of the image; for classification 0.08 is usual.

    Args:
        smallest: smallest share of the image's area that is kept, in (0, 1].
        stretch: largest factor between the shape of the part and that of the image, at least 1.

    Example:
        >>> crop = vlm.data.augmentation.Crop(smallest=0.5)
        >>> crop(torch.zeros(3, 64, 96, dtype=torch.uint8)).shape
        torch.Size([3, 64, 96])
    """

    def __init__(self, smallest: float = 0.8, stretch: float = 1.1) -> None:
        if not 0 < smallest <= 1:
            raise ValueError(f"smallest: got {smallest!r}; expected a share in (0, 1].")
        if not 1 <= stretch <= 10:
            raise ValueError(f"stretch: got {stretch!r}; expected a factor, 1 to 10.")
        self.smallest, self.stretch = smallest, stretch

    def __call__(self, image: Tensor) -> Tensor:
        from torchvision.transforms import v2

        height, width = image.shape[-2:]
        shape = width / height
        ratio = (shape / self.stretch, shape * self.stretch)
        crop: Callable[[Tensor], Tensor] = v2.RandomResizedCrop(
            (height, width), (self.smallest, 1.0), ratio
        )
        return crop(image)


class Erasing(ImageAugmentation):
    """A grey rectangle over a part of the image (Zhong et al., arXiv 1708.04896).

    `torchvision.transforms.v2.RandomErasing`. The rectangle may hide the object of a question.

    Args:
        probability: share of the images that get a rectangle, in (0, 1].
        largest: largest share of the image that the rectangle covers, in [0.02, 1).

    Example:
        >>> erase = vlm.data.augmentation.Erasing(probability=1.0)
        >>> bool((erase(torch.zeros(3, 64, 64, dtype=torch.uint8)) > 0).any())
        True
    """

    def __init__(self, probability: float = 0.25, largest: float = 0.2) -> None:
        from torchvision.transforms import v2

        check_probability(probability=probability)
        if not 0.02 <= largest < 1:
            raise ValueError(f"largest: got {largest!r}; expected a share in [0.02, 1).")
        self.transform = v2.RandomErasing(probability, (0.02, largest), value=GREY)

    def __call__(self, image: Tensor) -> Tensor:
        made: Tensor = self.transform(image)
        return made
