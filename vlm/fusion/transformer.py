"""What the transformer fusions share: post-norm residuals, words and patches in one sequence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlm.core.features import Features
from vlm.fusion.attention import Attention, RecordsAttention


class AddNorm(nn.Module):
    """A residual connection that is normalised after the sum: LayerNorm(x + dropout(branch)).

    The order of Vaswani et al. (arXiv 1706.03762) and BERT, "post-norm".
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        return self.norm(x + self.dropout(branch))


class PostNormFeedForward(nn.Module):
    """A post-normalised feed-forward network: AddNorm(x, down(activation(up(x))))."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float, activation: nn.Module) -> None:
        super().__init__()
        self.up = nn.Linear(dim, hidden_dim)
        self.activation = activation
        self.down = nn.Linear(hidden_dim, dim)
        self.add_norm = AddNorm(dim, dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.add_norm(x, self.down(self.activation(self.up(x))))


class JointEmbedding(nn.Module):
    """Words and patches as one sequence (B, L + P, D) of one width.

    Each modality has its projection and an embedding that tells it from the other.
    """

    def __init__(self, image_dim: int, text_dim: int, dim: int) -> None:
        super().__init__()
        # Without biases: the modality's embedding is one.
        self.image_projection = nn.Linear(image_dim, dim, bias=False)
        self.text_projection = nn.Linear(text_dim, dim, bias=False)
        self.patch_type = nn.Parameter(0.02 * torch.randn(dim))
        self.word_type = nn.Parameter(0.02 * torch.randn(dim))

    def patches(self, image: Features) -> Tensor:
        """(B, P, image_dim) -> (B, P, D)."""
        return self.image_projection(image.zero_padding().tokens) + self.patch_type

    def forward(self, patches: Tensor, text: Features) -> Tensor:
        """Words before the embedded patches."""
        words = self.text_projection(text.zero_padding().tokens) + self.word_type
        return torch.cat((words, patches), 1)


class JointAttention(Attention, RecordsAttention):
    """Self-attention over a sequence of words and patches; shows how words look at patches.

    Since the words look at each other too, a word's row of the map sums to less than one.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__(dim, dim, heads, dropout)

    def forward(  # type: ignore[override]  # one sequence, and its borders instead of a second
        self, tokens: Tensor, mask: Tensor, first_word: int, first_patch: int
    ) -> Tensor:
        """(B, N, D), (B, N) bool -> (B, N, D); the words end where the patches begin."""
        mixed, weights = self.attend(tokens, tokens, mask, self.recorder is not None)
        if self.recorder is not None and weights is not None:
            shown = weights[:, :, first_word:first_patch, first_patch:]  # (B, H, L, P)
            real_words = mask[:, None, first_word:first_patch, None]
            self.recorder.append(shown.masked_fill(~real_words, 0))
        return mixed
