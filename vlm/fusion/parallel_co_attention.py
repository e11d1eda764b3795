"""Parallel co-attention: words and patches choose each other through one affinity matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlm.core.features import Features, masked_softmax
from vlm.core.validation import check_positive
from vlm.fusion.attention import RecordsAttention
from vlm.fusion.base import Fusion


class ParallelCoAttention(Fusion):
    """Parallel co-attention of HieCoAtt (Lu et al. 2016, arXiv 1606.00061, section 3.3).

    Words Q and patches V are projected to `out_dim`. With the affinity of each word to each patch,
    each side weighs the other (`CoAttention`). `pooled` is one level of the paper's equation 7,
    tanh(W (q + v)), of the attended word q and patch v. `tokens` are the projected words, then
    patches.

    Args:
        image_dim, text_dim: widths of the inputs.
        out_dim: width of the projected words and patches and of the result.
        hidden_dim: width in which words and patches are scored, k in the paper.
        dropout: fraction of the attended sum dropped in training, in [0, 1).

    Example:
        >>> fusion = vlm.fusion.ParallelCoAttention(64, 32, out_dim=48, hidden_dim=32)
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
        hidden_dim: int = 256,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(image_dim, text_dim, out_dim)
        self.image_projection = nn.Linear(image_dim, out_dim)
        self.text_projection = nn.Linear(text_dim, out_dim)
        self.attention = CoAttention(out_dim, hidden_dim)
        self.out = nn.Sequential(nn.Dropout(dropout), nn.Linear(out_dim, out_dim), nn.Tanh())

    def prepare(self, image: Features) -> tuple[Tensor, Tensor, Tensor]:
        patches = self.image_projection(image.zero_padding().tokens)  # (B, P, D)
        return patches, image.mask, self.attention.patches_hidden(patches)

    def fuse(self, prepared: tuple[Tensor, Tensor, Tensor], text: Features) -> Features:
        patches, mask, _ = prepared
        words = self.text_projection(text.zero_padding().tokens)  # (B, L, D)
        word, patch = self.attention(words, text.mask, *prepared)  # (B, D) each
        return Features(
            torch.cat((words, patches), 1), torch.cat((text.mask, mask), 1), self.out(word + patch)
        )


class CoAttention(RecordsAttention):
    """The attended word and the attended patch (equations 3 to 5).

        C = tanh(Q W_b V^T)
        H_v = tanh(V W_v + C^T (Q W_q)),  H_q = tanh(Q W_q + C (V W_v))
        a_v = softmax(H_v w_hv),  a_q = softmax(H_q w_hq)

    Rows are tokens. Records a_v as (B, 1, patches).
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        check_positive(dim=dim, hidden_dim=hidden_dim)
        self.affinity = nn.Linear(dim, dim, bias=False)  # W_b
        # PyTorch's weights saturate the tanh of the affinities (docs/log.md, 2026-12-01).
        nn.init.uniform_(self.affinity.weight, -0.1 / dim**0.5, 0.1 / dim**0.5)
        self.patches_hidden = nn.Linear(dim, hidden_dim, bias=False)  # W_v
        self.words_hidden = nn.Linear(dim, hidden_dim, bias=False)  # W_q
        self.patches_score = nn.Linear(hidden_dim, 1, bias=False)  # w_hv
        self.words_score = nn.Linear(hidden_dim, 1, bias=False)  # w_hq

    def forward(
        self, words: Tensor, words_mask: Tensor, patches: Tensor, patches_mask: Tensor, p: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(B, L, D), (B, L), (B, P, D), (B, P), p = V W_v (B, P, k) -> (B, D) and (B, D)."""
        real = words_mask[:, :, None] & patches_mask[:, None, :]
        affinity = self.affinity(words) @ patches.mT  # (B, L, P)
        affinity = affinity.tanh().masked_fill(~real, 0)  # C; the sums below leave padding out
        w = self.words_hidden(words)  # (B, L, k)
        words_score = self.words_score((w + affinity @ p).tanh())  # (B, L, 1)
        patches_score = self.patches_score((p + affinity.mT @ w).tanh())  # (B, P, 1)
        words_weights = masked_softmax(words_score.mT, words_mask[:, None])  # (B, 1, L)
        patches_weights = masked_softmax(patches_score.mT, patches_mask[:, None])  # (B, 1, P)
        if self.recorder is not None:
            self.recorder.append(patches_weights)
        return (words_weights @ words)[:, 0], (patches_weights @ patches)[:, 0]
