"""The loss of pairs: which questions it compares, and values worked out by hand."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from shared_models import bag, conv, put_together
from test_losses import counted, make_batch
from torch import Tensor
from torch.testing import assert_close

from vlm.core.batch import Batch
from vlm.core.pairs import Pairs, pairs_among
from vlm.core.part import build
from vlm.data.compatibility import check_compatible
from vlm.datasets import EasyVQA
from vlm.datasets.errors import DataError
from vlm.heads import Classification, LearnedMixin, losses
from vlm.heads.learned_mixin import Mixture
from vlm.model import VQAModel

ANSWERS = ["yes", "no", "red"]


def pairs_of(*found: tuple[int, int, bool]) -> Pairs:
    first, second, opposite = zip(*found, strict=True)
    return Pairs(torch.tensor(first), torch.tensor(second), torch.tensor(opposite))


def batch_of(pairs: Pairs | None, rows: int = 2) -> Batch:
    return make_batch(counted(*[(1, 0, 0)] * rows, annotators=1), 4)._replace(pairs=pairs)


def added(logits: Tensor, pairs: Pairs, **given: Any) -> float:
    """What the pairs add to the loss."""
    head = Classification(3, ANSWERS, **({"consistency": 1.0} | given)).train()
    whole, alone = (head.loss(logits, batch_of(each, len(logits))) for each in (pairs, None))
    return float(whole - alone)


def test_symmetric_divergence_by_hand() -> None:
    """p = (4/5, 1/5), q = (1/2, 1/2): KL(p, q) + KL(q, p) = 0.3 log 4."""
    z, even = torch.tensor([[math.log(4), 0.0]]), torch.zeros(1, 2)
    p, q = (0.8, 0.2), (0.5, 0.5)
    wanted = sum(a * math.log(a / b) + b * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert wanted == pytest.approx(0.3 * math.log(4))
    assert_close(losses.disagreement(z, even, False), torch.tensor([wanted]))
    assert_close(losses.disagreement(z + 7, even - 3, False), torch.tensor([wanted]))
    # Each answer for itself: only the first differs, 4/5 from 1/2.
    assert_close(losses.disagreement(z, even, True), torch.tensor([wanted]))
    assert_close(losses.disagreement(z, z, True), torch.zeros(1))


@pytest.mark.parametrize("independent", [True, False])
def test_it_is_the_sum_of_both_divergences_of_torch(independent: bool) -> None:
    z, other = torch.randn(2, 5, 4)
    if independent:
        p, q = (torch.distributions.Bernoulli(logits=x) for x in (z, other))
        wanted = (
            torch.distributions.kl_divergence(p, q) + torch.distributions.kl_divergence(q, p)
        ).sum(-1)
    else:
        p, q = (torch.distributions.Categorical(logits=x) for x in (z, other))
        wanted = torch.distributions.kl_divergence(p, q) + torch.distributions.kl_divergence(q, p)
    assert_close(losses.disagreement(z, other, independent), wanted)


def test_the_same_answer_and_the_opposite_answer_by_hand() -> None:
    """p(yes) = 4/5 and 1/5: in contradictory questions this is as it should be, and in equivalent
    ones it adds 0.6 log 4 for each of yes and no, divided by the four questions of the batch."""
    logits = torch.tensor([[math.log(4), -math.log(4), 0.0], [-math.log(4), math.log(4), 0.0]])
    assert added(logits, pairs_of((0, 1, True))) == pytest.approx(0, abs=1e-6)
    by_hand = 2 * 0.6 * 2 * math.log(4) / 4
    assert added(logits, pairs_of((0, 1, False))) == pytest.approx(by_hand, abs=1e-5)
    assert added(logits, pairs_of((0, 1, False)), consistency=0.5) == pytest.approx(
        by_hand / 2, abs=1e-5
    )
    both = torch.cat([logits[:1], logits[:1]])
    assert added(both, pairs_of((0, 1, False))) == pytest.approx(0, abs=1e-6)
    assert added(both, pairs_of((0, 1, True))) == pytest.approx(by_hand, abs=1e-5)
    assert added(both, pairs_of((0, 1, True), (0, 1, True))) == pytest.approx(2 * by_hand, abs=1e-5)


def test_a_contradiction_is_settled_where_p_yes_sums_to_one() -> None:
    logits = torch.nn.Parameter(torch.tensor([[1.0, 0.5, 0.0], [0.2, 0.1, 0.0]]))
    optimizer = torch.optim.SGD([logits], lr=0.5)
    head = Classification(3, ANSWERS, loss="ce", consistency=1.0).train()
    for _ in range(200):
        optimizer.zero_grad()
        head.consistency_loss(logits, batch_of(pairs_of((0, 1, True)))).backward()  # type: ignore[union-attr]  # a tensor
        optimizer.step()
    p = logits.softmax(-1)
    assert_close(p[0, 0], p[1, 1], atol=1e-4, rtol=0)
    assert_close(p[0, 1], p[1, 0], atol=1e-4, rtol=0)


def test_other_names_of_yes_and_no() -> None:
    logits = torch.tensor([[2.0, -2.0], [-2.0, 2.0]])
    head = Classification(3, ["ja", "nein"], consistency=1.0, opposites=("ja", "nein")).train()
    batch = make_batch(counted((1, 0), (0, 1), annotators=1), 1)
    pairs = pairs_of((0, 1, True))
    assert_close(head.loss(logits, batch._replace(pairs=pairs)), head.loss(logits, batch))
    assert build(head.config).config == head.config


def test_evaluation_leaves_pairs_out() -> None:
    logits, batch = torch.randn(2, 3), batch_of(pairs_of((0, 1, False)))
    head = Classification(3, ANSWERS, consistency=1.0).eval()
    assert_close(head.loss(logits, batch), head.loss(logits, batch._replace(pairs=None)))


def test_the_answers_of_the_model_agree_not_those_of_the_ensemble() -> None:
    head = LearnedMixin(3, 5, ANSWERS, consistency=1.0).train()
    logits, bias = torch.randn(2, 2, 3)
    output, batch = Mixture(logits, bias, torch.ones(2, 1)), batch_of(pairs_of((0, 1, False)))
    whole, alone = head.loss(output, batch), head.loss(output, batch._replace(pairs=None))
    wanted = losses.disagreement(logits[:1], logits[1:], True).sum() / 4
    assert_close(whole - alone, wanted)


def test_pairs_are_those_of_which_both_are_there() -> None:
    found = pairs_among(
        ["a", "b", "c", "d"],
        [None, "a", "a", "gone"],
        [None, "paraphrase", "contradiction", "equivalent"],
    )
    assert [column.tolist() for column in found] == [[0, 0], [1, 2], [False, True]]
    none = pairs_among(["a"], [None], [None])
    assert [len(column) for column in none] == [0, 0, 0]
    assert none.first.dtype == torch.long
    assert added(torch.randn(1, 3), none) == 0


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"consistency: got -0\.1; expected a number of at least 0"
    ):
        Classification(3, ANSWERS, consistency=-0.1)
    with pytest.raises(ValueError, match=r"opposites: got 'ja' and 'no', and .* lacks 'ja'"):
        Classification(3, ANSWERS, consistency=1.0, opposites=("ja", "no"))
    head = Classification(3, ["a", "b", "c"], consistency=1.0, opposites=None).train()
    logits = torch.randn(2, 3)
    assert head.loss(logits, batch_of(pairs_of((0, 1, False)))) > 0
    with pytest.raises(ValueError, match="opposites: got None and questions that contradict"):
        head.loss(logits, batch_of(pairs_of((0, 1, True))))


def test_data_without_pairs_teach_no_consistency(data: Path) -> None:
    def model(consistency: float) -> VQAModel:
        head = partial(Classification, answers=["yes", "no"], consistency=consistency)
        return put_together(conv(), bag(), head).model

    dataset = EasyVQA(data)
    check_compatible(dataset, "train", model(0))
    check_compatible(dataset, "validation", model(1))
    with pytest.raises(DataError, match="no question has a pair"):
        check_compatible(dataset, "train", model(1))
