"""Co-attention by factorised bilinear pooling (MFB and MFH)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vlm.core.features import Features, masked_softmax, one_token
from vlm.core.validation import check_positive
from vlm.fusion.attention import RecordsAttention
from vlm.fusion.base import Fusion
from vlm.fusion.merges import MFB, MFH


class MFBCoAttention(Fusion):
    """The question attends to itself, then to the image; MFB or MFH merges both results.

    Yu et al. 2017 (arXiv 1708.01471, section 4; MFB) and Yu et al. 2018 (arXiv 1708.03619; MFH).
    The glimpses of either side are concatenated. `pooled` is the merge, and the only token.

    Args:
        image_dim, text_dim: widths of the inputs.
        out_dim: width of the result.
        hidden_dim: width of the bilinear features after their sum, and of the layers that score.
        factor: size K of the groups that are summed.
        order: number of blocks in the last merge: 1 for MFB, 2 for MFH.
        glimpses: number of attention maps over the words, and of those over the patches.
        dropout: fraction of the bilinear products dropped in training, in [0, 1).

    Example:
        >>> fusion = vlm.fusion.MFBCoAttention(image_dim=64, text_dim=32, out_dim=48, hidden_dim=16)
        >>> fused = fusion(torch.randn(2, 49, 64), torch.randn(2, 7, 32))
        >>> fused, fused.pooled.shape
        (Features(2 x 1 x 48, 1 real), torch.Size([2, 48]))
    """

    lr_factor = 0.3

    def __init__(
        self,
        image_dim: int,
        text_dim: int,
        out_dim: int = 256,
        hidden_dim: int = 256,
        factor: int = 5,
        order: int = 1,
        glimpses: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(image_dim, text_dim, out_dim)
        check_positive(hidden_dim=hidden_dim, glimpses=glimpses)
        question_dim = glimpses * text_dim
        self.words = WordGlimpses(text_dim, hidden_dim, glimpses)
        self.patches = PatchGlimpses(
            image_dim, question_dim, hidden_dim, hidden_dim, factor, glimpses, dropout
        )
        self.merge = MFH(
            glimpses * image_dim, question_dim, out_dim, hidden_dim, factor, order, dropout=dropout
        )

    def prepare(self, image: Features) -> tuple[Tensor, Tensor, Any]:
        patches = image.zero_padding().tokens  # (B, P, image_dim)
        return patches, image.mask, self.patches.merge.prepare(patches)

    def fuse(self, prepared: tuple[Tensor, Tensor, Any], text: Features) -> Features:
        question = self.words(text.zero_padding().tokens, text.mask)  # (B, G * text_dim)
        seen = self.patches(*prepared, question)  # (B, G * image_dim)
        return one_token(self.merge(seen, question))


class WordGlimpses(nn.Module):
    """Self-attention of the question: softmax over the words of U relu(W word), per glimpse."""

    def __init__(self, dim: int, hidden_dim: int, glimpses: int) -> None:
        super().__init__()
        self.score = nn.Sequential(
            nn.Linear(dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, glimpses, bias=False)
        )

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        """(B, L, dim), (B, L) bool -> (B, G * dim)."""
        weights = masked_softmax(self.score(words).mT, mask[:, None])  # (B, G, L)
        return (weights @ words).flatten(1)


class PatchGlimpses(RecordsAttention):
    """Attention of the question to patches: softmax of U relu(MFB(patch, question)), per glimpse.

    Records (B, glimpses, patches).
    """

    def __init__(
        self,
        image_dim: int,
        text_dim: int,
        bilinear_dim: int,
        hidden_dim: int,
        factor: int,
        glimpses: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.merge = MFB(
            image_dim,
            text_dim,
            hidden_dim,
            bilinear_dim,
            factor,
            output_activation="relu",
            dropout=dropout,
        )
        self.score = nn.Linear(hidden_dim, glimpses, bias=False)

    def forward(self, patches: Tensor, mask: Tensor, prepared: Any, question: Tensor) -> Tensor:
        """(B, P, image_dim), (B, P) bool, (B, text_dim) -> (B, G * image_dim).

        `prepared` is what the merge made of the patches.
        """
        scores = self.score(self.merge.merge(prepared, question[:, None]))  # (B, P, G)
        weights = masked_softmax(scores.mT, mask[:, None])  # (B, G, P)
        if self.recorder is not None:
            self.recorder.append(weights)
        return (weights @ patches).flatten(1)
