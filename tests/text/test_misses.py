"""Questions with too many words that the training questions lacked are recognised."""

from __future__ import annotations

import pytest

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
