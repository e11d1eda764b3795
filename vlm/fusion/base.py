"""The two levels of fusion: a merge joins two vectors, a fusion joins two sets of features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from vlm.core.compat import tree_leaves, tree_map_only
from vlm.core.features import Features, FeaturesLike, as_features
from vlm.core.part import Part
from vlm.core.together import together
from vlm.core.validation import check_positive
from vlm.fusion.attention import is_watched


class Merge(Part, ABC):
    """Base of the merges, two vectors in, one out: (..., x_dim), (..., y_dim) -> (..., out_dim).

    Leading dimensions broadcast, so one question merges with every patch without being copied. In a
    fusion, x is the image and y the question: `prepare` runs once on x for all questions about an
    image, and `merge` reads its result.

    Attributes:
        x_dim, y_dim: widths of the inputs.
        out_dim: width of the output.

    Example:
        >>> class Difference(vlm.fusion.Merge):
        ...     def __init__(self, x_dim, y_dim, out_dim=256):
        ...         super().__init__(x_dim, y_dim, out_dim)
        ...         self.x = torch.nn.Linear(x_dim, out_dim)
        ...         self.y = torch.nn.Linear(y_dim, out_dim)
        ...     def prepare(self, x):
        ...         return self.x(x)
        ...     def merge(self, x, y):
        ...         return x - self.y(y)
        >>> Difference(64, 32)(torch.randn(2, 49, 64), torch.randn(2, 1, 32)).shape
        torch.Size([2, 49, 256])
    """

    def __init__(self, x_dim: int, y_dim: int, out_dim: int) -> None:
        super().__init__()
        check_positive(x_dim=x_dim, y_dim=y_dim, out_dim=out_dim)
        self.x_dim, self.y_dim, self.out_dim = x_dim, y_dim, out_dim

    def prepare(self, x: Tensor) -> Any:
        """Compute everything that depends only on x (..., x_dim); by default, x itself.

        Returns:
            A tensor, or a list or tuple of tensors, with the leading dimensions of x.
        """
        return x

    @abstractmethod
    def merge(self, x: Any, y: Tensor) -> Tensor:
        """The result of `prepare` for x (..., x_dim), and y (..., y_dim) -> (..., out_dim)."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Check the widths, then merge.

        Raises:
            ValueError: a last dimension of x or y other than the width for which the merge was
                built.
        """
        for name, value, dim in (("x", x, self.x_dim), ("y", y, self.y_dim)):
            if value.shape[-1] != dim:
                raise ValueError(
                    f"{name}: got width {value.shape[-1]} (shape {tuple(value.shape)}); expected "
                    f"{dim}, the {name}_dim this {type(self).__name__} was built with."
                )
        return self.merge(self.prepare(x), y)

    if TYPE_CHECKING:
        __call__ = forward


MergeFactory = Callable[[int, int], Merge]
"""A merge without its widths, which the fusion sets: a class or a partial of one."""


def sized(merge: MergeFactory, x_dim: int, y_dim: int, out_dim: int) -> Merge:
    """A merge whose width out the fusion sets too; every merge takes `out_dim`."""
    # jsonargparse fills in such a factory only if its type names the two widths and no more.
    make = cast(Callable[..., Merge], merge)
    return make(x_dim, y_dim, out_dim=out_dim)


@dataclass(frozen=True)
class Kept:
    """Images that a fusion has prepared (`Fusion.keep`).

    Attributes:
        fusion: the fusion, which alone can read them.
        prepared: what its `prepare` made of them.
        images: their number; lists of images count as one each.
        device: where they are.
    """

    fusion: Fusion
    prepared: Any
    images: int
    device: torch.device


class Fusion(Part, ABC):
    """Base of the fusions: image features and question features in, joint features out.

    A classifier reads `pooled` (B, out_dim) of the result. `tokens` are words, patches, both, or
    one token. Both are words, then patches (with `patches_first`: patches, then words), with the
    masks concatenated.
    Values in the padding, the order of the batch and its size never change a row.

    Several questions may share an image. A fusion puts all work on images alone into `prepare`,
    which runs once for each image; its tensors are then gathered to the questions for `fuse`. A
    question may be about several images (`take_images`): `prepare` and `fuse` then get the tokens
    of all of them as those of one image.

    Attributes:
        image_dim, text_dim: widths of the inputs.
        out_dim: width of the output.
        patches_first: True for a class whose tokens are patches, then words.
        needs_boxes: True for a fusion that requires `image.boxes`.
        lr_factor: learning rate of the fusion as a multiple of that of the encoders, unless
            `vlm.training.PartTuning.lr_scale` sets it. Deep attention learns only at rates at which
            convolutions from scratch are slow (docs/choosing_a_fusion.md).
        max_images: largest number of images of a question.
        image_numbers: (2, max_images, image_dim), the learned gain and shift of the n-th image of a
            question; None if each question has one image.

    Example:
        >>> class Gated(vlm.fusion.Fusion):
        ...     def __init__(self, image_dim, text_dim, out_dim=128):
        ...         super().__init__(image_dim, text_dim, out_dim)
        ...         self.patches = torch.nn.Linear(image_dim, out_dim)
        ...         self.gate = torch.nn.Linear(text_dim, out_dim)
        ...     def prepare(self, image):
        ...         return self.patches(image.zero_padding().tokens), image.mask
        ...     def fuse(self, prepared, text):
        ...         patches, mask = prepared
        ...         gate = self.gate(text.pooled).sigmoid()[:, None]
        ...         return vlm.Features(patches * gate, mask)
        >>> Gated(64, 32)(torch.randn(2, 49, 64), torch.randn(2, 7, 32))
        Features(2 x 49 x 128, 49 real)
    """

    patches_first: ClassVar[bool] = False
    needs_boxes: bool = False
    lr_factor: ClassVar[float] = 1.0
    max_images: int = 1
    image_numbers: nn.Parameter | None

    def __init__(self, image_dim: int, text_dim: int, out_dim: int) -> None:
        super().__init__()
        check_positive(image_dim=image_dim, text_dim=text_dim, out_dim=out_dim)
        self.image_dim, self.text_dim, self.out_dim = image_dim, text_dim, out_dim
        self.register_parameter("image_numbers", None)

    def take_images(self, most: int) -> None:
        """Let the fusion take up to `most` images for a question, in place; at first, the number of
        an image changes nothing.

        Each token x of the n-th image becomes x * (1 + gain_n) + shift_n, and so does `pooled`,
        which is then averaged over the images. Without the gain, a fusion that reads only `pooled`
        would not see their order. Gain and shift are zero at first. Boxes become those in a row of
        `most` images, so a fusion that reads places (`FiLM`, `MuRel`, `RelationNetwork`) changes at
        once.

        Raises:
            ValueError: `most` is not a whole number above 1.

        Example:
            >>> fusion = vlm.fusion.CrossAttention(image_dim=64, text_dim=32)
            >>> fusion.take_images(2)
            >>> images, questions = torch.randn(3, 49, 64), torch.randn(2, 7, 32)
            >>> fusion(images, questions, image_lists=torch.tensor([[0, 1], [2, -1]]))
            Features(2 x 105 x 128, 56-105 real)
        """
        if isinstance(most, bool) or not isinstance(most, int) or most < 2:
            raise ValueError(f"max_images: got {most!r:.80}; expected a whole number above 1.")
        self.max_images = most
        like = next(self.parameters(), torch.zeros(()))  # it may be on a GPU already
        self.image_numbers = nn.Parameter(
            torch.zeros(2, most, self.image_dim, dtype=like.dtype, device=like.device)
        )

    def train_new(self) -> None:
        if self.image_numbers is not None:
            self.image_numbers.requires_grad_(True)

    def prepare(self, image: Features) -> Any:
        """Compute everything that the fusion needs of the images and that does not depend on the
        questions.

        By default, these are the features themselves. Dropout in here is drawn once for an image,
        whatever the number of its questions. Wrappers that replace a module's `forward`, such as
        FSDP2's, must wrap the whole fusion, because `prepare` reads its layers in parts.

        Returns:
            A tensor, or tensors in tuples, lists or `Features`, with one row for each image.
        """
        return image

    @abstractmethod
    def fuse(self, prepared: Any, text: Features) -> Features:
        """The operator itself, on the result of `prepare` for the image of each question."""

    def keep(
        self,
        image: FeaturesLike,
        image_mask: Tensor | None = None,
        image_lists: Tensor | None = None,
    ) -> Kept:
        """Prepare images once, for any number of later calls with questions about them.

        Args:
            image, image_mask, image_lists: images with their masks and lists, as for `forward`.

        Returns:
            Prepared images, which `forward` takes as its `image`.

        Raises:
            ValueError: as `forward` does.

        Example:
            >>> fusion = vlm.fusion.CrossAttention(image_dim=64, text_dim=32)
            >>> kept = fusion.keep(torch.randn(1, 49, 64))
            >>> fusion(kept, torch.randn(3, 7, 32), image_index=torch.zeros(3, dtype=torch.long))
            Features(3 x 56 x 128, 56 real)
        """
        image = self._checked(image, "image", self.image_dim, image_mask)
        return self._kept(self._together(image, image_lists))

    def _together(self, image: Features, lists: Tensor | None) -> Features:
        """Lists of images as one image each; of a fusion that takes several, a single image too."""
        if lists is None and self.image_numbers is None:
            return image
        if lists is None:
            lists = torch.arange(image.tokens.shape[0], device=image.tokens.device)[:, None]
        if not _is_index(lists) or lists.ndim != 2 or lists.shape[1] > self.max_images:
            raise ValueError(
                f"image_lists: got {_form(lists)}; expected "
                f"torch.int64 of shape (E, K), with K at most {self.max_images}, the most images "
                f"of a question that this {type(self).__name__} takes (`take_images`)."
            )
        return together(image, lists, self.image_numbers)

    def _kept(self, features: Features) -> Kept:
        if self.needs_boxes and features.boxes is None:
            raise ValueError(
                f"image.boxes: got None; expected boxes (B, N, 4), which this "
                f"{type(self).__name__} needs to count objects. Take an image encoder that gives "
                f"them, or no counter."
            )
        images, device = features.tokens.shape[0], features.tokens.device
        prepared = self.prepare(features)
        for made in tree_leaves(prepared):
            if made is not None and not (isinstance(made, Tensor) and made.shape[0] == images):
                got = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
                raise TypeError(
                    f"{type(self).__name__}.prepare: returned {got}; expected tensors with "
                    f"{images} rows, one for each image, in tuples, lists or `Features`."
                )
        return Kept(self, prepared, images, device)

    def forward(
        self,
        image: FeaturesLike | Kept,
        text: FeaturesLike,
        image_mask: Tensor | None = None,
        text_mask: Tensor | None = None,
        image_index: Tensor | None = None,
        image_lists: Tensor | None = None,
    ) -> Features:
        """Check the arguments, then fuse.

        Args:
            image: features, a tensor of pooled vectors (B, D) or of tokens (B, N, D), a pair
                `(tokens, mask)`, an output of transformers with a `last_hidden_state`, or the
                result of `keep` for any of these. Without a pooled vector, it is the mean of the
                real tokens.
            text: features of the questions, in any of these forms except that of `keep`.
            image_mask: (B, N) mask for image tokens that have none: bool or integers, True or 1 for
                a real token. Without it, all are real.
            text_mask: (B, L) mask for question tokens that have none, such as an `attention_mask`.
            image_index: (B,) int64, the row of `image` that each question is about; without it,
                `image` has one row for each question.
            image_lists: (E, K) int64, rows of `image` that are seen together, in order, with -1
                after their end; `image_index` then refers to rows of `image_lists`. Not possible
                with images of `keep`.

        Raises:
            ValueError: widths, batch sizes, devices, masks or dimensions that do not fit, a mask
                for features that already have one, missing boxes, images that another fusion
                prepared, or a result of another width than `out_dim`.
            TypeError: a `prepare` whose result has no row for each image, or a `fuse` that returns
                no features.
        """
        text = self._checked(text, "text", self.text_dim, text_mask)
        questions, device = text.tokens.shape[0], text.tokens.device
        if image_index is not None and (
            not _is_index(image_index) or image_index.shape != (questions,)
        ):
            raise ValueError(
                f"image_index: got {_form(image_index)}; expected torch.int64 of shape "
                f"({questions},), an image row for each question."
            )
        if isinstance(image, Kept):
            if image.fusion is not self or image_mask is not None or image_lists is not None:
                raise ValueError(
                    f"image: got images that {type(image.fusion).__name__} keeps; expected images "
                    f"from `keep` of this fusion, and no image_mask or image_lists beside them, "
                    f"which `keep` has taken already."
                )
            kept = image
        else:
            image = self._checked(image, "image", self.image_dim, image_mask)
            image = self._together(image, image_lists)
            if image_index is not None and is_watched():  # a map has a row for each question
                image, image_index = image.take(image_index), None
            kept = self._kept(image)
        if kept.device != device:
            raise ValueError(
                f"image and text: got devices {kept.device} and {device}; expected one device. "
                f"Move one with `.to(device)`."
            )
        if image_index is None:
            if kept.images != questions:
                raise ValueError(
                    f"image and text: got batches of {kept.images} and {questions}; expected one "
                    f"image row for each question. Give `image_index` for shared images."
                )
            return self._fused(kept.prepared, text)
        gathered = tree_map_only(Tensor, lambda rows: rows[image_index], kept.prepared)
        return self._fused(gathered, text)

    if TYPE_CHECKING:
        __call__ = forward

    def _fused(self, prepared: Any, text: Features) -> Features:
        fused: Any = self.fuse(prepared, text)
        name = f"{type(self).__name__}.fuse"
        if not isinstance(fused, Features):
            raise TypeError(
                f"{name}: returned {type(fused).__name__}; expected vlm.Features. A joint vector "
                "(B, out_dim) becomes some by `vlm.Features(vector[:, None])`."
            )
        if (width := fused.pooled.shape[-1]) != self.out_dim:
            raise ValueError(
                f"{name}: returned a pooled vector of width {width}; expected {self.out_dim}, the "
                "out_dim that `super().__init__` got."
            )
        return fused

    def _checked(self, value: FeaturesLike, name: str, dim: int, mask: Tensor | None) -> Features:
        features = as_features(value, name, mask)
        if (width := features.tokens.shape[-1]) != dim:
            raise ValueError(
                f"{name}: got width {width}; expected {dim}, the {name}_dim this "
                f"{type(self).__name__} was built with."
            )
        return features


def _is_index(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.int64


def _form(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{value.dtype} of shape {tuple(value.shape)}"
