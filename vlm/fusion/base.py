"""The two levels of fusion: a merge joins two vectors, a fusion joins two sets of features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, cast

from torch import Tensor

from vlm.core.features import Features, FeaturesLike, as_features
from vlm.core.part import Part
from vlm.core.validation import check_positive


class Merge(Part, ABC):
    """Two vectors in, one out: (..., x_dim), (..., y_dim) -> (..., out_dim).

    Leading dimensions broadcast, so one question merges with every patch without being copied.
    Inside a fusion x is the image and y the question.

    Attributes:
        x_dim, y_dim: widths of the inputs.
        out_dim: width of the output.

    Example:
        >>> class Difference(vlm.fusion.Merge):
        ...     def __init__(self, x_dim, y_dim, out_dim=256):
        ...         super().__init__(x_dim, y_dim, out_dim)
        ...         self.x = torch.nn.Linear(x_dim, out_dim)
        ...         self.y = torch.nn.Linear(y_dim, out_dim)
        ...     def merge(self, x, y):
        ...         return self.x(x) - self.y(y)
        >>> Difference(64, 32)(torch.randn(2, 49, 64), torch.randn(2, 1, 32)).shape
        torch.Size([2, 49, 256])
    """

    def __init__(self, x_dim: int, y_dim: int, out_dim: int) -> None:
        super().__init__()
        check_positive(x_dim=x_dim, y_dim=y_dim, out_dim=out_dim)
        self.x_dim, self.y_dim, self.out_dim = x_dim, y_dim, out_dim

    @abstractmethod
    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        """(..., x_dim), (..., y_dim) -> (..., out_dim)."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Check the widths, then merge.

        Raises:
            ValueError: the last dimension of x or y is not the width this was built for.
        """
        for name, value, dim in (("x", x, self.x_dim), ("y", y, self.y_dim)):
            if value.shape[-1] != dim:
                raise ValueError(
                    f"{name}: got width {value.shape[-1]} (shape {tuple(value.shape)}); expected "
                    f"{dim}, the {name}_dim this {type(self).__name__} was built with."
                )
        return self.merge(x, y)

    if TYPE_CHECKING:
        __call__ = forward


MergeFactory = Callable[[int, int], Merge]
"""A merge without its widths, which the fusion sets: a class or a partial of one."""


def sized(merge: MergeFactory, x_dim: int, y_dim: int, out_dim: int) -> Merge:
    """A merge whose width out the fusion sets too; every merge takes `out_dim`."""
    # jsonargparse fills in such a factory only if its type names the two widths and no more.
    make = cast(Callable[..., Merge], merge)
    return make(x_dim, y_dim, out_dim=out_dim)


class Fusion(Part, ABC):
    """Image features and question features in, joint features out.

    `pooled` (B, out_dim) of the result is what a classifier reads; `tokens` are words, then
    patches where the fusion keeps them (`patches_first`: patches, then words), with the masks
    concatenated. Junk in the padding, the order of the batch and its size never change a row.

    Attributes:
        image_dim, text_dim: widths of the inputs.
        out_dim: width of the output.
        patches_first: True for a class whose tokens are patches, then words.
        needs_boxes: True for a fusion that requires `image.boxes`.

    Example:
        >>> class Gated(vlm.fusion.Fusion):
        ...     def __init__(self, image_dim, text_dim, out_dim=128):
        ...         super().__init__(image_dim, text_dim, out_dim)
        ...         self.patches = torch.nn.Linear(image_dim, out_dim)
        ...         self.gate = torch.nn.Linear(text_dim, out_dim)
        ...     def fuse(self, image, text):
        ...         patches = self.patches(image.zero_padding().tokens)
        ...         gate = self.gate(text.pooled).sigmoid()[:, None]
        ...         return vlm.Features(patches * gate, image.mask)
        >>> Gated(64, 32)(torch.randn(2, 49, 64), torch.randn(2, 7, 32))
        Features(2 x 49 x 128, 49 real)
    """

    patches_first: ClassVar[bool] = False
    needs_boxes: bool = False

    def __init__(self, image_dim: int, text_dim: int, out_dim: int) -> None:
        super().__init__()
        check_positive(image_dim=image_dim, text_dim=text_dim, out_dim=out_dim)
        self.image_dim, self.text_dim, self.out_dim = image_dim, text_dim, out_dim

    @abstractmethod
    def fuse(self, image: Features, text: Features) -> Features:
        """The operator itself, on checked input."""

    def forward(
        self,
        image: FeaturesLike,
        text: FeaturesLike,
        image_mask: Tensor | None = None,
        text_mask: Tensor | None = None,
    ) -> Features:
        """Check what is given, then fuse.

        Args:
            image: features; or a tensor of pooled vectors (B, D) or of tokens (B, N, D), a pair
                `(tokens, mask)`, or an output of transformers, of which `last_hidden_state` is
                read. Without a pooled vector, that is the mean of the real tokens.
            text: features of the questions, in any of these forms.
            image_mask: (B, N) of image tokens without a mask: bool, or integers, where True or 1
                is a real token. Left out, all are real.
            text_mask: (B, L) of question tokens without a mask, such as an `attention_mask`.

        Raises:
            ValueError: widths, batch sizes, devices, masks or dimensions that do not fit, a mask
                beside features that have one, or boxes that are needed and missing.
        """
        image = as_features(image, "image", image_mask)
        text = as_features(text, "text", text_mask)
        for name, value, dim in (("image", image, self.image_dim), ("text", text, self.text_dim)):
            if value.tokens.shape[-1] != dim:
                raise ValueError(
                    f"{name}: got width {value.tokens.shape[-1]}; expected {dim}, the {name}_dim "
                    f"this {type(self).__name__} was built with."
                )
        if image.tokens.shape[0] != text.tokens.shape[0]:
            raise ValueError(
                f"image and text: got batches of {image.tokens.shape[0]} and "
                f"{text.tokens.shape[0]}; expected one image row for each question. Gather shared "
                f"images with `image.take(image_index)`."
            )
        if image.tokens.device != text.tokens.device:
            raise ValueError(
                f"image and text: got devices {image.tokens.device} and {text.tokens.device}; "
                f"expected one device. Move one with `.to(device)`."
            )
        if self.needs_boxes and image.boxes is None:
            raise ValueError(
                f"image.boxes: got None; expected boxes (B, N, 4), which this "
                f"{type(self).__name__} needs to count objects. Take an image encoder that gives "
                f"them, or no counter."
            )
        return self.fuse(image, text)

    if TYPE_CHECKING:
        __call__ = forward
