"""Standardised words."""

from __future__ import annotations

import copy

import pytest
import torch

from vlm.core.features import Features
from vlm.fusion import Pooled
from vlm.heads import MultipleChoice
from vlm.image import ConvNet
from vlm.model import VQAModel
from vlm.text import BagOfWords, Recurrent
from vlm.text.standardize import Standardize

WORDS = ["what", "shape", "is", "the", "red", "blue", "object"]
MASK = torch.arange(7) < torch.tensor([[7], [3], [5], [1]])


def words() -> Features:
    """Words that share most of what they hold; junk in the padding."""
    tokens = 5 + 0.1 * torch.randn(4, 7, 3)
    return Features(tokens.masked_fill(~MASK[..., None], 1e6), MASK, 5 + 0.1 * torch.randn(4, 3))


def test_training_takes_away_what_the_batch_has_in_common() -> None:
    features = words()
    standardize = Standardize(3)
    tokens, mask, pooled, _ = standardize(features)
    for before, after in ((features.tokens[MASK], tokens[MASK]), (features.pooled, pooled)):
        spread, mean = torch.var_mean(before, 0, correction=0)
        torch.testing.assert_close(after, (before - mean) / (spread + 1e-5).sqrt())
    assert mask is features.mask
    assert not tokens[~MASK].any()


def test_later_the_running_averages_decide() -> None:
    standardize = Standardize(2)
    features = Features(torch.tensor([[[1.0, 7.0], [3.0, 9.0]]]), pooled=torch.ones(1, 2))
    before = standardize(features)  # trains on two words, and on one question: it has no variance
    torch.testing.assert_close(before.pooled, torch.ones(1, 2))
    standardize.eval()
    # The mean of two words is (2, 8) and their variance 2, of which a tenth is taken.
    expected = torch.tensor([(1 - 0.2), (7 - 0.8)]) / (0.9 + 0.1 * 2) ** 0.5
    torch.testing.assert_close(standardize(features).tokens[0, 0], expected, rtol=1e-4, atol=0)


def test_an_empty_question_gives_zeros_and_leaves_the_others() -> None:
    encoder = Recurrent(WORDS, dim=6, standardize=True)
    ids, mask = encoder.tokenizer(["what shape is the red object", "", "the blue object"])
    with_empty = encoder(ids, mask)
    assert not with_empty.pooled[1].any()
    assert not with_empty.tokens[1].any()
    without = encoder(ids[[0, 2]], mask[[0, 2]])
    torch.testing.assert_close(without.pooled, with_empty.pooled[[0, 2]])
    torch.testing.assert_close(without.tokens, with_empty.tokens[[0, 2]])


def test_choices_change_no_averages_and_are_the_same_in_both_modes() -> None:
    image, text = ConvNet(8, (3, 5)), BagOfWords(WORDS, dim=6, standardize=True)
    fusion = Pooled(image.dim, text.dim)
    model = VQAModel(image, text, fusion, MultipleChoice(fusion.out_dim, text.dim))
    lists = [["red", "blue"], ["the red object", "blue"]]
    questions = ["what shape is the red object", "is the object blue"]
    images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    batch = model.processor.batch(images, [0, 1], questions, choices=lists)
    text(batch.words, batch.words_mask)
    before = {name: value.clone() for name, value in text.state_dict().items()}
    trained = model.with_choices(batch).choices
    torch.testing.assert_close(text.state_dict(), before, rtol=0, atol=0)
    later = model.eval().with_choices(batch).choices
    assert trained is not None
    assert later is not None
    torch.testing.assert_close(trained.features, later.features)


@pytest.mark.parametrize("make", [BagOfWords, Recurrent])
def test_the_word_that_differs_is_most_of_what_is_left(make: type) -> None:
    torch.manual_seed(0)
    ids, mask = make(WORDS).tokenizer([f"what shape is the {c} object" for c in ("red", "blue")])

    def likeness(standardize: bool) -> float:
        torch.manual_seed(0)
        first, second = make(WORDS, dim=32, standardize=standardize)(ids, mask).pooled
        return torch.cosine_similarity(first, second, 0).item()

    assert likeness(standardize=False) > 0.5
    assert likeness(standardize=True) < -0.99


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions_train(dtype: torch.dtype) -> None:
    standardize, features = Standardize(3), words()
    expected, full = standardize(features), copy.deepcopy(standardize).to(dtype)
    own = full(Features(features.tokens.to(dtype), MASK, features.pooled.to(dtype)))
    assert own.tokens.dtype == full.tokens.mean.dtype == dtype
    near = {torch.float64: 1e-4, torch.bfloat16: 0.4, torch.float16: 0.1}[dtype]  # of 5 +- 0.1
    torch.testing.assert_close(own.tokens.float(), expected.tokens, rtol=0, atol=near)
