"""Targets and losses, worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch.testing import assert_close

from vlm.core.batch import Batch
from vlm.heads import Classification
from vlm.heads.losses import (
    AnswerCounts,
    cross_entropy,
    kl_divergence,
    sampled_cross_entropy,
    shares,
    soft_bce,
    soft_scores,
)
from vlm.heads.vocabulary import AnswerVocabulary
from vlm.metrics import soft_score

LOSSES = ("bce", "kl", "ce", "sampled_ce")
ANSWERS = ["yes", "no", "red"]


def counted(*rows: Sequence[int], annotators: int = 10) -> AnswerCounts:
    counts = torch.tensor(rows, dtype=torch.float)
    return AnswerCounts(counts, torch.full((len(rows),), float(annotators)))


def make_batch(targets: AnswerCounts, total: int) -> Batch:
    """Make a batch with only the fields that a loss reads."""
    nothing = torch.empty(0)
    ids = [str(i) for i in range(len(targets.counts))]
    return Batch(nothing, nothing, nothing, nothing, targets, ids, total)


def test_soft_scores_of_ten_annotators() -> None:
    target = counted(range(11))
    wanted = [0, 0.3, 0.6, 0.9, 1, 1, 1, 1, 1, 1, 1]
    assert_close(soft_scores(target), torch.tensor([wanted], dtype=torch.float))


def test_soft_scores_are_the_metric_s_for_any_number_of_annotators() -> None:
    for total in range(1, 14):
        got = soft_scores(counted(range(total + 1), annotators=total))[0]
        wanted = [soft_score(n, total) for n in range(total + 1)]
        assert_close(got, torch.tensor(wanted, dtype=torch.float), msg=f"{total} annotators")


def test_questions_with_other_numbers_of_annotators_stand_in_one_batch() -> None:
    target = AnswerCounts(torch.tensor([[1.0, 0], [1, 1], [1, 2]]), torch.tensor([1.0, 2, 5]))
    wanted = [[soft_score(int(n), int(t)) for n in row] for row, t in zip(*target, strict=True)]
    assert_close(soft_scores(target), torch.tensor(wanted, dtype=torch.float))
    assert_close(shares(target), torch.tensor([[1, 0], [0.5, 0.5], [0.2, 0.4]]))


def test_soft_bce_sums_over_answers() -> None:
    # Three of ten annotators gave the first answer (0.9), one the second (0.3), none the third.
    p = (0.6, 0.2, 0.7)
    logits = torch.tensor([[math.log(q / (1 - q)) for q in p], [0.0, 0, 0]])
    target = counted((3, 1, 0), (10, 0, 0))
    by_hand = -(0.9 * math.log(0.6) + 0.1 * math.log(0.4))
    by_hand -= 0.3 * math.log(0.2) + 0.7 * math.log(0.8)
    by_hand -= math.log(0.3)
    wanted = torch.tensor([by_hand, 3 * math.log(2)])
    assert_close(soft_bce(logits, target), wanted)


def test_kl_leaves_out_what_is_not_in_the_vocabulary() -> None:
    # Six of ten gave the first answer, two the second, two an answer without a column.
    p = (0.5, 0.3, 0.2)
    logits = torch.tensor([[math.log(q) + 1.7 for q in p]])  # a shift does not change a softmax
    by_hand = 0.6 * math.log(0.6 / 0.5) + 0.2 * math.log(0.2 / 0.3)
    assert_close(kl_divergence(logits, counted((6, 2, 0))), torch.tensor([by_hand]))


def test_cross_entropy_takes_the_most_frequent_answer() -> None:
    p = (0.5, 0.3, 0.2)
    logits = torch.tensor([[math.log(q) + 1.7 for q in p]] * 2)
    got = cross_entropy(logits, counted((3, 5, 2), (1, 0, 9)))
    assert_close(got, torch.tensor([-math.log(0.3), -math.log(0.2)]))


def test_sampled_cross_entropy_draws_from_the_shares() -> None:
    draws = 20_000
    p = torch.tensor([0.5, 0.3, 0.2])
    target = counted((1, 6, 0)).counts.expand(draws, 3)
    target = AnswerCounts(target, torch.full((draws,), 10.0))
    losses = sampled_cross_entropy(p.log().expand(draws, 3), target)
    frequencies = [float(losses.isclose(-q.log()).float().mean()) for q in p]
    # Over 20,000 draws, three standard deviations of a share of 1/7 are 0.0075.
    assert frequencies == pytest.approx([1 / 7, 6 / 7, 0], abs=0.0075)
    assert frequencies[2] == 0
    assert sum(frequencies) == pytest.approx(1)


def test_sampled_cross_entropy_is_a_function_of_the_seed() -> None:
    logits, target = torch.randn(31, 3), counted(*[(5, 3, 2)] * 31)
    losses = []
    for seed in (7, 7, 11):
        torch.manual_seed(seed)
        losses.append(sampled_cross_entropy(logits, target))
    assert_close(losses[0], losses[1], rtol=0, atol=0)
    assert not torch.equal(losses[0], losses[2])
    assert not torch.equal(losses[2], sampled_cross_entropy(logits, target)), "drawn anew"


@pytest.mark.parametrize("loss", LOSSES)
def test_a_question_without_a_known_answer(loss: str) -> None:
    head = Classification(5, ANSWERS, hidden_dims=(), loss=loss)
    target = head.encode_targets([["purple"] * 10, ["yes"] * 10])
    logits = torch.randn(2, 3, requires_grad=True)
    losses = head.train_loss(logits, target)
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert torch.isfinite(logits.grad).all()
    assert losses[1] > 0
    if loss == "bce":
        assert_close(losses[0], torch.nn.functional.softplus(logits[0]).sum())
    else:
        assert losses[0] == 0
        assert not logits.grad[0].any()


@pytest.mark.parametrize("loss", ["bce", "kl", "ce"])
def test_two_half_batches_are_worth_the_whole(loss: str) -> None:
    """The divisor is the global count: gradient accumulation and multiple processes rely on it."""
    head = Classification(5, ANSWERS, loss=loss)
    target = counted((3, 1, 0), (0, 10, 0), (2, 2, 2), (0, 0, 0), (0, 1, 4))
    logits = torch.randn(5, 3)
    whole = head.loss(logits, make_batch(target, 5))
    assert_close(whole, head.train_loss(logits, target).mean())
    halves = [
        head.loss(logits[rows], make_batch(AnswerCounts(*(t[rows] for t in target)), 5))
        for rows in (slice(0, 2), slice(2, 5))
    ]
    assert_close(halves[0] + halves[1], whole)
    assert_close(head.loss(logits, make_batch(target, 10)), whole / 2)


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_in_half_precision_stay_finite(loss: str) -> None:
    head = Classification(5, ANSWERS, loss=loss)
    logits = torch.tensor([[80.0, -80, 3], [-70, 60, 0]], dtype=torch.bfloat16)
    target = AnswerVocabulary(ANSWERS).encode([["yes", "no"], ["purple"]])
    assert torch.isfinite(head.train_loss(logits, target)).all()


def test_a_sampled_loss_is_not_sampled_in_evaluation() -> None:
    """The validation loss selects checkpoints, so it must not depend on chance."""
    head = Classification(3, ["a", "b", "c"], hidden_dims=(), loss="sampled_ce").eval()
    targets = head.encode_targets([["a", "a", "b"], ["c", "b", "c"]])
    logits = torch.randn(2, 3)
    batch = Batch(*[torch.empty(0)] * 4, targets=targets, ids=["0", "1"], total=2)
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2]))
    assert all(torch.equal(head.loss(logits, batch), head.loss(logits, batch)) for _ in range(20))
    torch.testing.assert_close(head.loss(logits, batch), expected)


@pytest.mark.parametrize("loss", [soft_bce, kl_divergence, cross_entropy, sampled_cross_entropy])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_have_the_loss_of_float32(
    loss: Callable[[torch.Tensor, AnswerCounts], torch.Tensor], dtype: torch.dtype
) -> None:
    """Logits may be close together, numerous, or near the limit of float16."""
    for scale, answers in ((1, 5), (100, 5), (1, 5000), (2e4, 5)):
        logits = (torch.randn(50, answers) * scale).clamp(-6e4, 6e4).to(dtype)
        counts = torch.randint(0, 4, logits.shape).to(dtype)
        target = AnswerCounts(counts, counts.sum(-1) + 1)
        values = []
        for given, said in ((logits, target), (logits.float(), AnswerCounts(*map(wide, target)))):
            torch.manual_seed(0)
            values.append(loss(given, said))
        got, expected = values
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert loss(logits.double(), AnswerCounts(*map(wide, target))).dtype == torch.float64


def wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float()
