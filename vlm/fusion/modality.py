"""Fusions that treat the pooled vectors of image and question as a small set of modalities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlm.core.features import Features, one_token
from vlm.core.validation import check_positive
from vlm.fusion.base import Fusion
from vlm.fusion.perceptron import perceptron

Pooling = Literal["max", "mean", "sum"]
POOLINGS: dict[str, Callable[..., Tensor]] = {
    "max": torch.amax,
    "mean": torch.mean,
    "sum": torch.sum,
}


class ModalityAttention(Fusion):
    """A weighted sum of both pooled vectors, with weights computed from both.

        w = softmax(W [image, text] + c)               # one weight for each modality
        pooled = w_1 (A image + a) + w_2 (B text + b)

    This is TorchMultimodal's attention fusion (`AttentionFusionModule`), for two modalities.
    `record_attention` does not record its weights, because they are not about patches.

    Args:
        image_dim, text_dim: widths of the inputs.
        out_dim: width of both projections and of the result.

    Example:
        >>> fusion = vlm.fusion.ModalityAttention(image_dim=64, text_dim=32, out_dim=48)
        >>> fused = fusion(torch.randn(2, 49, 64), torch.randn(2, 7, 32))
        >>> fused, fused.pooled.shape
        (Features(2 x 1 x 48, 1 real), torch.Size([2, 48]))
    """

    def __init__(self, image_dim: int, text_dim: int, out_dim: int = 256) -> None:
        super().__init__(image_dim, text_dim, out_dim)
        self.mix = WeightedSum((image_dim, text_dim), out_dim)

    def prepare(self, image: Features) -> Tensor:
        return image.pooled

    def fuse(self, image: Tensor, text: Features) -> Features:
        return one_token(self.mix((image, text.pooled)))


class DeepSets(Fusion):
    """Pools the image vector and the question vector as a set, then applies a perceptron.

        e_m = A_m x_m + a_m, scaled to length 1        # m: image, text
        pooled = MLP(pool_m(w_m e_m))

    with w_m = 1, or softmax_m(v tanh(U e_m + u)) with attention. Deep Multi-Modal Sets (Reiter
    et al. 2020, arXiv 2003.01607, figure 1), as in TorchMultimodal's `DeepsetFusionModule`, except
    that the weights come after the scaling, which would cancel them.

    Args:
        image_dim, text_dim: widths of the inputs.
        out_dim: width of the result, which is linear.
        element_dim: width to which both vectors are projected.
        hidden_dims: widths of the hidden layers of the perceptron, each followed by a ReLU.
        pooling: how the two elements are combined, feature by feature. With weighted elements,
            "sum" gives a weighted mean.
        attention_dim: hidden width of the attention; None for no attention.
        dropout: fraction dropped after each hidden layer in training, in [0, 1).

    Example:
        >>> fusion = vlm.fusion.DeepSets(image_dim=64, text_dim=32, out_dim=48)
        >>> fused = fusion(torch.randn(2, 49, 64), torch.randn(2, 7, 32))
        >>> fused, fused.pooled.shape
        (Features(2 x 1 x 48, 1 real), torch.Size([2, 48]))
    """

    def __init__(
        self,
        image_dim: int,
        text_dim: int,
        out_dim: int = 256,
        element_dim: int = 256,
        hidden_dims: Sequence[int] = (256,),
        pooling: Pooling = "max",
        attention_dim: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(image_dim, text_dim, out_dim)
        self.elements = ModalitySet((image_dim, text_dim), element_dim, pooling, attention_dim)
        self.mlp = perceptron(element_dim, hidden_dims, out_dim, dropout)

    def prepare(self, image: Features) -> Tensor:
        return image.pooled

    def fuse(self, image: Tensor, text: Features) -> Features:
        return one_token(self.mlp(self.elements((image, text.pooled))))


class WeightedSum(nn.Module):
    """Vectors (..., dims[m]), one for each modality m, to their weighted sum (..., out_dim)."""

    def __init__(self, dims: Sequence[int], out_dim: int) -> None:
        super().__init__()
        self.weights = nn.Linear(sum(dims), len(dims))
        self.projections = nn.ModuleList(nn.Linear(dim, out_dim) for dim in dims)

    def forward(self, vectors: Sequence[Tensor]) -> Tensor:
        weights = self.weights(torch.cat(tuple(vectors), -1)).softmax(-1)  # (..., M)
        return (weights[..., None] * projected(self.projections, vectors)).sum(-2)


class ModalitySet(nn.Module):
    """Vectors (..., dims[m]), one for each modality m, to one vector (..., dim) for the set."""

    def __init__(
        self, dims: Sequence[int], dim: int, pooling: Pooling, attention_dim: int | None
    ) -> None:
        super().__init__()
        check_positive(element_dim=dim)
        self.projections = nn.ModuleList(nn.Linear(d, dim) for d in dims)
        self.normalize = UnitLength()
        self.attention = nn.Identity() if attention_dim is None else Weighting(dim, attention_dim)
        self.pool = POOLINGS[pooling]

    def forward(self, vectors: Sequence[Tensor]) -> Tensor:
        elements = self.normalize(projected(self.projections, vectors))  # (..., M, D)
        return self.pool(self.attention(elements), -2)


class UnitLength(nn.Module):
    """Each vector divided by its Euclidean length."""

    def forward(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1, eps=torch.finfo(vectors.dtype).tiny)


class Weighting(nn.Module):
    """Elements (..., M, dim) times weights that add up to 1 over M, from a small perceptron."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        check_positive(attention_dim=hidden_dim)
        self.weights = nn.Sequential(
            nn.Linear(dim, hidden_dim),
            nn.Tanh(),
            nn.Linear(hidden_dim, 1, bias=False),  # a shift of all logits changes no weight
            nn.Softmax(-2),
        )

    def forward(self, elements: Tensor) -> Tensor:
        return self.weights(elements) * elements


def projected(projections: nn.ModuleList, vectors: Sequence[Tensor]) -> Tensor:
    """Each vector through the projection of its modality: (..., M, D)."""
    return torch.stack([p(v) for p, v in zip(projections, vectors, strict=True)], -2)
