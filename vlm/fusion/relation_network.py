"""Relation network: every pair of objects is judged for the question."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vlm.core.features import Features, one_token
from vlm.core.validation import check_positive
from vlm.fusion.base import Fusion
from vlm.fusion.film import places
from vlm.fusion.initialize import he_uniform
from vlm.fusion.perceptron import perceptron


class RelationNetwork(Fusion):
    """A perceptron reads each token pair with the question; another reads the mean of its results.

        pooled = f(mean_ij g([o_i, o_j, question]))             # i = j included

    o_i is a token with its place, the centre of its box from -1 to 1 (Santoro et al. 2017, arXiv
    1706.01427, equation 1 and section 4). g ends with a ReLU, and f with a linear layer. The paper
    sums over the pairs. For a fixed number of tokens, the mean differs only by a constant factor,
    which f's first layer absorbs; with the sum over 49 x 49 pairs, outputs start in the thousands.
    The first layer of g on
    [o_i, o_j, question] is a sum of three terms, so no pair is ever concatenated. Weights start as
    in He et al. 2015 (`he_uniform`), biases with zeros. Time and memory grow with the square of the
    number of tokens, so use it for tens of tokens rather than hundreds.

    Args:
        image_dim, text_dim: widths of the inputs.
        out_dim: width of the result.
        pair_dims: widths of g's layers; four of 256 in the paper.
        hidden_dims: widths of f's hidden layers; two of 256 in the paper.
        dropout: fraction dropped after each hidden layer of f in training, in [0, 1).

    Example:
        >>> fusion = vlm.fusion.RelationNetwork(image_dim=64, text_dim=32, out_dim=48)
        >>> fusion(torch.randn(2, 25, 64), torch.randn(2, 7, 32))
        Features(2 x 1 x 48, 1 real)
    """

    def __init__(
        self,
        image_dim: int,
        text_dim: int,
        out_dim: int = 256,
        pair_dims: Sequence[int] = (256, 256, 256, 256),
        hidden_dims: Sequence[int] = (256, 256),
        dropout: float = 0.0,
    ) -> None:
        super().__init__(image_dim, text_dim, out_dim)
        if not pair_dims:
            raise ValueError("pair_dims: got none; expected at least one width.")
        check_positive(**{f"pair_dims[{i}]": dim for i, dim in enumerate(pair_dims)})
        first, *rest = pair_dims
        self.left = nn.Linear(image_dim + 2, first)
        self.right = nn.Linear(image_dim + 2, first, bias=False)
        self.question = nn.Linear(text_dim, first, bias=False)
        layers: list[nn.Module] = [nn.ReLU()]
        for dim, next_dim in zip(pair_dims, rest, strict=False):
            layers += [nn.Linear(dim, next_dim), nn.ReLU()]
        self.judge = nn.Sequential(*layers)
        self.out = perceptron(pair_dims[-1], hidden_dims, out_dim, dropout)
        he_uniform(self)

    def prepare(self, image: Features) -> tuple[Tensor, Tensor, Tensor]:
        tokens = image.zero_padding().tokens
        objects = torch.cat((tokens, places(image).to(tokens.dtype)), -1)  # (B, N, D + 2)
        return self.left(objects), self.right(objects), image.mask

    def fuse(self, prepared: tuple[Tensor, Tensor, Tensor], text: Features) -> Features:
        left, right, mask = prepared  # (B, N, H) each
        left = left + self.question(text.pooled)[:, None]
        judged = self.judge(left[:, :, None] + right[:, None])  # (B, N, N, H)
        real = mask.to(judged.dtype)
        share = real / real.sum(1, keepdim=True).clamp(min=1)  # of each token in the mean
        mean = torch.einsum("bi,bj,bijh->bh", share, share, judged)
        return one_token(self.out(mean))
