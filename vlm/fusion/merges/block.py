"""Block-superdiagonal merges: BlockTucker and BLOCK."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor, nn

from vlm.core.validation import check_positive
from vlm.fusion.base import Merge
from vlm.fusion.merges.cores import FullCores, LowRankCores
from vlm.fusion.merges.elementwise import power_normalize
from vlm.fusion.merges.tucker import shared_or_own

Normalization = Literal["before_cat", "after_cat"]


class BlockTucker(Merge):
    """Tucker fusion with a block-superdiagonal core: O([n(x^c T_c y^c)]_c).

    Both projections are cut into chunks; chunk c of x meets chunk c of y through a full core
    (Ben-younes et al. 2019, arXiv 1902.00038, equation 4). n is `power_normalize`.

    Parameters: (x_dim + y_dim + 2) H + sum_c (s_c^3 + s_c) + (H + 1) out_dim with H = hidden_dim
    and the chunks' sizes s_c.

    Args:
        x_dim, y_dim: widths of the inputs.
        out_dim: width of the result.
        hidden_dim: width H of both projections and of the chunks together.
        chunks: number of chunks, at most H; see `chunk_sizes`.
        normalize: whether to normalise each chunk separately, or their concatenation. A chunk of
            one channel, normalised separately, becomes its sign and has no gradient: take chunks of
            several channels, or "after_cat".
        dropout: fraction of both projections dropped in training, in [0, 1).

    Example:
        >>> merge = vlm.fusion.BlockTucker(x_dim=64, y_dim=32, out_dim=48, hidden_dim=32, chunks=4)
        >>> merge(torch.randn(2, 49, 64), torch.randn(2, 1, 32)).shape
        torch.Size([2, 49, 48])
    """

    def __init__(
        self,
        x_dim: int,
        y_dim: int,
        out_dim: int = 256,
        hidden_dim: int = 256,
        chunks: int = 16,
        normalize: Normalization = "before_cat",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(x_dim, y_dim, out_dim)
        check_positive(hidden_dim=hidden_dim)
        self.x_projection = nn.Linear(x_dim, hidden_dim)
        self.y_projection = nn.Linear(y_dim, hidden_dim)
        self.dropout = nn.Dropout(dropout)
        # One chunk after the other: the maps of all at once would double the peak of memory.
        self.core = SuperdiagonalCore(hidden_dim, chunks, normalize, FullCores, together=False)
        self.out_projection = nn.Linear(hidden_dim, out_dim)

    def prepare(self, x: Tensor) -> Tensor:
        return self.x_projection(x)

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = self.dropout(x), self.dropout(self.y_projection(y))
        return self.out_projection(self.core(x, y))


class Block(Merge):
    """BLOCK: a block-superdiagonal core whose blocks have low rank.

    O([n(sum_r (M_cr x^c) * (N_cr y^c))]_c) (Ben-younes et al. 2019, arXiv 1902.00038, equations 4
    to 6). Between MLB (as many chunks as channels) and MUTAN (one chunk). The authors' size for
    VQA v2 is hidden_dim=1600, chunks=18, rank=15. n is `power_normalize`.

    Parameters: (x_dim + y_dim + 2) H + 2 R sum_c s_c (s_c + 1) + (H + 1) out_dim with
    H = hidden_dim, R = rank and the chunks' sizes s_c; shared, the two sides count once.

    Args:
        x_dim, y_dim: widths of the inputs.
        out_dim: width of the result.
        hidden_dim: width H of both projections and of the chunks together.
        chunks: number of chunks, at most H; see `chunk_sizes`.
        rank: number R of summed products in each chunk.
        shared: whether x and y pass through the same weights; their widths must then be equal.
        normalize: whether to normalise each chunk separately, or their concatenation. A chunk of
            one channel, normalised separately, becomes its sign and has no gradient: take chunks of
            several channels, or "after_cat".
        dropout: fraction of both projections dropped in training, in [0, 1).

    Example:
        >>> merge = vlm.fusion.Block(x_dim=64, y_dim=32, out_dim=48, hidden_dim=32, chunks=4)
        >>> merge(torch.randn(2, 49, 64), torch.randn(2, 1, 32)).shape
        torch.Size([2, 49, 48])
    """

    def __init__(
        self,
        x_dim: int,
        y_dim: int,
        out_dim: int = 256,
        hidden_dim: int = 256,
        chunks: int = 16,
        rank: int = 5,
        shared: bool = False,
        normalize: Normalization = "before_cat",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(x_dim, y_dim, out_dim)
        check_positive(hidden_dim=hidden_dim, rank=rank)
        cores = partial(LowRankCores, rank=rank, shared=shared)
        self.x_projection = nn.Linear(x_dim, hidden_dim)
        self.y_projection = shared_or_own(self.x_projection, y_dim, shared)
        self.dropout = nn.Dropout(dropout)
        self.core = SuperdiagonalCore(hidden_dim, chunks, normalize, cores)
        self.out_projection = nn.Linear(hidden_dim, out_dim)

    def prepare(self, x: Tensor) -> Tensor:
        return self.x_projection(x)

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = self.dropout(x), self.dropout(self.y_projection(y))
        return self.out_projection(self.core(x, y))


class SuperdiagonalCore(nn.Module):
    """Chunk by chunk through cores, normalised: (..., H), (..., H) -> (..., H).

    Chunks of one size are computed together (there are at most two sizes), or each by itself.
    """

    def __init__(
        self,
        dim: int,
        chunks: int,
        normalize: Normalization,
        make: Callable[[int, int], nn.Module],
        together: bool = True,
    ) -> None:
        super().__init__()
        self.normalize = normalize
        sizes = chunk_sizes(dim, chunks)
        groups = [(size, len(list(equal))) for size, equal in groupby(sizes)]
        groups = groups if together else [(size, 1) for size in sizes]
        self.widths = [size * count for size, count in groups]
        self.groups = nn.ModuleList(make(count, size) for size, count in groups)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        pieces = []
        xs, ys = x.split(self.widths, -1), y.split(self.widths, -1)
        for cores, x_part, y_part in zip(self.groups, xs, ys, strict=True):
            z = cores(x_part, y_part)  # (..., C, D)
            pieces.append((power_normalize(z) if self.normalize == "before_cat" else z).flatten(-2))
        whole = torch.cat(pieces, -1) if len(pieces) > 1 else pieces[0]
        return power_normalize(whole) if self.normalize == "after_cat" else whole


def chunk_sizes(dim: int, chunks: int) -> list[int]:
    """Sizes of the chunks of `dim` channels, in order.

    Equal chunks of ceil(dim / chunks) channels and a shorter last one, as the authors cut; where
    that leaves nothing for the last, sizes that differ by at most one.
    """
    check_positive(hidden_dim=dim, chunks=chunks)
    if chunks > dim:
        raise ValueError(
            f"chunks: got {chunks} for hidden_dim={dim}; expected at most one chunk per channel."
        )
    size = -(-dim // chunks)
    last = dim - size * (chunks - 1)
    if last > 0:
        return [size] * (chunks - 1) + [last]
    return [size] * (chunks - size * chunks + dim) + [size - 1] * (size * chunks - dim)
