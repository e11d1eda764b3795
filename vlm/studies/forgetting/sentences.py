"""Which sentences are alike to a text encoder, before and after."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from vlm.explain.faithfulness import rank_correlation


def similarities(vectors: Tensor) -> Tensor:
    """Cosines of all pairs: (S, D) -> (S, S)."""
    units = F.normalize(vectors, dim=1)
    return units @ units.mT


def similarity_kept(before: Tensor, after: Tensor) -> float:
    """Spearman's correlation of the similarities of all pairs of different sentences, in [-1, 1].

    Representational similarity analysis (Kriegeskorte et al. 2008): what counts is which
    pairs are more alike than others, not the numbers.

    Args:
        before: of `similarities`, (S, S).
        after: of the same sentences.

    Returns:
        NaN where all pairs are equally alike.
    """
    rows, columns = before.new_ones(before.shape).triu(1).nonzero(as_tuple=True)
    return rank_correlation(before[rows, columns].numpy(), after[rows, columns].numpy())


def paraphrase_share(alike: Tensor) -> float:
    """Share of sentences whose most similar other one is their paraphrase.

    Args:
        alike: of `similarities`, (2P, 2P), sentences 2i and 2i + 1 a pair.
    """
    others = alike.clone().fill_diagonal_(-2)
    found = others.argmax(1)
    wanted = found.new_tensor(range(len(alike))) ^ 1
    return float((found == wanted).double().mean())
