"""What GQA's evaluator reports beyond accuracy: consistency and distribution.

Hudson and Manning, "GQA: A New Dataset for Real-World Visual Reasoning and Compositional Question
Answering", CVPR 2019, section 4.4; the evaluator at https://cs.stanford.edu/people/dorarad/gqa/
settles the details. Standard library only.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence


def gqa_consistency(
    right: Mapping[str, bool], entailed: Mapping[str, Sequence[str]]
) -> float | None:
    """GQA's consistency: how often the answers that follow from a right answer are right too.

    Each rightly answered question gives the share of right answers among the questions that it
    entails, without itself; the result is the mean over these questions.

    Args:
        right: whether each question was answered rightly, by id.
        entailed: ids of the entailed questions, for each of the balanced questions. Those without
            an entry in `right` (not asked) do not count.

    Returns:
        A share in [0, 1]; None if no question that was right entails another.
    """
    shares = []
    for question, others in entailed.items():
        asked = [right[other] for other in others if other != question and other in right]
        if right[question] and asked:
            shares.append(sum(asked) / len(asked))
    return sum(shares) / len(shares) if shares else None


def gqa_distribution(
    groups: Iterable[str | None], answers: Iterable[str], predictions: Iterable[str]
) -> float | None:
    """GQA's distribution: the distance between the frequencies of given and right answers.

    It is the chi-square statistic of each group of questions, averaged with the groups' sizes as
    weights and divided by 100, as in the evaluator; lower is better. Answers that are never right
    in a group do not count.

    Args:
        groups: global group of each question; questions with None are left out.
        answers: right answer to each question.
        predictions: the model's answer to each question.

    Returns:
        A number of 0 or more; None without groups.
    """
    gold: defaultdict[str, Counter[str]] = defaultdict(Counter)
    given: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for group, answer, prediction in zip(groups, answers, predictions, strict=True):
        if group is not None:
            gold[group][answer] += 1
            given[group][prediction] += 1
    total = sum(counts.total() for counts in gold.values())
    if not total:
        return None
    weighted = (
        counts.total() * sum((given[group][a] - n) ** 2 / n for a, n in counts.items())
        for group, counts in gold.items()
    )
    return sum(weighted) / total / 100
