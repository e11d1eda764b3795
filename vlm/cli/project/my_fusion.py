"""A fusion of your own: `prepare` sees the image alone, `fuse` brings in the question."""

from __future__ import annotations

import torch
from torch import Tensor

import vlm


class MyFusion(vlm.fusion.Fusion):
    """The words shift the patches, and the largest of each channel is the joint vector.

    Args:
        image_dim: width of the image's tokens, which the command line fills in.
        text_dim: width of the question's tokens, which the command line fills in.
        out_dim: width of the result.
    """

    def __init__(self, image_dim: int, text_dim: int, out_dim: int = 64) -> None:
        super().__init__(image_dim, text_dim, out_dim)
        self.patches = torch.nn.Linear(image_dim, out_dim)
        self.shift = torch.nn.Linear(text_dim, out_dim)

    def prepare(self, image: vlm.Features) -> tuple[Tensor, Tensor]:
        return self.patches(image.zero_padding().tokens), image.mask

    def fuse(self, prepared: tuple[Tensor, Tensor], text: vlm.Features) -> vlm.Features:
        patches, mask = prepared
        joint = (patches + self.shift(text.pooled)[:, None]).relu()
        return vlm.Features(joint, mask, vlm.masked_max(joint, mask))
