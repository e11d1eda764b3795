"""Which answers a classifier can give, and how annotators' answers become targets."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch.testing import assert_close

from vlm.heads import AnswerVocabulary, count_answers
from vlm.text import WordTokenizer


def test_order_is_the_order_given() -> None:
    vocabulary = AnswerVocabulary(["no", "yes", "a b"])
    assert vocabulary.answers == ["no", "yes", "a b"]
    assert len(vocabulary) == 3
    assert "a b" in vocabulary
    assert "a" not in vocabulary


def test_duplicates_and_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="answers: got 'b' more than once; expected each"):
        AnswerVocabulary(["a", "b", "c", "b"])
    with pytest.raises(ValueError, match="answers: got none; expected at least one answer"):
        AnswerVocabulary([])


def test_the_hash_names_answers_and_order() -> None:
    first = AnswerVocabulary(["yes", "no"])
    assert first.hash == AnswerVocabulary(("yes", "no")).hash
    others = (["no", "yes"], ["yes"], ["yes", "no", "red"], ["yesno"], ["yes no"])
    assert len({first.hash, *(AnswerVocabulary(a).hash for a in others)}) == 6
    assert len(first.hash) == 12
    int(first.hash, 16)


def test_encode_counts_annotators() -> None:
    vocabulary = AnswerVocabulary(["yes", "no", "red"])
    target = vocabulary.encode(
        [["no"] * 7 + ["yes"] * 2 + ["maybe"], ["red"], ["maybe", "perhaps"], ["red", "no", "red"]]
    )
    counts = [[2, 7, 0], [0, 0, 1], [0, 0, 0], [0, 1, 2]]
    assert_close(target.counts, torch.tensor(counts, dtype=torch.float))
    assert_close(target.annotators, torch.tensor([10.0, 1, 2, 3]))
    assert vocabulary.encode([]).counts.shape == (0, 3)


def test_it_travels_to_loader_workers() -> None:
    encode = pickle.loads(pickle.dumps(AnswerVocabulary(["yes", "no"]).encode))
    assert_close(encode([["no"]]).counts, torch.tensor([[0.0, 1]]))


@pytest.mark.parametrize(
    ("given", "best"),
    [
        (["yes"], 1),
        (["maybe"], 0),
        (["yes"] * 2 + ["maybe"] * 8, 0.6),
        (["yes"] * 3 + ["no"] + ["maybe"] * 6, 0.9),
        (["yes"] * 4 + ["maybe"] * 6, 1),
    ],
)
def test_best_score_is_the_ceiling(given: list[str], best: float) -> None:
    assert AnswerVocabulary(["yes", "no"]).best_score(given) == pytest.approx(best)


QUESTIONS = [["b"], ["b"], ["b"], ["c"], ["a"], ["c"], ["a"], ["d"]]


def test_count_answers_ranks_by_frequency_then_alphabet() -> None:
    assert count_answers(QUESTIONS) == ["b", "a", "c", "d"]
    assert count_answers(reversed(QUESTIONS)) == ["b", "a", "c", "d"]


def test_count_answers_keeps_what_is_frequent() -> None:
    assert count_answers(QUESTIONS, min_count=2) == ["b", "a", "c"]
    assert count_answers(QUESTIONS, min_count=3) == ["b"]
    assert count_answers(QUESTIONS, max_size=2) == ["b", "a"]
    assert count_answers(QUESTIONS, min_count=2, max_size=100) == ["b", "a", "c"]


def test_two_forms_of_an_answer_that_a_model_was_trained_with_stay() -> None:
    answers = ["caf\u00e9", "cafe\u0301"]
    assert AnswerVocabulary(answers).answers == answers
    assert WordTokenizer(answers).words == answers
    assert AnswerVocabulary(answers[1:]).answers == answers[:1]


def test_each_question_counts_once_with_its_most_frequent_answer() -> None:
    questions = [["x"] * 3 + ["y"] * 7, ["z"] * 5 + ["y"] * 5, ["y", "z"], []]
    assert count_answers(questions) == ["y", "z"]
    assert count_answers(questions, min_count=2) == ["y"]


def test_no_answer_left_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"4 different answers and none .* min_count=9 times"):
        count_answers(QUESTIONS, min_count=9)
    for nothing in ([], [None]):
        with pytest.raises(ValueError, match="The training questions have no answers"):
            count_answers(nothing)


def test_rules_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match="max_size: got -1; expected a positive integer"):
        count_answers([["a"], ["b"]], max_size=-1)
    with pytest.raises(ValueError, match="answers: got 'yes'; expected a list of texts"):
        AnswerVocabulary("yes")
