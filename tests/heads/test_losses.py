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
    balanced_weights,
    cross_entropy,
    distillation,
    focal,
    kl_divergence,
    log_odds,
    sampled_cross_entropy,
    shares,
    soft_bce,
    soft_scores,
)
from vlm.heads.vocabulary import AnswerVocabulary
from vlm.metrics import soft_score

LOSSES = ("bce", "focal", "kl", "ce", "sampled_ce")
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
    if loss in ("bce", "focal"):
        easy = logits[0].sigmoid() ** (2 if loss == "focal" else 0)
        assert_close(losses[0], (easy * torch.nn.functional.softplus(logits[0])).sum())
    else:
        assert losses[0] == 0
        assert not logits.grad[0].any()


@pytest.mark.parametrize("loss", ["bce", "focal", "kl", "ce"])
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


@pytest.mark.parametrize(
    "loss", [soft_bce, focal, kl_divergence, cross_entropy, sampled_cross_entropy]
)
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


def test_focal_by_hand() -> None:
    # One annotator said the first answer; of soft scores three of ten (0.9) and one of ten (0.3).
    p = (0.6, 0.2)
    logits = torch.tensor([[math.log(q / (1 - q)) for q in p]] * 2)
    target = AnswerCounts(torch.tensor([[1.0, 0], [3, 1]]), torch.tensor([1.0, 10]))
    hard = 0.4**2 * -math.log(0.6) + 0.2**2 * -math.log(0.8)
    soft = 0.3**2 * -(0.9 * math.log(0.6) + 0.1 * math.log(0.4))
    soft += 0.1**2 * -(0.3 * math.log(0.2) + 0.7 * math.log(0.8))
    assert_close(focal(logits, target), torch.tensor([hard, soft]))
    assert_close(focal(logits, target, gamma=0), soft_bce(logits, target))


@pytest.mark.parametrize("gamma", [1.0, 2.0, 3.5])
def test_focal_is_torchvisions_where_scores_are_0_or_1(gamma: float) -> None:
    ops = pytest.importorskip("torchvision.ops")
    logits = torch.randn(20, 7) * 3
    counts = torch.nn.functional.one_hot(torch.randint(7, (20,)), 7).float()
    target = AnswerCounts(counts, torch.ones(20))
    expected = ops.sigmoid_focal_loss(logits, counts, alpha=-1, gamma=gamma).sum(-1)
    assert_close(focal(logits, target, gamma), expected)
    # Its alpha is a weight of a class's term where it is right, and of the others where it is not.
    weighed = focal(logits, target, gamma, weights=torch.full((7,), 0.25))
    assert_close(weighed, 0.25 * expected)


def test_focal_is_least_at_the_soft_score() -> None:
    target = counted((3, 0, 0))  # 0.9
    at = torch.tensor([math.log(9.0), -20, -20])
    values = [float(focal((at + d * torch.eye(3)[0])[None], target)) for d in (-0.5, 0, 0.5)]
    assert values[1] < min(values[0], values[2])


def test_smoothing_by_hand() -> None:
    p = (0.5, 0.3, 0.2)
    logits = torch.tensor([[math.log(q) for q in p]])
    # Nine tenths of the target stay, one tenth is spread over three answers.
    said = (0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3)
    by_hand = -sum(q * math.log(each) for q, each in zip(said, p, strict=True))
    target = counted((10, 0, 0))
    assert_close(cross_entropy(logits, target, 0.1), torch.tensor([by_hand]))
    entropy = sum(q * math.log(q) for q in said)
    assert_close(kl_divergence(logits, target, 0.1), torch.tensor([by_hand + entropy]))
    odds = torch.tensor([[math.log(q / (1 - q)) for q in p]])
    doubted = -sum(
        q * math.log(each) + (1 - q) * math.log(1 - each)
        for q, each in zip((0.95, 0.05, 0.05), p, strict=True)
    )
    assert_close(soft_bce(odds, target, 0.1), torch.tensor([doubted]))


@pytest.mark.parametrize("loss", [soft_bce, focal, kl_divergence, cross_entropy])
def test_weights_multiply_the_terms_of_their_answers(
    loss: Callable[..., torch.Tensor],
) -> None:
    logits, target = torch.randn(4, 3), counted((9, 1, 0), (0, 5, 5), (2, 2, 6), (0, 0, 0))
    of_each = [loss(logits, target, weights=torch.eye(3)[n]) for n in range(3)]
    weights = torch.tensor([2.0, 0, 0.5])
    expected = 2 * of_each[0] + 0.5 * of_each[2]
    assert_close(loss(logits, target, weights=weights), expected)
    assert_close(loss(logits, target), sum(of_each))


def test_balanced_weights_make_answers_count_alike() -> None:
    counts = {"yes": 60, "no": 30, "red": 10}
    weights = balanced_weights(counts)
    assert weights == pytest.approx({"yes": 100 / 180, "no": 100 / 90, "red": 100 / 30})
    assert sum(weights[name] * count for name, count in counts.items()) == pytest.approx(100)
    with pytest.raises(ValueError, match="got 0 of 'no'"):
        balanced_weights({"yes": 1, "no": 0})


def test_the_head_smooths_and_weighs_in_training_alone() -> None:
    weights = {"no": 0.25}
    options = {"loss": "ce", "label_smoothing": 0.1, "class_weights": weights}
    head = Classification(5, ANSWERS, hidden_dims=(), **options)  # type: ignore[arg-type]
    logits, target = torch.randn(2, 3), counted((0, 9, 1), (9, 1, 0))
    batch = make_batch(target, 2)
    in_full = torch.tensor([1, 0.25, 1])
    trained = cross_entropy(logits, target, 0.1, in_full).mean()
    assert_close(head.loss(logits, batch), trained)
    assert_close(head.eval().loss(logits, batch), cross_entropy(logits, target).mean())
    again = Classification(**head.arguments)
    assert_close(again.loss(logits, batch), trained)
    narrow = again.to(torch.bfloat16).loss(logits.bfloat16(), batch)
    assert_close(narrow, trained, rtol=0.02, atol=0.02)
    assert not head.state_dict().keys() - {"layers.0.weight", "layers.0.bias"}


def test_the_head_knows_its_exponent() -> None:
    head = Classification(5, ANSWERS, loss="focal", gamma=1.5)
    logits, target = torch.randn(2, 3), counted((0, 9, 1), (9, 1, 0))
    assert_close(head.values(logits, target), focal(logits, target, 1.5))
    assert head.independent


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing: got 1.0"),
        ({"class_weights": {"yess": 2.0}}, "weight for 'yess'.* Did you mean yes"),
        ({"class_weights": {"yes": -1.0}}, r"class_weights\[yes\]: got -1.0"),
        ({"gamma": 0.5}, "gamma: got 0.5"),
        ({"loss": soft_bce, "label_smoothing": 0.1}, "got some beside the loss"),
    ],
)
def test_a_wrong_option_of_a_loss_is_named(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Classification(5, ANSWERS, **options)  # type: ignore[arg-type]


def test_distillation_by_hand() -> None:
    # At temperature 2, softmax(log p^2 / 2) is p, and the same for q.
    p, q = (0.5, 0.3, 0.2), (0.2, 0.2, 0.6)
    teacher, student = (torch.tensor([[2 * math.log(x) for x in each]]) for each in (p, q))
    divergence = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    got = distillation(student, teacher, 2, independent=False)
    assert_close(got, torch.tensor([4 * divergence]))
    odds = [torch.tensor([[2 * math.log(x / (1 - x)) for x in each]]) for each in (p, q)]
    divergence += sum((1 - a) * math.log((1 - a) / (1 - b)) for a, b in zip(p, q, strict=True))
    got = distillation(odds[1], odds[0], 2, independent=True)
    assert_close(got, torch.tensor([4 * divergence]))
    for independent in (False, True):
        assert_close(distillation(student, student, 3, independent), torch.zeros(1))


def test_odds_of_a_distribution() -> None:
    logits = torch.tensor([[5.0, 5.0, -5.0], [0.0, 0.0, -10.0], [40.0, 0.0, 0.0]])
    assert_close(log_odds(logits).sigmoid(), logits.softmax(-1), rtol=1e-4, atol=1e-6)
    assert_close(log_odds(logits + 3), log_odds(logits))


def test_distillation_at_a_high_temperature_compares_logits() -> None:
    """Hinton et al., section 2.1: its gradient is then (z - v) / A of centred logits."""
    student = torch.tensor([[1.0, -2, 0.5]], requires_grad=True)
    teacher = torch.tensor([[0.3, 0.1, -1]])
    distillation(student, teacher, 1e3, independent=False).sum().backward()
    centred = [z - z.mean() for z in (student.detach(), teacher)]
    assert student.grad is not None
    assert_close(student.grad, (centred[0] - centred[1]) / 3, rtol=1e-2, atol=1e-3)
