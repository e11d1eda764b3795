"""Dynamic fusion with attention flow between the modalities and inside each."""

from __future__ import annotations

from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from vlm.core.features import Features, masked_mean
from vlm.core.validation import check_divides, check_positive
from vlm.fusion.attention import TRACE, RecordsAttention, attend
from vlm.fusion.base import Fusion


class DFAF(Fusion):
    """Dynamic fusion with intra- and inter-modality attention flow (Gao et al. 2019).

    arXiv 1812.05252, section 3. In each layer, words and patches attend to each other
    (`InterFlow`), then to themselves, gated by the mean of the other side (`IntraFlow`). `pooled`
    is the product of the mean word and the mean patch, which the paper's classifier reads; `tokens`
    are words, then patches.

    Args:
        image_dim, text_dim: widths of the inputs.
        out_dim: width of the layers and of the result.
        num_layers: number of pairs of flows.
        num_heads: attention heads; divides `out_dim`.
        dropout: fraction dropped from attention weights and before the layers' outputs in training.

    Example:
        >>> fusion = vlm.fusion.DFAF(image_dim=64, text_dim=32, out_dim=48)
        >>> fused = fusion(torch.randn(2, 49, 64), torch.randn(2, 7, 32))
        >>> fused, fused.pooled.shape
        (Features(2 x 56 x 48, 56 real), torch.Size([2, 48]))
    """

    lr_factor = 0.3

    def __init__(
        self,
        image_dim: int,
        text_dim: int,
        out_dim: int = 256,
        num_layers: int = 1,
        num_heads: int = 8,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(image_dim, text_dim, out_dim)
        check_positive(num_layers=num_layers)
        check_divides("out_dim", out_dim, "num_heads", num_heads)
        self.image_projection = nn.Linear(image_dim, out_dim)
        self.text_projection = nn.Linear(text_dim, out_dim)
        self.layers = nn.ModuleList(
            flow(out_dim, num_heads, dropout)
            for _ in range(num_layers)
            for flow in (InterFlow, IntraFlow)
        )

    def prepare(self, image: Features) -> tuple[Tensor, Tensor, Tensor]:
        patches = self.image_projection(image.zero_padding().tokens)  # (B, P, D)
        return patches, image.mask, cast(InterFlow, self.layers[0]).patches_qkv(patches)

    def fuse(self, prepared: tuple[Tensor, Tensor, Tensor], text: Features) -> Features:
        patches, mask, qkv = prepared
        words = self.text_projection(text.zero_padding().tokens)  # (B, L, D)
        first, *rest = self.layers
        words, patches = first(words, text.mask, patches, mask, qkv)
        for layer in rest:
            words, patches = layer(words, text.mask, patches, mask)
        pooled = masked_mean(words, text.mask) * masked_mean(patches, mask)  # (B, D)
        return Features(torch.cat((words, patches), 1), torch.cat((text.mask, mask), 1), pooled)


class InterFlow(nn.Module):
    """Words read patches and patches read words, both at once.

    words <- W [words, softmax(Q_w K_p^T / sqrt(d)) V_p], and the same with sides exchanged.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.words_qkv = nn.Linear(dim, 3 * dim)
        self.patches_qkv = nn.Linear(dim, 3 * dim)
        self.words_to_patches = Flow(num_heads, dropout)
        self.patches_to_words = Flow(num_heads, dropout, words_last=True)
        self.words_out = nn.Linear(2 * dim, dim)
        self.patches_out = nn.Linear(2 * dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        words: Tensor,
        words_mask: Tensor,
        patches: Tensor,
        patches_mask: Tensor,
        qkv: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Let both sides read; `qkv` (B, P, 3 dim) is that of the patches, if known already."""
        qkv = self.patches_qkv(patches) if qkv is None else qkv
        words_q, words_k, words_v = self.words_qkv(words).chunk(3, -1)
        patches_q, patches_k, patches_v = qkv.chunk(3, -1)
        to_words = self.words_to_patches(words_q, patches_k, patches_v, patches_mask, words_mask)
        to_patches = self.patches_to_words(patches_q, words_k, words_v, words_mask, patches_mask)
        return (
            self.words_out(self.dropout(torch.cat((words, to_words), -1))),
            self.patches_out(self.dropout(torch.cat((patches, to_patches), -1))),
        )


class IntraFlow(nn.Module):
    """Words read words and patches read patches, gated by the other side.

        gate = 1 + sigmoid(G mean(patches))
        words <- W (words + softmax((gate * Q_w) (gate * K_w)^T / sqrt(d)) V_w)

    and the same with sides exchanged.

    Attributes:
        trace: list in which `trace_attention` collects, or None.
    """

    trace = TRACE

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.words_gate = nn.Linear(dim, dim)
        self.patches_gate = nn.Linear(dim, dim)
        self.words_qkv = nn.Linear(dim, 3 * dim)
        self.patches_qkv = nn.Linear(dim, 3 * dim)
        self.words_out = nn.Linear(dim, dim)
        self.patches_out = nn.Linear(dim, dim)
        self.num_heads, self.attention_dropout = num_heads, dropout
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, words: Tensor, words_mask: Tensor, patches: Tensor, patches_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        words_gate = 1 + self.words_gate(masked_mean(patches, patches_mask)).sigmoid()  # (B, D)
        patches_gate = 1 + self.patches_gate(masked_mean(words, words_mask)).sigmoid()
        words = words + self.read(self.words_qkv(words), words_gate, words_mask)
        patches = patches + self.read(self.patches_qkv(patches), patches_gate, patches_mask)
        return self.words_out(self.dropout(words)), self.patches_out(self.dropout(patches))

    def read(self, qkv: Tensor, gate: Tensor, mask: Tensor) -> Tensor:
        """Gated self-attention: (B, N, 3 D), (B, D), (B, N) -> (B, N, D)."""
        query, key, value = qkv.chunk(3, -1)
        # One factor does the work of both gates: only the product of query and key counts.
        query = query * gate.square()[:, None]
        dropout, tracing = self.attention_dropout if self.training else 0.0, self.trace is not None
        mixed, weights = attend_in_heads(query, key, value, mask, self.num_heads, dropout, tracing)
        if self.trace is not None and weights is not None:
            self.trace.append((self, weights))
        return mixed


class Flow(RecordsAttention):
    """Attention from one side to the other, without weights of its own; `words_last`: to words.

    Attributes:
        trace: list in which `trace_attention` collects, or None.
    """

    trace = TRACE

    def __init__(self, num_heads: int, dropout: float, words_last: bool = False) -> None:
        super().__init__()
        self.num_heads, self.dropout, self.words_last = num_heads, dropout, words_last

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, query_mask: Tensor
    ) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        recording = self.recorder is not None or self.trace is not None
        mixed, weights = attend_in_heads(
            query, key, value, mask, self.num_heads, dropout, recording
        )
        if self.trace is not None and weights is not None:
            self.trace.append((self, weights))
        if self.recorder is not None and weights is not None:
            weights = weights.masked_fill(~query_mask[:, None, :, None], 0)
            self.recorder.append(weights.mT if self.words_last else weights)
        return mixed


def attend_in_heads(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    num_heads: int,
    dropout: float,
    weights: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`attend` on each of `num_heads` slices of the width: (B, N, D), (B, M, D) -> (B, N, D)."""
    q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=num_heads) for x in (query, key, value))
    mixed, shares = attend(q, k, v, mask[:, None, None, :], dropout, weights)
    return rearrange(mixed, "b h n d -> b n (h d)"), shares
