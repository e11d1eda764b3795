"""The head that generates its answers, with the decoder trained from scratch."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from vlm.core.batch import Batch
from vlm.core.choices import Choices
from vlm.core.features import Features, as_features
from vlm.core.part import build
from vlm.heads import AnswerTokenizer, Generation, TransformerDecoder
from vlm.heads.generation.head import CUT

DECODER = partial(
    TransformerDecoder, dim=6, num_layers=2, num_heads=3, feedforward_dim=17, max_length=11
)


class Letters(AnswerTokenizer):
    """A vocabulary small enough that random weights give varied texts that end."""

    vocab_size, begin, end = 11, 10, 10

    def encode(self, answer: str) -> list[int]:
        return [ord(letter) - ord("a") for letter in answer]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(ord("a") + i) for i in ids)


LETTERS = partial(DECODER, tokenizer=Letters())
ANSWERS = [["yes", "no", "no"], ["rectangle"], ["2", "two"], [""], ["blå"]]


def make(**arguments: Any) -> Generation:
    """Build a head with weights large enough that texts differ and some end."""
    head = Generation(13, arguments.pop("decoder", DECODER), **arguments).eval()
    for parameter in head.decoder.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.7)
    return head


def fused() -> Features:
    mask = torch.arange(7) < torch.tensor([7, 3, 1, 5, 0])[:, None]
    return Features(torch.randn(5, 7, 13), mask, torch.randn(5, 13))


def ask(head: Generation, answers: list[list[str]] = ANSWERS) -> Batch:
    targets = head.encode_targets(answers)
    return Batch(None, None, None, None, targets, [str(i) for i in range(5)], 5)


@pytest.mark.parametrize("beams", [1, 3])
def test_padding_and_batch_change_nothing(beams: int) -> None:
    head, joint = make(beams=beams, decoder=LETTERS), fused()
    given = ["head", "bad", "cafe", "a", "deaf"]
    batch = ask(head, [[text] for text in given])
    wanted = head.decode(head(joint, batch), beams)
    evidence = head.evidence(head(joint, batch), given)
    assert len({ranked[0][0] for ranked in wanted}) == 5  # else equality would prove nothing
    assert len({len(ranked[0][0]) for ranked in wanted}) > 1

    mask = F.pad(joint.mask, (0, 3))
    junk = F.pad(joint.tokens, (0, 0, 0, 3)).masked_fill(~mask[..., None], float("nan"))
    padded = head(Features(junk, mask, joint.pooled), batch)
    assert texts(head.decode(padded, beams)) == texts(wanted)
    assert_close(head.evidence(padded, given), evidence)
    assert_close(head.loss(padded, batch), head.loss(head(joint, batch), batch))

    order = [3, 0, 4, 1, 2]
    turned = head(joint.take(torch.tensor(order)), batch)
    assert texts(head.decode(turned, beams)) == [texts(wanted)[i] for i in order]
    for row in range(5):
        alone = head(joint.take(torch.tensor([row])), batch)
        assert texts(head.decode(alone, beams)) == [texts(wanted)[row]]
        assert_close(head.evidence(alone, given[row : row + 1]), evidence[row : row + 1])


def texts(ranked: list[list[tuple[str, float]]]) -> list[list[str]]:
    return [[text for text, _ in row] for row in ranked]


@pytest.mark.parametrize("beams", [1, 4])
def test_a_probability_is_that_of_the_text_and_its_end(beams: int) -> None:
    """The search with its cache gives the probabilities of one pass over the whole text."""
    head, joint = make(beams=beams, decoder=LETTERS), fused()
    output = head(joint, ask(head, [["a"]] * 5))
    compared = 0
    for row, ranked in enumerate(head.decode(output, beams)):
        assert sum(p for _, p in ranked) <= 1 + 1e-6
        assert ranked == sorted(ranked, key=lambda x: -x[1])
        for text, probability in ranked:
            if not text.endswith(CUT):
                evidence = head.evidence(output, [text] * 5)[row].exp().item()
                assert probability == pytest.approx(evidence, rel=1e-3)
                compared += 1
    assert compared >= beams


def test_uniform_outputs_have_a_known_loss() -> None:
    head = Generation(13, DECODER)
    torch.nn.init.zeros_(head.decoder.embedding.weight)  # so all logits are 0
    tokens = len("no") + len("rectangle") + len("2") + 0 + len("blå".encode()) + 5
    loss = head.loss(head(fused(), ask(head)), ask(head))
    assert loss.item() == pytest.approx(tokens * math.log(257) / 5, rel=1e-6)


def test_the_loss_is_minus_the_evidence_of_the_most_frequent_answer() -> None:
    head = make()
    output = head(fused(), ask(head))
    evidence = head.evidence(output, ["no", "rectangle", "2", "", "blå"])
    assert_close(head.loss(output, ask(head)), -evidence.mean())


def test_sampled_answers_are_learned_as_often_as_they_were_given() -> None:
    head = make(train_on="sampled")
    output = head(fused(), ask(head))
    batch = ask(head, [["a", "b", "b", "b"]] * 5)
    assert batch.targets.counts.tolist() == [[3, 1]] * 5
    per_answer = [-head.evidence(output, [text] * 5) for text in "ba"]
    assert_close(head.loss(output, batch), per_answer[0].mean())  # evaluation takes the first
    head.train()
    mean = torch.stack([head.loss(output, batch) for _ in range(400)]).mean()
    assert_close(mean, (0.75 * per_answer[0] + 0.25 * per_answer[1]).mean(), rtol=0.03, atol=0)


def test_a_text_that_never_ends_is_cut_and_marked() -> None:
    head = make(beams=2)
    with torch.no_grad():
        head.decoder.embedding.weight[:] = 0
        head.decoder.embedding.weight[97] = 5 * head.decoder.norm.bias.fill_(1)
    answers = head.decode(head(fused(), ask(head)), 2)
    assert answers[0][0] == ("a" * 11 + CUT, pytest.approx(1, abs=0.01))


def test_length_rules() -> None:
    joint = fused()
    lengths = []
    for arguments in ({}, {"min_length": 4}, {"length_penalty": 3.0}):
        torch.manual_seed(1)
        head = make(beams=4, decoder=LETTERS, **{"min_length": 0, **arguments})
        found = head.decode(head(joint, ask(head, [["a"]] * 5)), 4)
        lengths.append([len(text.rstrip(CUT)) for ranked in found for text, _ in ranked])
    free, at_least, favoured = lengths
    assert min(free) < 4 <= min(at_least)
    assert sum(favoured) > sum(free)


def test_candidates_are_ranked_by_likelihood(monkeypatch: pytest.MonkeyPatch) -> None:
    head = make()
    output = head(fused(), ask(head))
    candidates = [["yes", "no"], ["a", "bb", "ccc"], ["x"], ["u", "v"], ["no", "yes", "maybe"]]
    ranked = head.rank(output, candidates)
    for row, (given, found) in enumerate(zip(candidates, ranked, strict=True)):
        scores = {text: head.evidence(output, [text] * 5)[row].item() for text in given}
        assert [text for text, _ in found] == sorted(given, key=lambda text: -scores[text])
        total = sum(math.exp(score) for score in scores.values())
        for text, share in found:
            assert share == pytest.approx(math.exp(scores[text]) / total, rel=1e-3)
    read: list[int] = []
    head.decoder.register_forward_pre_hook(lambda _, given: read.append(len(given[0])))
    for rows in (4, 2):  # of which a question may have more
        monkeypatch.setattr(
            "vlm.heads.AnswerDecoder.rows_at_once", lambda self, memory, rows=rows: rows
        )
        assert texts(head.rank(output, candidates)) == texts(ranked)
        assert max(read) <= rows
        read.clear()
    with pytest.raises(ValueError, match=r"candidates: got lists of \[1, 0, 1, 1, 1\] for 5"):
        head.rank(output, [["a"], [], ["a"], ["a"], ["a"]])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["x", "x", "y"], "candidates of question 2: got the choice 'x' twice"),
        (["x", ""], "candidates of question 2: got an empty choice"),
        ([" "], "candidates of question 2: got an empty choice"),
        (["x", None], "candidates of question 2: got the choice None; expected texts"),
    ],
)
def test_candidates_that_would_share_a_probability_or_have_no_text(
    given: list[Any], message: str
) -> None:
    head = make()
    output = head(fused(), ask(head))
    alone = [["x"]] * 5
    assert head.rank(output, alone) == [[("x", 1.0)]] * 5
    with pytest.raises(ValueError, match=message):
        head.rank(output, [["a"], given, ["a"], ["a"], ["a"]])


def test_it_can_choose_instead_of_write() -> None:
    head = make(choose=True)
    choices = [["yes", "no"], ["a", "bb", "ccc"], ["x", "y"], ["u", "v"], ["no", "yes", "maybe"]]
    batch = ask(head)._replace(choices=Choices(*[torch.zeros(1)] * 4, choices))
    output = head(fused(), batch)
    assert head.takes_choices
    assert head.decode(output, 2) == [ranked[:2] for ranked in head.rank(output, choices)]
    assert not make().takes_choices
    with pytest.raises(ValueError, match=r"choices: got none, but this model picks"):
        head(fused(), ask(head))


def test_long_answers_are_an_error_before_a_training_and_cut_in_its_evaluation() -> None:
    head = make()
    long = " ".join(["word"] * 500)
    with pytest.raises(
        ValueError,
        match=r"max_length: got 11, but 3 of .* up to 2,500 \('word word.*\.\.\.\); raise",
    ):
        head.check_answers([["yes"], None, [long, long, "twelve bytes"]])
    head.check_answers([["exactly 10"], ["no"]])
    targets = head.encode_targets([[long], ["exactly 10"]])
    assert targets.mask.sum(2).tolist() == [[11], [11]]
    assert head.decoder.tokenizer.end not in targets.ids[0]
    assert targets.ids[1, 0, -1] == head.decoder.tokenizer.end
    with pytest.raises(ValueError, match=r"max_length: got 11, but 1 of"):
        head.evidence(head(fused(), ask(head)), [long, "a", "a", "a", "a"])
    with pytest.raises(ValueError, match=r"max_length: got 11, but 1 of the choices have more"):
        head.check_choices([["yes", long], None])


def test_likelihoods_are_float32_whatever_the_weights_are() -> None:
    head = make().bfloat16()
    joint = fused()
    joint = joint._replace(tokens=joint.tokens.bfloat16(), pooled=joint.pooled.bfloat16())
    batch = ask(head)
    output = head(joint, batch)
    assert head.evidence(output, ["yes"] * 5).dtype == torch.float32
    assert head.loss(output, batch).dtype == torch.float32


@pytest.mark.parametrize("train_on", ["most_frequent", "sampled"])
def test_every_parameter_and_the_input_learn(train_on: Any) -> None:
    head = Generation(13, DECODER, train_on)
    joint = fused()
    leaves = Features(joint.tokens.requires_grad_(), joint.mask, joint.pooled.requires_grad_())
    head.loss(head(leaves, ask(head)), ask(head)).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        # Except positions beyond these answers, and key biases, which cancel in the softmax.
        assert parameter.grad.any(), name
    assert leaves.pooled.grad.any(1).all()
    assert leaves.tokens.grad.any(2).equal(joint.mask)


def test_it_learns_to_write() -> None:
    head = Generation(13, DECODER, beams=2)
    joint, batch = fused(), ask(head, [["yes"], ["rectangle"], ["2"], ["grün"], ["no"]])
    optimizer = torch.optim.Adam(head.parameters(), 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        loss = head.loss(head(joint, batch), batch)
        loss.backward()
        optimizer.step()
    answers = head.eval().decode(head(joint, batch), 2)
    assert [ranked[0][0] for ranked in answers] == ["yes", "rectangle", "2", "grün", "no"]
    assert min(ranked[0][1] for ranked in answers) > 0.5


def test_a_pooled_fusion_is_enough() -> None:
    head = make()
    pooled = torch.randn(5, 13)
    mask = torch.ones(5, 1, dtype=torch.bool)
    one = head(Features(pooled[:, None], mask, pooled), ask(head))
    none = head(Features(pooled[:, None], ~mask, pooled), ask(head))
    assert_close(head.evidence(one, ["yes"] * 5), head.evidence(none, ["yes"] * 5))


def test_it_is_rebuilt_from_its_configuration() -> None:
    head = make(beams=2, length_penalty=0.5, min_length=2, train_on="sampled")
    joint = as_features(torch.randn(5, 7, 13), "joint")
    again = build(pickle.loads(pickle.dumps(head.config)))
    again.load_state_dict(head.state_dict())
    assert again.arguments.keys() == head.arguments.keys()
    wanted = head.decode(head(joint, ask(head)), 2)
    assert again.eval().decode(again(joint, ask(again)), 2) == wanted
    assert pickle.loads(pickle.dumps(head.encode_targets))(ANSWERS).ids.equal(ask(head).targets.ids)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beams": 0}, r"beams: got 0; expected a positive"),
        ({"beams": 129}, r"beams: got 129; expected less than half of the decoder's 257"),
        ({"length_penalty": 0.5}, r"length_penalty: got 0.5 with one beam"),
        ({"length_penalty": math.nan, "beams": 2}, r"length_penalty: got nan; expected a finite"),
        ({"length_penalty": 1.0, "beams": 2, "choose": True}, r"length_penalty: .* with `choose`"),
        ({"min_length": 11}, r"min_length: got 11; expected 0 or more, and less than .* 11"),
        ({"min_length": -1}, r"min_length: got -1"),
        ({"train_on": "all"}, r"train_on: got 'all'; expected one of most_frequent, sampled"),
        ({"decoder": partial(DECODER, num_heads=4)}, r"num_heads: got 4, which does not divide"),
        ({"decoder": partial(DECODER, max_length=0)}, r"max_length: got 0"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)
