"""Merges by one bilinear core between the projected inputs: Tucker and MUTAN."""

from __future__ import annotations

from torch import Tensor, nn

from vlm.core.validation import check_positive
from vlm.fusion.base import Merge
from vlm.fusion.merges.cores import FullCores, LowRankCores
from vlm.fusion.merges.elementwise import power_normalize


class Tucker(Merge):
    """Full bilinear core between two projections: O(n(T x1 (W x + b) x2 (V y + c))).

    Tucker decomposition of the bilinear map (Ben-younes et al. 2017, arXiv 1705.06676, section
    3.1). n is the identity or `power_normalize`.

    Parameters: (x_dim + y_dim + 2) H + H^3 + H + (H + 1) out_dim with H = hidden_dim.

    Args:
        x_dim, y_dim: widths of the inputs.
        out_dim: width of the result.
        hidden_dim: width H of both projections and of the core's result.
        normalize: whether to apply a signed square root and L2 normalisation before the last
            projection.
        dropout: fraction of both projections dropped in training, in [0, 1).

    Example:
        >>> merge = vlm.fusion.Tucker(x_dim=64, y_dim=32, out_dim=48, hidden_dim=16)
        >>> merge(torch.randn(2, 49, 64), torch.randn(2, 1, 32)).shape
        torch.Size([2, 49, 48])
    """

    def __init__(
        self,
        x_dim: int,
        y_dim: int,
        out_dim: int = 256,
        hidden_dim: int = 64,
        normalize: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(x_dim, y_dim, out_dim)
        check_positive(hidden_dim=hidden_dim)
        self.normalize = normalize
        self.x_projection = nn.Linear(x_dim, hidden_dim)
        self.y_projection = nn.Linear(y_dim, hidden_dim)
        self.dropout = nn.Dropout(dropout)
        self.core = FullCores(1, hidden_dim)
        self.out_projection = nn.Linear(hidden_dim, out_dim)

    def prepare(self, x: Tensor) -> Tensor:
        return self.x_projection(x)

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = self.dropout(x), self.dropout(self.y_projection(y))
        z = self.core(x, y).flatten(-2)  # (..., H)
        return self.out_projection(power_normalize(z) if self.normalize else z)


class Mutan(Merge):
    """Tucker fusion with a core of low rank: O(n(sum_r (M_r x') * (N_r y'))).

    x' = W x + b and y' = V y + c (Ben-younes et al. 2017, arXiv 1705.06676, equation 9).

    Parameters: (x_dim + y_dim + 2) H + 2 R H (H + 1) + (H + 1) out_dim with H = hidden_dim and
    R = rank; shared, the two sides count once.

    Args:
        x_dim, y_dim: widths of the inputs.
        out_dim: width of the result.
        hidden_dim: width H of both projections and of the core's result.
        rank: number R of summed products.
        shared: whether x and y pass through the same weights; their widths must then be equal.
        normalize: whether to apply a signed square root and L2 normalisation before the last
            projection.
        dropout: fraction of both projections dropped in training, in [0, 1).

    Example:
        >>> merge = vlm.fusion.Mutan(x_dim=64, y_dim=32, out_dim=48, hidden_dim=16)
        >>> merge(torch.randn(2, 49, 64), torch.randn(2, 1, 32)).shape
        torch.Size([2, 49, 48])
    """

    def __init__(
        self,
        x_dim: int,
        y_dim: int,
        out_dim: int = 256,
        hidden_dim: int = 256,
        rank: int = 5,
        shared: bool = False,
        normalize: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(x_dim, y_dim, out_dim)
        check_positive(hidden_dim=hidden_dim, rank=rank)
        self.normalize = normalize
        self.x_projection = nn.Linear(x_dim, hidden_dim)
        self.y_projection = shared_or_own(self.x_projection, y_dim, shared)
        self.dropout = nn.Dropout(dropout)
        self.core = LowRankCores(1, hidden_dim, rank, shared)
        self.out_projection = nn.Linear(hidden_dim, out_dim)

    def prepare(self, x: Tensor) -> Tensor:
        return self.x_projection(x)

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = self.dropout(x), self.dropout(self.y_projection(y))
        z = self.core(x, y).flatten(-2)  # (..., H)
        return self.out_projection(power_normalize(z) if self.normalize else z)


def shared_or_own(x_projection: nn.Linear, y_dim: int, shared: bool) -> nn.Linear:
    """The projection of y: that of x if shared, else one of its own."""
    if not shared:
        return nn.Linear(y_dim, x_projection.out_features)
    if x_projection.in_features != y_dim:
        raise ValueError(
            f"shared: got True with x_dim={x_projection.in_features} and y_dim={y_dim}; expected "
            f"equal widths. Give shared=False, or project one side first."
        )
    return x_projection
