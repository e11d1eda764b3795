"""Multiple choice: scores by hand, the loss, and independence of everything but the choices."""

from __future__ import annotations

import json
import math
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from vlm.core.batch import Batch
from vlm.core.choices import make_choices
from vlm.core.features import as_features
from vlm.core.validation import mistake_in
from vlm.fusion import MCB, Pooled, Product
from vlm.heads import Classification, MultipleChoice
from vlm.heads.multiple_choice import ChoiceScores, annotator_shares
from vlm.image import ConvNet
from vlm.model import VQAModel
from vlm.text import BagOfWords, WordTokenizer

WORDS = ["what", "is", "it", "a", "cat", "dog", "two", "birds"]
QUESTIONS = ["what is it", "is it a cat", "what", "is it"]
CHOICES = [
    ["a cat", "a dog"],
    ["a dog", "two birds", "a cat", "what"],
    ["two birds", "a cat", "it"],
    ["a cat", "a dog"],
]
ANSWERS = [["a dog"], ["a cat"], ["two birds"], ["a cat"]]


def model(head: type[MultipleChoice] = MultipleChoice) -> VQAModel:
    text = BagOfWords(WORDS, dim=13, hidden_dim=17)
    fusion = Pooled(12, 13, partial(Product, out_dim=19))
    return VQAModel(ConvNet(12, (5, 7)), text, fusion, head(19, 13, partial(Product, out_dim=23)))


def batch_of(
    made: VQAModel,
    choices: list[list[str]] = CHOICES,
    answers: list[list[str]] | None = ANSWERS,
    images: torch.Tensor | None = None,
) -> Batch:
    if images is None:
        images = torch.randint(256, (2, 3, 12, 12), dtype=torch.uint8)
    return made.processor.batch(images, [0, 1, 1, 0], QUESTIONS, answers, choices=choices)


def test_each_different_text_is_encoded_once() -> None:
    made = model().eval()
    batch = batch_of(made)
    assert batch.choices is not None
    assert batch.choices.words.shape == (5, 2), "a cat, a dog, two birds, what, it"
    rows: list[int] = []
    made.text_encoder.register_forward_hook(lambda m, given, out: rows.append(len(out.tokens)))
    made(batch)
    assert rows == [4, 5], "the questions, then the texts"
    index, mask = batch.choices.text_index, batch.choices.mask
    texts = ["a cat", "a dog", "two birds", "what", "it"]
    for row, given in enumerate(CHOICES):
        assert [texts[i] for i in index[row][mask[row]].tolist()] == given
    assert mask.sum(1).tolist() == [2, 4, 3, 2]


def test_the_score_is_that_of_the_formula() -> None:
    """w . ((W joint + b) * (V choice + c)) by hand, for one question with two candidates."""
    head = MultipleChoice(2, 1, partial(Product, out_dim=2))
    state = {
        "merge.x_projection.weight": torch.tensor([[1.0, 2], [0, -1]]),
        "merge.x_projection.bias": torch.tensor([0.5, 1]),
        "merge.y_projection.weight": torch.tensor([[2.0], [1]]),
        "merge.y_projection.bias": torch.tensor([0.0, -1]),
        "score.weight": torch.tensor([[1.0, 3]]),
    }
    head.load_state_dict(state)
    fused = as_features(torch.tensor([[1.0, 2]]), "fused")  # W joint + b = (5.5, -1)
    choices = make_choices([["x", "y"]], WordTokenizer(["x", "y"]))
    features = as_features(torch.tensor([[1.0], [-2]]), "choices")
    batch = Batch(*[torch.empty(0)] * 4, None, ["q"], 1, choices._replace(features=features))
    output = head(fused, batch)
    # V x + c = (2, 0): 5.5 * 2 + 3 * 0; V y + c = (-4, -3): 5.5 * -4 + 3 * 3.
    assert_close(output.logits, torch.tensor([[11.0, -13]]))
    assert head.decode(output, 1)[0][0][0] == "x"
    assert head.evidence(output, ["y"]).tolist() == [-13]


def scores(logits: list[list[float]], texts: list[list[str]]) -> ChoiceScores:
    longest = max(map(len, texts))
    mask = torch.tensor([[i < len(row) for i in range(longest)] for row in texts])
    return ChoiceScores(torch.tensor(logits), mask, texts)


def test_the_loss_is_the_cross_entropy_of_the_right_candidate() -> None:
    head = MultipleChoice(3, 2)
    output = scores([[0.1, 2.0, 50.0], [1.0, -1.0, 0.5]], [["a", "b"], ["a", "b", "c"]])
    targets = head.encode_targets([["b"], ["c"]], output.texts)
    batch = Batch(*[torch.empty(0)] * 4, targets, ["1", "2"], 7)
    first = -2.0 + math.log(math.exp(0.1) + math.exp(2.0))  # the padding's 50 does not count
    second = -0.5 + math.log(math.exp(1.0) + math.exp(-1.0) + math.exp(0.5))
    assert head.loss(output, batch).item() == pytest.approx((first + second) / 7)


def test_several_annotators_have_their_shares() -> None:
    given = [["a", "b", "a", "z"], ["c"]]
    shares = annotator_shares(given, [["a", "b", "c"], ["c", "d"]])
    assert_close(shares, torch.tensor([[2 / 3, 1 / 3, 0], [1, 0, 0]]))


def test_decode_gives_a_distribution_over_the_real_candidates() -> None:
    output = scores([[0.0, math.log(3), 99.0], [2.0, 2.0, 3.0]], [["a", "b"], ["c", "d", "e"]])
    first, second = MultipleChoice(3, 2).decode(output, 5)
    assert first == [("b", pytest.approx(0.75)), ("a", pytest.approx(0.25))]
    assert [text for text, _ in second] == ["e", "c", "d"], "of equal ones the first"
    assert sum(p for _, p in second) == pytest.approx(1)
    halves = output._replace(logits=output.logits.bfloat16())
    assert sum(p for _, p in MultipleChoice(3, 2).decode(halves, 5)[1]) == pytest.approx(1)


def test_nothing_but_the_choices_themselves_matters() -> None:
    made = model().eval()
    images = torch.randint(256, (2, 3, 12, 12), dtype=torch.uint8)
    with torch.no_grad():
        wanted = made(batch_of(made, images=images))
        assert len({round(x, 4) for x in wanted.logits[1].tolist()}) == 4, "scores must differ"
        order = [[1, 0], [3, 0, 2, 1], [2, 0, 1], [0, 1]]
        turned = [[t[i] for i in o] for t, o in zip(CHOICES, order, strict=True)]
        got = made(batch_of(made, turned, images=images))
        for row, places in enumerate(order):
            assert_close(got.logits[row, : len(places)], wanted.logits[row][places])
        for row, question in enumerate(QUESTIONS):
            shown = images[[[0, 1, 1, 0][row]]]
            alone = made.processor.batch(shown, [0], [question], choices=[CHOICES[row]])
            count = len(CHOICES[row])
            assert alone.choices is not None
            assert alone.choices.mask.shape == (1, count), "nothing is padded"
            assert_close(made(alone).logits[0], wanted.logits[row, :count], rtol=1e-5, atol=1e-5)
        # Another choice changes no other score.
        more = [[*texts, "what is it"] for texts in CHOICES]
        longer = made(batch_of(made, more, images=images))
        for row, texts in enumerate(CHOICES):
            assert_close(longer.logits[row, : len(texts)], wanted.logits[row, : len(texts)])


def test_a_question_sees_its_own_choices_alone() -> None:
    made = model().eval()
    images = torch.randint(256, (2, 3, 12, 12), dtype=torch.uint8)
    changed = [*CHOICES[:3], ["a cat", "two birds"]]
    answers = [*ANSWERS[:3], ["a cat"]]
    with torch.no_grad():
        before = made(batch_of(made, images=images)).logits
        after = made(batch_of(made, changed, answers, images=images)).logits
    assert_close(after[:3], before[:3])
    assert_close(after[3, 0], before[3, 0])
    assert abs(after[3, 1] - before[3, 1]) > 1e-4


def test_the_words_of_choices_learn_too() -> None:
    made = model().train()
    batch = batch_of(made)
    made.head.loss(made(batch), batch).backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    moved = made.text_encoder.embedding.weight.grad.any(1).nonzero().flatten().tolist()
    assert moved == [2, 3, 4, 5, 6, 7, 8, 9], "cat, dog, two and birds stand in choices alone"


def test_it_is_rebuilt_from_its_configuration() -> None:
    made = model().eval()
    again = VQAModel.from_config(json.loads(json.dumps(made.config))).eval()
    again.load_state_dict(made.state_dict())
    batch = batch_of(made)
    assert_close(again(batch).logits, made(batch).logits, rtol=0, atol=0)
    other = MultipleChoice(3, 2, partial(MCB, out_dim=5, sketch_dim=7))
    assert type(other.merge) is MCB


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (["a cat"], r"got the choices \['a cat'\]; expected at least two"),
        ([], r"got the choices \[\]; expected at least two"),
        (["a cat", " "], "got an empty choice in .*expected some text in each"),
        (["a cat", 3], "got the choice 3; expected texts"),
        (["a cat", "a dog", "a cat"], "got the choice 'a cat' twice; expected each once"),
    ],
)
def test_choices_that_cannot_be_used(choices: list[object], message: str) -> None:
    mistake = mistake_in(choices)
    assert mistake is not None
    with pytest.raises(ValueError, match=message):
        raise ValueError(mistake)


def test_choices_that_can_be_used() -> None:
    for choices in (["a cat", "A cat"], ["0", "1"], ["?", "!"]):
        assert mistake_in(choices) is None


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="text_dim: got 0; expected a positive integer"):
        MultipleChoice(3)
    with pytest.raises(ValueError, match=r"head\.text_dim: MultipleChoice was built for width 11"):
        VQAModel(
            ConvNet(12, (5, 7)), BagOfWords(WORDS, 13), Pooled(12, 13), MultipleChoice(256, 11)
        )
    made = model()
    with pytest.raises(ValueError, match="choices: got none, but this model picks from candidates"):
        made(made.processor.batch(torch.zeros(1, 3, 12, 12), [0], ["what"]))
    with pytest.raises(ValueError, match=r"answers: got \['a bird'\]; expected one of the choices"):
        batch_of(made, answers=[["a bird"], *ANSWERS[1:]])
    with pytest.raises(
        ValueError, match="answers: got 'it'; expected one of the question's choices"
    ):
        made.head.evidence(made(batch_of(made)), ["a cat", "it", "it", "a cat"])
    with pytest.raises(ValueError, match=r"choices of question 2: got \[\]; expected texts"):
        batch_of(made, [CHOICES[0], None, *CHOICES[2:]])
    other = VQAModel(
        ConvNet(12, (5, 7)), BagOfWords(WORDS, 13), Pooled(12, 13), Classification(256, ["a", "b"])
    )
    with pytest.raises(ValueError, match="choices: got some, but this model's head takes none"):
        batch_of(other, answers=None)
