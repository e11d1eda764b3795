"""Which words and sentences are similar to a text encoder, before and after fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vlm.explain.faithfulness import rank_correlation


class Change(NamedTuple):
    """A word's nearest neighbours before and after, nearest first."""

    word: str
    before: list[str]
    after: list[str]

    @property
    def kept(self) -> float:
        """Share of the original neighbours that remain neighbours, in [0, 1]."""
        return len({*self.before} & {*self.after}) / len(self.before)


def similarities(vectors: Tensor) -> Tensor:
    """Cosine similarities of all pairs: (S, D) -> (S, S)."""
    units = F.normalize(vectors, dim=1)
    return units @ units.mT


def nearest(vectors: Tensor, k: int) -> Tensor:
    """The k nearest others by cosine: (W, D) -> (W, k) int64, nearest first."""
    return similarities(vectors).fill_diagonal_(-2).topk(k, 1).indices


def neighbour_changes(words: Sequence[str], before: Tensor, after: Tensor) -> list[Change]:
    """The change of each word's neighbours, from `nearest` (W, k) before and after."""
    return [
        Change(word, [words[i] for i in old], [words[i] for i in new])
        for word, old, new in zip(words, before.tolist(), after.tolist(), strict=True)
    ]


def similarity_kept(before: Tensor, after: Tensor) -> float:
    """Spearman's correlation of the similarities (S, S) of all pairs of different sentences, before
    and after: in [-1, 1], or NaN if all pairs are equally similar.

    Representational similarity analysis (Kriegeskorte et al. 2008): only the order of the
    similarities matters, not their values.
    """
    rows, columns = torch.triu_indices(len(before), len(before), offset=1)
    return rank_correlation(before[rows, columns].numpy(), after[rows, columns].numpy())


def paraphrase_share(alike: Tensor) -> float:
    """Share of sentences whose most similar other sentence is their paraphrase, from the
    `similarities` (2P, 2P) of pairs 2i and 2i + 1."""
    nearest_other = alike.clone().fill_diagonal_(-2).argmax(1)
    paraphrase = torch.arange(len(alike)) ^ 1
    return float((nearest_other == paraphrase).double().mean())
