"""Feature-wise linear modulation: the question scales and shifts the image's channels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from vlm.core.features import Features, masked_max, masked_mean
from vlm.core.validation import check_positive
from vlm.fusion.base import Fusion
from vlm.fusion.initialize import he_uniform

Prepared = tuple[Tensor, Tensor]


class FiLM(Fusion):
    """Residual blocks over the patches; the question scales and shifts their channels.

    FiLM (Perez et al. 2018, arXiv 1709.07871, equations 1 and 2, and figure 3):

        [dgamma_1, beta_1, ..., dgamma_N, beta_N] = W question + b      # question: text.pooled
        x = ReLU(A patches + a)
        for each block n:
            h = ReLU(B_n [x, place] + b_n)
            x = h + ReLU((1 + dgamma_n) * BatchNorm(C_n h + c_n) + beta_n)
        tokens = D [x, place] + d;  pooled = max over the patches of tokens

    `place` is the centre of each token's box, from -1 to 1 in x and y: the paper's coordinate maps.
    Tokens without boxes all lie in the middle. Both convolutions of a block are 1 x 1. The paper
    has one of 3 x 3, but tokens need not lie on a grid, and the image encoder has already combined
    neighbours. `tokens` are the patches. Weights are initialised as in the authors' code
    (`he_uniform`), biases with zeros.

    Args:
        image_dim, text_dim: widths of the inputs.
        out_dim: width of the blocks and of the result; 128 in the paper.
        num_layers: number of blocks; 4 in the paper.

    Example:
        >>> fusion = vlm.fusion.FiLM(image_dim=64, text_dim=32, out_dim=48)
        >>> fused = fusion(torch.randn(2, 49, 64), torch.randn(2, 7, 32))
        >>> fused, fused.pooled.shape
        (Features(2 x 49 x 48, 49 real), torch.Size([2, 48]))
    """

    def __init__(
        self, image_dim: int, text_dim: int, out_dim: int = 128, num_layers: int = 4
    ) -> None:
        super().__init__(image_dim, text_dim, out_dim)
        check_positive(num_layers=num_layers)
        self.modulation = nn.Linear(text_dim, 2 * num_layers * out_dim)
        self.stem = nn.Linear(image_dim, out_dim)
        self.layers = nn.ModuleList(FiLMBlock(out_dim) for _ in range(num_layers))
        self.out = nn.Linear(out_dim + 2, out_dim)
        he_uniform(self)

    def prepare(self, image: Features) -> tuple[Tensor, Tensor, Prepared]:
        tokens = self.stem(image.zero_padding().tokens).relu()  # (B, P, D)
        place = places(image).to(tokens.dtype)  # (B, P, 2)
        return image.mask, place, cast(FiLMBlock, self.layers[0]).prepare(tokens, place)

    def fuse(self, prepared: tuple[Tensor, Tensor, Prepared], text: Features) -> Features:
        mask, place, inner = prepared
        modulations = rearrange(
            self.modulation(text.pooled), "b (n two d) -> n two b 1 d", n=len(self.layers), two=2
        )
        scale, shift = modulations[0]
        tokens = self.layers[0](*inner, mask, 1 + scale, shift)
        rest = cast(Iterable[FiLMBlock], self.layers[1:])
        for layer, (scale, shift) in zip(rest, modulations[1:], strict=True):
            tokens = layer(*layer.prepare(tokens, place), mask, 1 + scale, shift)
        tokens = self.out(torch.cat((tokens, place), -1))
        return Features(tokens, mask, masked_max(tokens, mask))


class FiLMBlock(nn.Module):
    """One block of `FiLM`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.inner = nn.Linear(dim + 2, dim)
        self.outer = nn.Linear(dim, dim)
        self.norm = TokenBatchNorm(dim)

    def prepare(self, tokens: Tensor, place: Tensor) -> Prepared:
        """h and C h + c, which the question does not enter: (B, P, D) each."""
        hidden = self.inner(torch.cat((tokens, place), -1)).relu()
        return hidden, self.outer(hidden)

    def forward(
        self, hidden: Tensor, branch: Tensor, mask: Tensor, scale: Tensor, shift: Tensor
    ) -> Tensor:
        return hidden + (scale * self.norm(branch, mask) + shift).relu()


class TokenBatchNorm(nn.Module):
    """Batch normalisation over the real tokens of a batch, without scale and shift.

    Evaluation uses running averages, so that a row does not depend on its batch. `LayerNorm`, which
    needs no batch at all, learns far more slowly here (docs/log.md).
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, dim: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        tokens = tokens.to(self.mean.dtype)  # (B, P, D); in full precision under autocast
        mean, variance = self.mean, self.variance
        if self.training:
            every, real = tokens.flatten(0, 1), mask.flatten()
            mean = masked_mean(every, real)  # (B * P, D) -> (D,)
            variance = masked_mean((every - mean).square(), real)
            with torch.no_grad():
                step = self.momentum * real.any().to(mean.dtype)  # a batch without tokens counts 0
                self.mean.lerp_(mean, step)
                self.variance.lerp_(variance, step)
        return (tokens - mean) * (variance + self.eps).rsqrt()


def places(image: Features) -> Tensor:
    """The centre of each token's box in [-1, 1], x and y: (B, P, 2). Zeros without boxes."""
    if image.boxes is None:
        return image.tokens.new_zeros(*image.mask.shape, 2)
    corners = image.boxes.masked_fill(~image.mask[..., None], 0.5)  # x0, y0, x1, y1
    return corners[..., :2] + corners[..., 2:] - 1
