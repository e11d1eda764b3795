"""WordTokenizer turns questions into ids."""

from __future__ import annotations

import copy
import doctest
import pickle
import warnings
from collections.abc import Callable, Sequence
from unicodedata import normalize

import pytest
import torch

import vlm.text.tokenizer
from vlm.core.part import build
from vlm.text import Tokenizer, WordTokenizer, count_words, split_words


def test_the_examples_of_the_docstrings_run() -> None:
    results = doctest.testmod(vlm.text.tokenizer, extraglobs={"vlm": vlm})
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("What color is it?", ["what", "color", "is", "it"]),
        ("", []),
        (" \t\n", []),
        ("?!...", []),
        ("isn't it?", ["isn't", "it"]),
        ("isn\u2019t it?", ["isn't", "it"]),  # the apostrophe typed on phones
        ("'quoted' words", ["quoted", "words"]),
        ("black-and-white", ["black", "and", "white"]),
        ("2 of 13.5", ["2", "of", "13", "5"]),
        ("snake_case _x", ["snake_case", "_x"]),
        ("Où est l'Été?", ["où", "est", "l'été"]),
        ("这是 什么", ["这", "是", "什", "么"]),
        ("'open' isn't \u2018a\u2019", ["open", "isn't", "a"]),
        ("दिन क्या है?", ["दिन", "क्या", "है"]),
        ("'दिना' है", ["दिना", "है"]),  # a mark before the apostrophe
        ("রঙ কী", ["রঙ", "কী"]),
        ("நிறம் என்ன", ["நிறம்", "என்ன"]),
        ("ما لَوْنُ الشَّكْلِ؟", ["ما", "لَوْنُ", "الشَّكْلِ"]),
        ("מַה צֶּבַע?", ["מַה", normalize("NFC", "צֶּבַע")]),
        ("สีอะไร", ["สี", "อ", "ะ", "ไ", "ร"]),
        ("カタカナは何", ["カタカナ", "は", "何"]),
        ("색이 뭐예요", ["색이", "뭐예요"]),
        ("می\u200cروم", ["می\u200cروم"]),
        ("\u0301 \u093f", []),  # marks without a letter
        ("a 🙂 face", ["a", "face"]),
    ],
)
def test_split_words(question: str, words: list[str]) -> None:
    assert split_words(question) == words


def test_count_words_orders_by_count_then_alphabet() -> None:
    questions = ["is it red?", "is it blue?", "is a b"]
    assert count_words(questions) == ["is", "it", "a", "b", "blue", "red"]
    assert count_words(reversed(questions)) == count_words(questions)
    assert count_words(questions, min_count=2) == ["is", "it"]
    assert count_words([]) == []


@pytest.fixture
def tokenizer() -> WordTokenizer:
    return WordTokenizer(["is", "it", "red"], max_length=5)


def test_ids(tokenizer: WordTokenizer) -> None:
    assert tokenizer.vocab_size == 5
    ids, mask = tokenizer(["Is it red?", "red", "", "is it purple"])
    assert ids.tolist() == [[2, 3, 4], [4, 0, 0], [0, 0, 0], [2, 3, 1]]
    assert mask.tolist() == [[True] * 3, [True, False, False], [False] * 3, [True] * 3]
    assert (ids.dtype, mask.dtype) == (torch.int64, torch.bool)


def test_only_empty_questions(tokenizer: WordTokenizer) -> None:
    ids, mask = tokenizer(["", "?"])
    assert ids.tolist() == [[0], [0]]
    assert not mask.any()


def test_no_questions(tokenizer: WordTokenizer) -> None:
    ids, mask = tokenizer([])
    assert (ids.shape[0], mask.shape) == (0, ids.shape)
    assert (ids.dtype, mask.dtype) == (torch.int64, torch.bool)


def test_long_questions_are_cut(tokenizer: WordTokenizer) -> None:
    question = "is it " * 7
    with pytest.warns(UserWarning, match="Questions cut to 5 tokens so far: 1, such as 'is it"):
        ids, mask = tokenizer([question, "red"])
    assert ids.tolist() == [[2, 3, 2, 3, 2], [4, 0, 0, 0, 0]]
    assert mask.sum(1).tolist() == [5, 1]
    assert tokenizer.tokens(question) == ["is", "it", "is", "it", "is"]
    assert len(tokenizer.ids(question)) == tokenizer.length(question) == 14


def test_cut_questions_are_counted_and_told_of_tenfold(tokenizer: WordTokenizer) -> None:
    question = "is it " * 7
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(12):
            tokenizer([question, "is it red", question])
    assert tokenizer.cut == 24
    assert [str(w.message).split(": ")[1][:2] for w in caught] == ["2,", "10"]
    assert pickle.loads(pickle.dumps(tokenizer)).cut == 0


def test_unknown_words(tokenizer: WordTokenizer) -> None:
    assert tokenizer.unknown("Is it purple, or RED?") == ["purple", "or"]
    assert tokenizer.unknown("is it red") == []


def test_words_that_sound_like_special_tokens(tokenizer: WordTokenizer) -> None:
    assert list(tokenizer.ids("pad unk <pad> [UNK]")) == [1, 1, 1, 1]


def test_a_word_twice() -> None:
    with pytest.raises(ValueError, match="words: got 'red' more than once"):
        WordTokenizer(["red", "is", "red"])


@pytest.mark.parametrize(
    "copied",
    [
        copy.copy,
        copy.deepcopy,
        lambda tokenizer: pickle.loads(pickle.dumps(tokenizer)),
        lambda tokenizer: build(tokenizer.config),
    ],
    ids=["copy", "deepcopy", "pickle", "build"],
)
def test_copies(tokenizer: WordTokenizer, copied: object) -> None:
    tokenizer(["is it red"])  # fills the cache
    again = copied(tokenizer)
    assert again.config == tokenizer.config
    assert again(["is", "it", "red", "purple"])[0].tolist() == [[2], [3], [4], [1]]
    assert again.max_length == 5


def test_the_list_of_words_is_not_shared() -> None:
    words = ["is", "it"]
    tokenizer = WordTokenizer(words)
    words.append("red")
    assert tokenizer.words == ["is", "it"]
    assert build(tokenizer.config).words == ["is", "it"]


def test_composed_and_decomposed_accents_are_one_word() -> None:
    assert split_words("caf\u00e9") == split_words("cafe\u0301") == ["caf\u00e9"]


class Backwards(WordTokenizer):
    """A tokenizer of one's own."""

    def ids(self, question: str) -> Sequence[int]:
        return super().ids(question)[::-1]


@pytest.mark.parametrize("again", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_a_copy_is_of_the_same_class(again: Callable[[Tokenizer], Tokenizer]) -> None:
    tokenizer = Backwards(["is", "it", "red"])
    tokenizer.max_length = 2
    copied = again(tokenizer)
    assert copied.ids("is it red") == (4, 3, 2)
    assert copied.max_length == 2
