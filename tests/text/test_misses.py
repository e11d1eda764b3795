"""Questions with too many words that the training questions lacked are recognised."""

from __future__ import annotations

import pytest

from vlm.core.answer_warnings import question_warnings
from vlm.datasets import EasyVQA
from vlm.text import WordTokenizer


@pytest.fixture(scope="module")
def easy() -> EasyVQA:
    return EasyVQA()


@pytest.fixture(scope="module")
def tokenizer(easy: EasyVQA) -> WordTokenizer:
    return WordTokenizer(easy.words)


def test_questions_of_the_test_set_are_answered(easy: EasyVQA, tokenizer: WordTokenizer) -> None:
    questions = set(easy.read("test")["question"].to_pylist())
    assert len(questions) > 100
    assert not [question for question in questions if tokenizer.misses(question)]


@pytest.mark.parametrize(
    "question",
    [
        "what shape is this?",
        "which color is the shape?",
        "is this a circle?",
        "does the image contain a red triangle?",
        "is it blue?",
        "what shape do you see?",
        "can you see a rectangle?",
        "which of these colors is the triangle?",
        "Isn't this a circle?",
        "name the shape",
    ],
)
def test_other_words_for_the_same_are_answered(question: str, tokenizer: WordTokenizer) -> None:
    assert not tokenizer.misses(question)


@pytest.mark.parametrize(
    "question",
    [
        "what is the time?",
        "who painted this?",
        "how many dogs are there?",
        "what is the capital of Spain?",
        "who are you?",  # only function words, none in the vocabulary
        "is it night or day?",
        "WHERE IS THE CAT?",
        "какого цвета фигура?",
        "",
    ],
)
def test_questions_about_something_else_are_not(question: str, tokenizer: WordTokenizer) -> None:
    assert tokenizer.misses(question)


def test_more_than_a_third_of_a_question_in_another_language() -> None:
    """In other languages function words count as content and could outnumber the unknown words."""
    tokenizer = WordTokenizer(["est", "la", "quelle", "de", "couleur", "forme"])
    assert not tokenizer.misses("quelle est la couleur de la forme?")
    assert not tokenizer.misses("quelle est la couleur du carré?")  # two of six
    assert tokenizer.misses("quelle est la hauteur du toit?")  # three of six


def test_known_words_before_a_cut_are_not_called_unknown() -> None:
    tokenizer = WordTokenizer(["what", "color", "is", "it"], max_length=4)
    first, second = question_warnings(tokenizer, "what color is it xx yy zz ww vv")
    assert first.startswith("'xx', 'yy', 'zz', 'ww', 'vv' are unknown")
    assert second == "Only the first 4 words were read."
