"""Several heads on one trunk: the weighted sum, which head answers, and rebuilding."""

from __future__ import annotations

import json
import pickle
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from vlm.core.batch import Batch
from vlm.core.choices import make_choices
from vlm.core.features import as_features
from vlm.core.part import build
from vlm.fusion import Pooled, Product
from vlm.heads import Classification, MultipleChoice, MultiTask
from vlm.heads.multi_task import answering
from vlm.image import ConvNet
from vlm.text import BagOfWords, WordTokenizer
from vlm.training import PartTuning, Tuning, VQATask

ANSWERS = ["no", "yes", "red"]
CHOICES = [["no", "yes"], ["red", "no", "yes"]]
GIVEN = [["yes"], ["no"]]


def both(answers_by: str | None = None, **weights: float) -> MultiTask:
    heads = {
        "classify": partial(Classification, hidden_dims=(7,), loss="ce"),
        "choose": partial(MultipleChoice, merge=partial(Product, out_dim=11)),
    }
    return MultiTask(5, heads, answers_by, weights or None, text_dim=3, answers=ANSWERS)


def batch_of(head: MultiTask) -> Batch:
    choices = make_choices(CHOICES, WordTokenizer(ANSWERS))
    features = as_features(torch.randn(len(choices.words), 3), "choices")
    targets = head.encode_targets(GIVEN, CHOICES)
    return Batch(*[torch.empty(0)] * 4, targets, ["1", "2"], 5, choices._replace(features=features))


def test_the_loss_is_the_weighted_sum() -> None:
    head = both(choose=0.25)
    fused, batch = as_features(torch.randn(2, 5), "fused"), batch_of(head)
    output = head(fused, batch)
    assert set(output) == {"classify", "choose"}
    parts = {
        name: part.loss(output[name], batch._replace(targets=batch.targets[name]))
        for name, part in head.heads.items()
    }
    assert_close(head.loss(output, batch), parts["classify"] + 0.25 * parts["choose"])
    assert_close(both().weights, {"classify": 1.0, "choose": 1.0})


@pytest.mark.parametrize("name", ["classify", "choose"])
def test_one_head_answers(name: str) -> None:
    head = both(name)
    fused, batch = as_features(torch.randn(2, 5), "fused"), batch_of(head)
    output, part = head(fused, batch), head.heads[name]
    assert head.answering is part
    assert answering(head) is part
    assert answering(part) is part
    assert head.decode(output, 2) == part.decode(output[name], 2)
    assert head.decode_each(output, 1)[name] == part.decode(output[name], 1)
    assert set(head.decode_each(output, 1)) == {"classify", "choose"}
    given = ["yes", "red"]
    assert_close(head.evidence(output, given), part.evidence(output[name], given))
    assert (head.vocabulary is None) == (name == "choose")
    assert head.takes_choices
    assert head.text_dim == 3


def test_the_first_head_answers_unless_one_is_named() -> None:
    assert both().answers_by == "classify"


def test_without_choices_the_others_answer() -> None:
    fused = as_features(torch.randn(2, 5), "fused")
    head = both("classify")
    output = head(fused, batch_of(head)._replace(choices=None))
    assert set(output) == {"classify"}
    assert len(head.decode(output, 1)) == 2
    head = both("choose")
    with pytest.raises(ValueError, match="choices: got none"):
        head(fused, batch_of(head)._replace(choices=None))


def test_heads_without_choices_have_no_width_for_them() -> None:
    head = MultiTask(5, {"one": Classification, "two": Classification}, answers=ANSWERS)
    assert head.text_dim is None
    assert not head.takes_choices


def test_it_is_rebuilt_from_its_configuration() -> None:
    head = both("choose", classify=0.5).eval()
    config = json.loads(json.dumps(head.config))
    again = build(config).eval()
    again.load_state_dict(head.state_dict())
    fused, batch = as_features(torch.randn(2, 5), "fused"), batch_of(head)
    assert_close(again.loss(again(fused, batch), batch), head.loss(head(fused, batch), batch))
    assert again.answers_by == "choose"
    assert again.weights == head.weights
    assert again.config == head.config
    assert config["init_args"]["heads"]["classify"]["init_args"]["hidden_dims"] == [7]
    # Linked once: what the parts get from their surroundings stands in one place.
    assert "answers" not in config["init_args"]["heads"]["classify"]["init_args"]


def test_targets_travel_to_workers() -> None:
    encode = pickle.loads(pickle.dumps(both().encode_targets))
    targets = encode(GIVEN, CHOICES)
    assert targets["classify"].counts.tolist() == [[0, 1, 0], [1, 0, 0]]
    assert targets["choose"].tolist() == [[0, 1, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": {}}, "heads: got none; expected at least one"),
        ({"heads": {"a b": Classification}}, "heads: got the name 'a b'; expected a word"),
        ({"heads": {"keys": Classification}}, "heads: got the name 'keys'"),
        ({"answers_by": "chose"}, "answers_by: got 'chose'; expected one of the heads x"),
        ({"weights": {"y": 1.0}}, "weights: got 'y'; expected one of the heads x"),
        ({"weights": {"x": 0.0}}, "weights.x: got 0.0; expected a positive number"),
        ({"weights": {"x": float("nan")}}, "weights.x: got nan; expected a positive number"),
        ({"answers": []}, "answers: got none; expected at least one answer"),
        ({"heads": {"x": MultipleChoice}, "text_dim": 0}, "text_dim: got 0"),
        ({"heads": {"x": lambda in_dim: None}}, "give a class, or functools.partial of one"),
    ],
)
def test_mistakes_are_named(arguments: dict, message: str) -> None:
    given = {"heads": {"x": Classification}, "answers": ANSWERS, "text_dim": 3} | arguments
    with pytest.raises(ValueError, match=message):
        MultiTask(5, **given)


def test_a_frozen_head_of_several_has_the_loss_of_training() -> None:
    """Label smoothing is of training alone."""
    image, text = ConvNet(8, (3, 5)), BagOfWords(ANSWERS, dim=3)
    fusion = Pooled(image.dim, text.dim, partial(Product, out_dim=5))
    inner = partial(Classification, hidden_dims=(), loss="ce", label_smoothing=0.4)
    head = MultiTask(5, {"classify": inner}, answers=ANSWERS)
    task = VQATask(image, text, fusion, head, tuning=Tuning(head=PartTuning(frozen=True))).train()
    output = {"classify": torch.tensor([[9.0, 0, 0], [0, 9, 0]])}
    batch = Batch(*[torch.empty(0)] * 4, head.encode_targets([["no"], ["yes"]]), ["1", "2"], 2)
    assert head.loss(output, batch) > 1
    task.eval()
    assert head.loss(output, batch) < 0.01


@pytest.mark.parametrize("name", ["training", "_modules", "forward"])
def test_names_that_torch_uses_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"heads: got the name '{name}'"):
        MultiTask(5, {name: Classification}, answers=ANSWERS)


def test_answers_of_a_head_s_own_are_refused() -> None:
    with pytest.raises(ValueError, match="a head with answers of its own; give it to MultiTask"):
        MultiTask(5, {"a": partial(Classification, answers=["x"])}, answers=ANSWERS)
