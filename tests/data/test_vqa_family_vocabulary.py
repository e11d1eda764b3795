"""The answer vocabulary follows the literature's rules on real and on small annotations."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from conftest import shared_data
from torch.testing import assert_close
from vqa_miniature import annotation, question, save, write_mscoco

from vlm.datasets import VQAv2
from vlm.datasets.readers.json_file import read_json
from vlm.datasets.readers.vqa_format import read_vqa
from vlm.datasets.vocabulary import VocabularyRules
from vlm.heads import AnswerVocabulary, count_answers
from vlm.heads.losses import soft_bce
from vlm.metrics import normalize_answer, vqa_accuracy

pytestmark = pytest.mark.filterwarnings("ignore:.*Get the file again, unless it was shortened")


def test_normalised_answers_are_counted_together() -> None:
    questions = [["two"], ["2"], ["2"], ["The cat"], ["cat."], ["dog"] * 4 + ["cat"] * 6, ["dog"]]
    assert count_answers(questions) == ["2", "The cat", "cat", "cat.", "dog", "two"]
    assert count_answers(questions, normalize=True) == ["2", "cat", "dog"]
    assert count_answers(questions, min_count=2, normalize=True) == ["2", "cat"]
    assert count_answers(questions, max_size=1, normalize=True) == ["2"]
    assert count_answers([None, ["dog"], None]) == ["dog"]


@pytest.fixture(scope="module")
def real() -> pa.Table:
    """8,977 questions of VQA v2 with ten answers each."""
    folder = shared_data("vqa2_text")
    return read_vqa(
        folder / "questions.json.gz", folder / "annotations.json.gz", lambda q: str(q["image_id"])
    )


def literature(folder: Path, min_count: int) -> set[str]:
    """BUTD's rule, reimplemented from its description (normalised multiple_choice_answer)."""
    content = read_json(folder / "annotations.json.gz")["annotations"]
    counts = Counter(normalize_answer(row["multiple_choice_answer"]) for row in content)
    return {answer for answer, n in counts.items() if n >= min_count}


@pytest.mark.parametrize(("min_count", "size"), [(9, 71), (2, 458), (1, 1586)])
def test_the_rule_of_butd_on_real_annotations(real: pa.Table, min_count: int, size: int) -> None:
    given = real["answers"].to_pylist()
    assert {len(answers) for answers in given} == {10}
    found = count_answers(given, min_count, normalize=True)
    assert len(found) == len(set(found)) == size
    assert set(found) == literature(shared_data("vqa2_text"), min_count)
    assert found[:2] == ["yes", "no"]
    assert count_answers(given, max_size=50, normalize=True) == found[:50]


def test_ties_go_the_way_of_the_file(real: pa.Table) -> None:
    """Ties are resolved as in the annotation file; 710 questions have one."""
    content = read_json(shared_data("vqa2_text") / "annotations.json.gz")["annotations"]
    chosen = {str(row["question_id"]): row["multiple_choice_answer"] for row in content}
    for row in real.select(["id", "answers"]).to_pylist():
        assert Counter(row["answers"]).most_common(1)[0][0] == chosen[row["id"]]


def test_targets_and_metric_agree_on_real_annotations(real: pa.Table) -> None:
    """A class's soft score equals its VQA accuracy if the answers are already normalised."""
    given = real["answers"].to_pylist()[:2000]
    vocabulary = AnswerVocabulary(count_answers(given, 2, normalize=True))
    targets = vocabulary.encode(given)
    assert targets.counts.shape == (2000, len(vocabulary))
    assert_close(targets.annotators, torch.full((2000,), 10.0))
    # BUTD's scores for 0, 1, 2, 3 and 4 or more of ten annotators.
    table = torch.tensor([0, 0.3, 0.6, 0.9, 1])
    scores = table[targets.counts.long().clamp(max=4)]
    compared = 0
    for row, answers in enumerate(given):
        if all(normalize_answer(answer) == answer for answer in answers):
            for column in targets.counts[row].nonzero().flatten().tolist():
                wanted = vqa_accuracy(vocabulary.answers[column], answers)
                assert scores[row, column].item() == pytest.approx(wanted)
                compared += 1
    assert compared > 2000
    # The loss uses these scores: its gradient is the probability minus the target.
    logits = torch.zeros_like(scores, requires_grad=True)
    soft_bce(logits, targets).sum().backward()
    assert_close(0.5 - logits.grad, scores)


def test_the_ceiling_on_real_annotations(real: pa.Table) -> None:
    given = real["answers"].to_pylist()[:500]
    # Unusual spellings: one answer for the evaluator, two in the vocabulary.
    odd = ["none", "0", "left one", "left 1", "10+", "10", "t-shirt", "t shirt"]
    vocabulary = AnswerVocabulary(dict.fromkeys([*count_answers(given, max_size=60), *odd]))
    reached = [vocabulary.best_score(answers) for answers in given]
    assert 0 in reached
    for best, answers in zip(reached, given, strict=True):
        assert best == max(vqa_accuracy(answer, answers) for answer in vocabulary.answers)


def test_the_ceiling_knows_how_the_evaluator_reads_an_answer() -> None:
    vocabulary = AnswerVocabulary(["2", "cat"])
    assert vocabulary.best_score(["two"] * 9 + ["three"]) == 1
    # All ten agree, so nothing is normalised and "2" is wrong.
    assert vocabulary.best_score(["two"] * 10) == 0
    assert vocabulary.best_score(["two"] * 10, lambda answer, given: 0.5) == 0.5
    assert vocabulary.best_score(["dog"], lambda answer, given: 1.0) == 0


def write_two_splits(root: Path) -> Path:
    """Training answers are "two" and "cat"; validation answers, "2" (3 questions) and "dog"."""
    said: dict[str, list[list[str]]] = {
        "train2014": [["two"] * 10, ["cat"] * 10, ["cat"] * 10],
        "val2014": [["2"] * 10] * 3 + [["dog"] * 10],
    }
    for number, (part, answers) in enumerate(said.items()):
        asked = [question(10 * number + i, 0) for i in range(len(answers))]
        known = [annotation(row, given) for row, given in zip(asked, answers, strict=True)]
        name = f"v2_OpenEnded_mscoco_{part}_questions.json"
        save(root / name, {"questions": asked})
        save(root / f"v2_mscoco_{part}_annotations.json", {"annotations": known})
    return root


@pytest.mark.parametrize(
    ("rules", "answers", "ceiling"),
    [
        ({}, ["cat", "two"], 0),
        ({"normalize_answers": True}, ["cat", "2"], 0.75),
        ({"answers_from": "train+val"}, ["2", "cat", "dog", "two"], 1),
        (
            {"answers_from": "train+val", "normalize_answers": True, "min_answer_count": 2},
            ["2", "cat"],
            0.75,
        ),
        ({"max_answers": 1}, ["cat"], 0),
    ],
)
def test_the_rules_of_a_data_set(
    rules: dict[str, Any], answers: list[str], ceiling: float, tmp_path: Path
) -> None:
    data = VQAv2(write_two_splits(tmp_path), vocabulary=VocabularyRules(**rules))
    assert data.answers == answers
    about = data.describe_answers()
    assert about["hash"] == AnswerVocabulary(answers).hash
    assert about["size"] == len(answers)
    assert about["from"] == rules.get("answers_from", "train")
    assert about["normalized"] == rules.get("normalize_answers", False)
    assert about["validation_ceiling"] == ceiling


def test_words_stay_those_of_the_training_questions(tmp_path: Path) -> None:
    write_mscoco(tmp_path, ("train2014", "val2014"))
    rules = VocabularyRules(answers_from="train+val")
    plain, both = VQAv2(tmp_path), VQAv2(tmp_path, vocabulary=rules)
    assert plain.words == both.words
