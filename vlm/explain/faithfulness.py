"""Is an explanation true of the model? Its top parts are taken away, and the answer is watched."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vlm.explain.case import Case
from vlm.explain.explanation import Explanation
from vlm.inference import VQA
from vlm.model import VQAModel

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Of the parts, for comprehensiveness and sufficiency (DeYoung et al. 2020)."""
STEPS = 16
"""Points of a curve at most, beside its beginning."""
UNCHANGED = 0.5
"""Rank correlation with a random model's map above which a method counts as not changing."""


class Faithfulness(NamedTuple):
    """How the evidence for an answer follows an explanation's order. All in units of evidence.

    Deletion and insertion are of Petsiuk et al. 2018 (arXiv 1806.07421), comprehensiveness and
    sufficiency of DeYoung et al. 2020 (arXiv 1911.03429); these papers measure probabilities.

    Attributes:
        shares: (K,) of the parts that were taken away, or put in, from 0 to 1.
        deletion: (K,) evidence without the most relevant parts.
        insertion: (K,) evidence of the most relevant parts alone.
        deletion_area: mean height of the curve; low is good.
        insertion_area: high is good.
        comprehensiveness: evidence lost without the top parts, mean over `SHARES`; high is good.
        sufficiency: evidence lost when only these are kept; low is good.
    """

    shares: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray
    deletion_area: float
    insertion_area: float
    comprehensiveness: float
    sufficiency: float


def patch_faithfulness(case: Case, explanation: Explanation) -> Faithfulness:
    """Cells are painted over, or laid bare, from the most to the least relevant."""
    cells = case.places(_boxes(case, explanation))  # (P, *place)

    def evidence(gone: Tensor) -> Tensor:
        # Cells may overlap: how many of those that are gone lie on each place.
        count = gone.to(cells.device, torch.float32) @ cells.flatten(1).float()
        return case.evidence(hidden=(count > 0).unflatten(1, cells.shape[1:]))[:, 0]

    return _faithfulness(evidence, explanation.patches)


def word_faithfulness(case: Case, explanation: Explanation) -> Faithfulness:
    """Words are left out, or put in, from the most to the least relevant."""
    return _faithfulness(lambda gone: case.evidence(kept=~gone)[0], explanation.word_relevance)


def _boxes(case: Case, explanation: Explanation) -> Tensor:
    """The explanation's cells in the model's input."""
    if explanation.grid is None:
        return case.cells().boxes
    for refine in range(1, max(case.place) + 1):
        cells = case.cells(refine)
        if cells.grid == explanation.grid:
            return cells.boxes
    raise ValueError(f"explanation: its grid {explanation.grid} is not one of this model's.")


def _faithfulness(evidence: Callable[[Tensor], Tensor], relevance: np.ndarray) -> Faithfulness:
    """Args: `evidence` without the parts (K, N) that are True, and their relevance (N,)."""
    parts = len(relevance)
    ranks = np.argsort(np.argsort(-relevance, kind="stable"))  # 0 for the most relevant
    counts = sorted({round(parts * k / STEPS) for k in range(STEPS + 1)})
    tops = [min(ceil(parts * share), parts) for share in SHARES]
    numbers, place = np.unique([*counts, *tops], return_inverse=True)
    top = torch.from_numpy(ranks < numbers[:, None])  # (K, N), each number once
    found = evidence(torch.cat((top, ~top))).cpu().numpy()
    without, alone = found[: len(top)][place], found[len(top) :][place]
    curve = len(counts)
    shares = np.array(counts) / max(parts, 1)
    deletion, insertion = without[:curve], alone[:curve]
    return Faithfulness(
        shares=shares,
        deletion=deletion,
        insertion=insertion,
        deletion_area=float(np.trapezoid(deletion, shares)),
        insertion_area=float(np.trapezoid(insertion, shares)),
        comprehensiveness=float(deletion[0] - without[curve:].mean()),
        sufficiency=float(deletion[0] - alone[curve:].mean()),
    )


def randomised(vqa: VQA, seed: int = 0) -> VQA:
    """The same model with random weights (Adebayo et al. 2018, arXiv 1810.03292).

    An explanation that is true of a trained model should not be true of this one too.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        # Its classes were imported when it was loaded, so there is nothing left to trust.
        model = VQAModel.from_config(vqa.model.config, trust=True)
    return VQA(model.to(next(vqa.model.parameters()).device))


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of two maps in [-1, 1], equal values sharing their rank; NaN
    where one of them is the same all over."""
    a, b = _ranks(first), _ranks(second)
    if a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((counts.cumsum() - (counts - 1) / 2)[places])
