"""Fusion of the two pooled vectors by any merge."""

from __future__ import annotations

from typing import Any

from vlm.core.features import Features, one_token
from vlm.core.validation import check_positive
from vlm.fusion.base import Fusion, MergeFactory
from vlm.fusion.merges import Product


class Pooled(Fusion):
    """Merge the two pooled vectors; the result is one token.

        Pooled(512, 64)                                         # elementwise product
        Pooled(512, 64, merge=partial(ConcatMLP, out_dim=128))

    Args:
        image_dim, text_dim: widths of the inputs.
        merge: class or partial that makes the merge from (image_dim, text_dim).

    Example:
        >>> from functools import partial
        >>> merge = partial(vlm.fusion.MLB, out_dim=48)
        >>> fusion = vlm.fusion.Pooled(image_dim=64, text_dim=32, merge=merge)
        >>> fusion(torch.randn(2, 49, 64), torch.randn(2, 7, 32))
        Features(2 x 1 x 48, 1 real)
    """

    def __init__(self, image_dim: int, text_dim: int, merge: MergeFactory = Product) -> None:
        check_positive(image_dim=image_dim, text_dim=text_dim)
        made = merge(image_dim, text_dim)
        super().__init__(image_dim, text_dim, made.out_dim)
        self.merge = made

    def prepare(self, image: Features) -> Any:
        return self.merge.prepare(image.pooled)

    def fuse(self, image: Any, text: Features) -> Features:
        return one_token(self.merge.merge(image, text.pooled))
