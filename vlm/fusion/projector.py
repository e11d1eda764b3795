"""Patches brought into the space of the words, and nothing more."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from vlm.core.features import Features, masked_max, masked_mean
from vlm.core.validation import check_positive
from vlm.fusion.base import Fusion


class Projector(Fusion):
    """LLaVA's connector: projected patches before the words, for a decoder to join.

        tokens = [MLP(patches), W words + b]
        pooled = mean(W words + b) * max(MLP(patches))

    One layer is the linear map of LLaVA (Liu et al. 2023, arXiv 2304.08485, equation 1), two with
    a GELU between them the perceptron of LLaVA-1.5 (arXiv 2310.03744, section 3.2). The papers
    leave joining both sides to the language model; `pooled`, for heads that read one vector, is
    the elementwise product of the mean word and the maximum over the patches.

    Args:
        image_dim, text_dim: widths of the inputs.
        out_dim: width of the hidden layers and of the result.
        num_layers: number of linear layers that the patches go through.
        bias: whether the layers of the patches have biases.

    Example:
        >>> fusion = vlm.fusion.Projector(image_dim=64, text_dim=32, out_dim=48)
        >>> fused = fusion(torch.randn(2, 49, 64), torch.randn(2, 7, 32))
        >>> fused, fused.pooled.shape
        (Features(2 x 56 x 48, 56 real), torch.Size([2, 48]))
    """

    patches_first: ClassVar[bool] = True

    def __init__(
        self,
        image_dim: int,
        text_dim: int,
        out_dim: int = 256,
        num_layers: int = 2,
        bias: bool = True,
    ) -> None:
        super().__init__(image_dim, text_dim, out_dim)
        check_positive(num_layers=num_layers)
        parts: list[nn.Module] = [nn.Linear(image_dim, out_dim, bias)]
        for _ in range(num_layers - 1):
            parts += [nn.GELU(), nn.Linear(out_dim, out_dim, bias)]
        self.image_projection = nn.Sequential(*parts)
        self.text_projection = nn.Linear(text_dim, out_dim)

    def prepare(self, image: Features) -> Features:
        patches = self.image_projection(image.zero_padding().tokens)  # (B, P, D)
        return Features(patches, image.mask, masked_max(patches, image.mask))

    def fuse(self, patches: Features, text: Features) -> Features:
        words = self.text_projection(text.zero_padding().tokens)  # (B, L, D)
        return Features(
            torch.cat((patches.tokens, words), 1),
            torch.cat((patches.mask, text.mask), 1),
            masked_mean(words, text.mask) * patches.pooled,
        )
