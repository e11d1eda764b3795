"""Padding of lists to tensors, and the targets of a batch's questions."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch

from vlm.core.choices import make_choices
from vlm.core.padding import distinct, padded
from vlm.heads.generation.targets import AnswerEncoder
from vlm.heads.generation.tokenizer import ByteTokenizer
from vlm.heads.multiple_choice import annotator_shares
from vlm.text import WordTokenizer

TEXTS = ["red", "a cat", "yes", "", "two birds", "é"]


def lists(count: int, most: int, seed: int) -> list[list[str]]:
    """Random lists of texts, some of them equal."""
    draw = random.Random(seed)
    kinds = [draw.choices(TEXTS, k=draw.randint(1, most)) for _ in range(count // 2)]
    return [draw.choice(kinds) for _ in range(count)]


def test_rows_are_filled_up_at_the_end() -> None:
    content, mask = padded([[5, 7, 11], [], [2]], fill=9)
    assert content.tolist() == [[5, 7, 11], [9, 9, 9], [2, 9, 9]]
    assert mask.tolist() == [[True] * 3, [False] * 3, [True, False, False]]
    assert (content.dtype, mask.dtype) == (torch.long, torch.bool)


@pytest.mark.parametrize(
    ("rows", "least", "shape"),
    [([], 0, (0, 0)), ([], 1, (0, 1)), ([[]], 2, (1, 2)), ([[1, 2, 3]], 2, (1, 3))],
)
def test_their_shape(rows: Sequence[Sequence[int]], least: int, shape: tuple[int, int]) -> None:
    content, mask = padded(rows, least=least)
    assert content.shape == mask.shape == shape


def test_the_different_ones_stand_in_their_order() -> None:
    kinds, index = distinct("mississippi")
    assert kinds == ["m", "i", "s", "p"]
    assert [kinds[place] for place in index] == list("mississippi")


@pytest.mark.parametrize("all_answers", [False, True])
def test_answers_of_a_batch_are_encoded_as_each_alone(all_answers: bool) -> None:
    encode = AnswerEncoder(ByteTokenizer(), 7, all_answers)
    answers = lists(13, 5, seed=3)
    together = encode(answers)
    for row, given in enumerate(answers):
        alone = encode([given])
        _, kept, length = alone.ids.shape
        assert torch.equal(together.ids[row, :kept, :length], alone.ids[0])
        assert torch.equal(together.mask[row, :kept, :length], alone.mask[0])
        assert together.mask[row].sum() == alone.mask.sum()
        assert torch.equal(together.counts[row, :kept], alone.counts[0])
        assert together.counts[row, kept:].sum() == 0
        assert (together.ids[row][~together.mask[row]] == 256).all()
    assert encode([]).ids.shape[0] == 0


def test_shares_of_a_batch_are_those_of_each_alone() -> None:
    choices = [list(dict.fromkeys(given)) for given in lists(13, 5, seed=5)]
    answers = [[given[0], given[-1], given[0], "none"] for given in choices]
    together = annotator_shares(answers, choices)
    for row, (given, texts) in enumerate(zip(answers, choices, strict=True)):
        counts = torch.tensor([float(given.count(text)) for text in texts])
        assert torch.equal(together[row, : len(texts)], counts / counts.sum())
        assert together[row, len(texts) :].sum() == 0


def test_choices_of_a_batch_are_those_of_each_alone() -> None:
    choices = lists(13, 5, seed=7)
    made = make_choices(choices, WordTokenizer(["red", "cat", "two"]))
    known = list(dict.fromkeys(text for given in choices for text in given))
    assert made.texts == choices
    assert made.words.shape[0] == len(known)
    for row, given in enumerate(choices):
        assert made.mask[row].tolist() == [n < len(given) for n in range(made.mask.shape[1])]
        found = [known[place] for place in made.text_index[row].tolist()]
        assert found[: len(given)] == given
        assert found[len(given) :] == [known[0]] * (len(found) - len(given))
