"""LMH: the ensemble, its entropy and its gates, worked out by hand; what is trained by what."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from test_losses import counted, make_batch
from torch.testing import assert_close

from vlm.core.batch import Batch
from vlm.core.features import Features, as_features
from vlm.core.part import build
from vlm.fusion import Pooled
from vlm.heads import Classification, LearnedMixin, MultiTask, losses
from vlm.heads.learned_mixin import Mixture
from vlm.image import ConvNet
from vlm.model import VQAModel
from vlm.text import BagOfWords

ANSWERS = ["yes", "no"]
LOG2 = math.log(2)


def head(**given: Any) -> LearnedMixin:
    return LearnedMixin(3, 5, **({"answers": ANSWERS, "smoothing": 0.1} | given))


def batch_of(*rows: tuple[int, ...], total: int = 1) -> Batch:
    question = as_features(torch.randn(len(rows), 5), "question")
    return make_batch(counted(*rows, annotators=1), total)._replace(question=question)


def mixture(logits: list[float], bias: list[float], gate: float) -> Mixture:
    return Mixture(torch.tensor([logits]), torch.tensor([bias]), torch.tensor([[gate]]))


def test_cross_entropy_of_the_ensemble_by_hand() -> None:
    """p = (1/2, 1/2), b = (4/5, 1/5), smoothed by 1/10: (9, 3) / 10; g = 2: the ensemble says
    81 : 9, and so does softmax(g log b), as p is even. The branch itself: -log 4/5."""
    output = mixture([0.0, 0.0], [math.log(0.8), math.log(0.2)], 2.0)
    p, q = 0.9, 0.1
    entropy = -p * math.log(p) - q * math.log(q)
    got = head(loss="ce", entropy=0.5).loss(output, batch_of((1, 0)))
    assert float(got) == pytest.approx(-math.log(p) + 0.5 * entropy - math.log(0.8), abs=1e-6)


def test_binary_cross_entropy_of_the_ensemble_by_hand() -> None:
    """Each answer is a yes or no of its own. Of "yes", b = 4/5, smoothed 9 : 3, and p = 1/2, so
    with g = 1 the ensemble says 3/4; of "no", b = 1/2 and p = 3/4: 3/4, and it should say 0."""
    output = mixture([0.0, math.log(3)], [math.log(4), 0.0], 1.0)
    ensemble = -math.log(3 / 4) - math.log(1 / 4)
    entropy = (-0.75 * math.log(0.75) - 0.25 * math.log(0.25) + LOG2) / 2
    branch = -math.log(4 / 5) + LOG2
    got = head(loss="bce", entropy=2.0).loss(output, batch_of((1, 0)))
    assert float(got) == pytest.approx(ensemble + 2 * entropy + branch, abs=1e-6)


@pytest.mark.parametrize("loss", ["bce", "ce"])
def test_what_the_branch_rules_out_the_model_learns_all_the_same(loss: str) -> None:
    """The gradient of an answer of which the branch is sure that it is wrong."""
    logits = torch.zeros(1, 2, requires_grad=True)
    output = Mixture(logits, torch.tensor([[20.0, -20.0]]), torch.ones(1, 1))
    head(loss=loss).loss(output, batch_of((1, 0))).backward()
    assert logits.grad is not None
    assert float(logits.grad[0, 1]) == pytest.approx(0.1 / 1.2, rel=1e-3)  # 1/10 : 11/10


def test_without_a_gate_the_ensemble_is_the_model() -> None:
    logits = [0.3, -1.2]
    got = head(loss="ce", entropy=0.0).loss(mixture(logits, [0.0, 0.0], 0.0), batch_of((0, 1)))
    alone = Classification(3, ANSWERS, loss="ce").loss(torch.tensor([logits]), batch_of((0, 1)))
    assert float(got) == pytest.approx(float(alone) + LOG2, abs=1e-6)


@pytest.mark.parametrize("independent", [True, False])
def test_entropies_by_hand(independent: bool) -> None:
    even, sure = losses.entropy(torch.tensor([[0.0, 0.0], [200.0, -200.0]]), independent)
    assert float(even) == pytest.approx(LOG2)
    assert float(sure) == pytest.approx(0, abs=1e-6)


def test_the_gate_is_a_softplus_of_the_joint_vector() -> None:
    made = head()
    torch.nn.init.constant_(made.gate.weight, 1.0)
    torch.nn.init.constant_(made.gate.bias, -1.0)
    fused = as_features(torch.tensor([[1.0, 2.0, -2.0]]), "joint")
    output = made(fused, batch_of((1, 0)))
    assert isinstance(output, Mixture)
    assert_close(output.gate, torch.tensor([[LOG2]]))


def test_where_the_branch_is_right_little_is_left_to_learn() -> None:
    """So p is pushed least where the prior already gives the answer, and most where it misleads."""
    pushed = []
    for answer in ((1, 0), (0, 1)):
        logits = torch.zeros(1, 2, requires_grad=True)
        output = Mixture(logits, torch.tensor([[2.0, -2.0]]), torch.ones(1, 1))
        head(loss="ce").loss(output, batch_of(answer)).backward()
        assert logits.grad is not None
        pushed.append(float(logits.grad.abs().max()))
    assert pushed[1] > 5 * pushed[0]


@pytest.mark.parametrize("loss", ["bce", "kl", "ce", "sampled_ce"])
def test_the_branch_is_trained_by_itself_and_trains_nothing_else(loss: str) -> None:
    made = head(loss=loss)
    joint = torch.randn(4, 3, requires_grad=True)
    question = torch.randn(4, 5, requires_grad=True)
    batch = batch_of((1, 0), (1, 0), (0, 1), (1, 0), total=4)
    batch = batch._replace(question=as_features(question, "question"))
    output = made(as_features(joint, "joint"), batch)
    assert isinstance(output, Mixture)
    made.loss(output, batch).backward()
    assert question.grad is None
    assert joint.grad is not None
    assert all(parameter.grad is not None for parameter in made.parameters())
    own = [p.grad.clone() for p in made.question_only.parameters() if p.grad is not None]
    made.zero_grad()
    made.values(made.question_only(question), batch.targets).sum().div(4).backward()
    if loss != "sampled_ce":
        for got, parameter in zip(own, made.question_only.parameters(), strict=True):
            assert_close(got, parameter.grad)


def test_it_answers_and_is_measured_without_the_branch() -> None:
    made = head(loss="ce").eval()
    fused = as_features(torch.randn(2, 3), "joint")
    batch = batch_of((1, 0), (0, 1), total=2)
    output = made(fused, batch._replace(question=None))
    plain = Classification(3, ANSWERS, loss="ce").eval()
    plain.load_state_dict({k: v for k, v in made.state_dict().items() if k.startswith("layers.")})
    assert_close(output, plain(fused, batch))
    assert_close(made.loss(output, batch), plain.loss(plain(fused, batch), batch))


def test_a_model_gives_it_the_question_once_encoded() -> None:
    """Of three questions two are equal, and are encoded once."""
    image, text = ConvNet(), BagOfWords(["red", "blue"])
    fusion = Pooled(image.dim, text.dim)
    made = LearnedMixin(fusion.out_dim, text.dim, ANSWERS)
    model = VQAModel(image, text, fusion, made)
    asked: list[Features] = []
    made.question_only.register_forward_pre_hook(lambda _, given: asked.append(given[0]))
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    questions = ["red?", "blue?", "red?"]
    batch = model.processor.batch(images, [0, 0, 1], questions, [["yes"], ["no"], ["no"]])
    model.head.loss(model(batch), batch).backward()
    assert_close(asked[0], model.read(batch).pooled.detach())
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert not asked[0].requires_grad


def test_what_is_missing_is_named() -> None:
    fused = as_features(torch.randn(1, 3), "joint")
    with pytest.raises(ValueError, match="question: got none; expected the encoded questions"):
        head()(fused, batch_of((1, 0))._replace(question=None))
    with pytest.raises(ValueError, match="text_dim: got 0"):
        LearnedMixin(3, answers=ANSWERS)
    with pytest.raises(ValueError, match="smoothing: got 0; expected a positive number"):
        head(smoothing=0)
    with pytest.raises(ValueError, match=r"entropy: got -1; expected a number of at least 0"):
        head(entropy=-1)


def test_it_is_rebuilt_from_its_configuration_also_among_several() -> None:
    made = head(hidden_dims=(7,), entropy=0.1)
    again = build(made.config)
    assert again.config == made.config
    again.load_state_dict(made.state_dict())
    several = MultiTask(3, {"answer": LearnedMixin}, text_dim=5, answers=ANSWERS)
    assert several.reads_question
    assert several.text_dim == 5
