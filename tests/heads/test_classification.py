"""The classifier's loss, its layers, and how scores become answers."""

from __future__ import annotations

import copy
import math
import pickle
import re
import sys
from functools import partial
from typing import Any

import pytest
import torch
from test_losses import LOSSES, counted, make_batch
from torch import nn
from torch.testing import assert_close

from vlm.core.features import as_features
from vlm.core.part import build
from vlm.heads import Classification, MultiTask, losses

ANSWERS = ["yes", "no", "red", "green", "blue"]


@pytest.mark.parametrize(
    ("name", "function"),
    [("bce", losses.soft_bce), ("kl", losses.kl_divergence), ("ce", losses.cross_entropy)],
)
def test_the_loss_is_the_one_it_is_named_for(name: str, function: object) -> None:
    head = Classification(3, ANSWERS, loss=name)
    scores, target = torch.randn(2, 5), counted((3, 1, 0, 2, 0), (0, 0, 9, 0, 1))
    wanted = function(scores, target).sum() / 7
    assert_close(head.loss(scores, make_batch(target, 7)), wanted)


def test_sampled_ce_samples() -> None:
    head = Classification(3, ANSWERS, loss="sampled_ce")
    scores, batch = torch.randn(1, 5), make_batch(counted((5, 5, 0, 0, 0)), 1)
    drawn = {round(float(head.loss(scores, batch)), 4) for _ in range(40)}
    wanted = -scores.log_softmax(-1)[0, :2]
    assert sorted(drawn) == pytest.approx(sorted(wanted.tolist()), abs=1e-4)


@pytest.mark.parametrize("loss", ["bce", "ce"])
def test_probabilities_that_round_to_1_keep_the_order_of_the_scores(loss: Any) -> None:
    head = Classification(3, ANSWERS, loss=loss)
    scores = torch.stack([torch.randperm(5) for _ in range(20)]) + 20.0
    for row, ranked in zip(scores, head.decode(scores, 5), strict=True):
        assert [text for text, _ in ranked] == [ANSWERS[i] for i in row.argsort(descending=True)]


def test_an_unknown_loss_is_named() -> None:
    with pytest.raises(ValueError, match=r"loss: got 'hinge'.*bce"):
        Classification(3, ANSWERS, loss="hinge")


def squared(logits: torch.Tensor, target: losses.AnswerCounts, weight: float = 1.0) -> torch.Tensor:
    return weight * (logits - losses.shares(target)).square().sum(-1)


@pytest.mark.parametrize(
    ("loss", "weight"), [(squared, 1), (partial(squared, weight=3), 3), (lambda *a: squared(*a), 1)]
)
@pytest.mark.parametrize("training", [True, False])
def test_a_function_is_the_loss(loss: Any, weight: int, training: bool) -> None:
    head = Classification(3, ANSWERS, loss=loss).train(training)
    scores, target = torch.randn(2, 5), counted((3, 1, 0, 2, 0), (0, 0, 9, 0, 1))
    expected = weight * squared(scores, target).sum() / 7
    assert_close(head.loss(scores, make_batch(target, 7)), expected)
    rows = head.decode(scores, 5)
    assert [sum(p for _, p in row) for row in rows] == pytest.approx([1, 1])


@pytest.mark.parametrize("loss", [squared, partial(squared, weight=3)])
def test_a_head_built_from_its_configuration_answers_without_the_function(loss: Any) -> None:
    head = Classification(3, ANSWERS, loss=loss)
    path = f"{__name__}.squared"
    assert head.config["init_args"]["loss"] == path
    built = build(head.config)
    built.load_state_dict(head.state_dict())
    fused = as_features(torch.randn(2, 3), "fused")
    batch = make_batch(counted((3, 1, 0, 2, 0), (0, 0, 9, 0, 1)), 7)
    assert built.decode(built(fused, batch), 2) == head.decode(head(fused, batch), 2)
    assert built.config == head.config
    with pytest.raises(ValueError, match=rf"loss: got '{path}'"):
        built.loss(built(fused, batch), batch)


def test_a_path_in_a_configuration_is_never_imported() -> None:
    config = Classification(3, ANSWERS).config
    config["init_args"]["loss"] = "antigravity.nothing"
    build(config)
    assert "antigravity" not in sys.modules


def test_heads_with_a_function_are_copied() -> None:
    head = Classification(3, ANSWERS, loss=squared)
    for copied in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert copied.train_loss is squared
        assert copied.config == head.config


def test_a_function_inside_multi_task() -> None:
    several = MultiTask(3, {"kind": partial(Classification, loss=squared)}, answers=ANSWERS)
    assert several.heads["kind"].train_loss is squared
    factory = several.config["init_args"]["heads"]["kind"]
    assert factory["init_args"]["loss"] == f"{__name__}.squared"
    assert build(several.config).config == several.config


def test_a_loss_without_a_value_for_each_question_is_refused() -> None:
    head = Classification(3, ANSWERS, loss=lambda logits, target: squared(logits, target).mean())
    with pytest.raises(ValueError, match=r"loss: got shape \(\).*\(2,\)"):
        head.loss(torch.randn(2, 5), make_batch(counted((3, 1, 0, 2, 0), (0, 0, 9, 0, 1)), 7))


@pytest.mark.parametrize("loss", [nn.Linear(5, 1), 3, None])
def test_what_is_no_loss_is_named(loss: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"loss: got {loss!r}")):
        Classification(3, ANSWERS, loss=loss)


@pytest.mark.parametrize("loss", LOSSES)
def test_decode_gives_probabilities_in_order(loss: str) -> None:
    head = Classification(3, ANSWERS, loss=loss)
    scores = torch.tensor([[0.1, 2.0, -1.0, 0.7, -3.0], [-2.0, -2.5, 4.0, -9.0, 1.0]])
    rows = head.decode(scores, 3)
    assert [[answer for answer, _ in row] for row in rows] == [
        ["no", "green", "yes"],
        ["red", "blue", "yes"],
    ]
    for row, values in zip(rows, scores.tolist(), strict=True):
        top = sorted(values, reverse=True)[:3]
        if head.independent:
            wanted = [1 / (1 + math.exp(-v)) for v in top]
        else:
            wanted = [math.exp(v) / sum(map(math.exp, values)) for v in top]
        assert [p for _, p in row] == pytest.approx(wanted, abs=1e-6)
        assert all(isinstance(p, float) for _, p in row)


def test_decode_gives_at_most_the_whole_vocabulary() -> None:
    rows = Classification(3, ANSWERS, loss="ce").decode(torch.randn(2, 5), 100)
    for row in rows:
        assert sorted(answer for answer, _ in row) == sorted(ANSWERS)
        assert sum(p for _, p in row) == pytest.approx(1)


def test_decode_reads_half_precision() -> None:
    scores = torch.tensor([[0.5, 3.0, 0.0, 0.0, 0.0]], dtype=torch.bfloat16)
    ((answer, probability),) = Classification(3, ANSWERS).decode(scores, 1)[0]
    assert answer == "no"
    assert probability == pytest.approx(1 / (1 + math.exp(-3)), abs=1e-6)


def test_the_layers_are_those_asked_for() -> None:
    def widths(head: Classification) -> list[tuple[int, int]]:
        linear = [m for m in head.modules() if isinstance(m, nn.Linear)]
        return [(m.in_features, m.out_features) for m in linear]

    assert widths(Classification(3, ANSWERS, hidden_dims=())) == [(3, 5)]
    assert widths(Classification(3, ANSWERS, hidden_dims=(7, 11))) == [(3, 7), (7, 11), (11, 5)]
    head = Classification(3, ANSWERS, hidden_dims=())
    x, batch = torch.randn(2, 3), make_batch(counted(*[(0,) * 5] * 2), 2)
    linear = head.layers[0]
    assert_close(head(as_features(x, "x"), batch), x @ linear.weight.T + linear.bias)


def test_dropout_is_for_training_alone() -> None:
    head = Classification(3, ANSWERS, hidden_dims=(64,), dropout=0.5)
    x, batch = as_features(torch.randn(2, 3), "x"), make_batch(counted(*[(0,) * 5] * 2), 2)
    assert not torch.equal(head(x, batch), head(x, batch))
    head.eval()
    assert_close(head(x, batch), head(x, batch), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_dim": 0}, "in_dim: got 0; expected a positive integer"),
        ({"hidden_dims": (7, -1)}, r"hidden_dims\[1\]: got -1"),
        ({"answers": []}, "answers: got none"),
        ({"answers": ["a", "b", "a"]}, "answers: got 'a' more than once"),
    ],
)
def test_mistakes_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Classification(**{"in_dim": 3, "answers": ANSWERS} | arguments)


@pytest.mark.parametrize("loss", LOSSES)
def test_it_is_rebuilt_from_its_configuration(loss: str) -> None:
    head = Classification(3, ANSWERS, hidden_dims=(7,), loss=loss).eval()
    again = build(head.config).eval()
    again.load_state_dict(head.state_dict())
    x, batch = as_features(torch.randn(2, 3), "x"), make_batch(counted(*[(0,) * 5] * 2), 2)
    assert_close(again(x, batch), head(x, batch), rtol=0, atol=0)
    assert again.decode(head(x, batch), 2) == head.decode(head(x, batch), 2)
    assert again.vocabulary.hash == head.vocabulary.hash


def test_evidence_is_the_logit_of_the_answer_and_has_a_gradient() -> None:
    head = Classification(3, ANSWERS)
    logits = torch.tensor([[0.1, 2.0, -1.0, 0.7, -3.0], [-2.0, -2.5, 4.0, -9.0, 1.0]])
    logits.requires_grad_()
    evidence = head.evidence(logits, ["green", "yes"])
    assert evidence.tolist() == pytest.approx([0.7, -2.0])
    evidence.sum().backward()
    assert logits.grad is not None
    assert logits.grad.nonzero().tolist() == [[0, 3], [1, 0]]


def test_evidence_for_an_answer_that_cannot_be_given_names_it() -> None:
    head = Classification(3, ANSWERS)
    with pytest.raises(ValueError, match=r"answers: got 'purple'.*none of the model's 5 answers"):
        head.evidence(torch.zeros(1, 5), ["purple"])


def test_evidence_is_asked_for_each_question() -> None:
    with pytest.raises(ValueError, match="answers: got 1 for 2 questions"):
        Classification(3, ANSWERS).evidence(torch.randn(2, 5), ["yes"])


@pytest.mark.parametrize("opposites", [("yes",), ("yes", "yes")])
def test_opposites_are_two(opposites: Any) -> None:
    with pytest.raises(ValueError, match=r"opposites: got .*; expected two different answers"):
        Classification(3, ANSWERS, consistency=0.5, opposites=opposites)
