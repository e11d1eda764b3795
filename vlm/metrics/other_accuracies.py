"""Accuracy of one question as the evaluators of other sets with ten annotators compute it."""

from __future__ import annotations

from collections.abc import Sequence

from vlm.metrics.vqa_accuracy import normalize_answer, soft_score


def direct_answer_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """A-OKVQA: min(1, annotators who gave this very answer / 3); nothing is normalised.

    Source: `evaluation/eval_predictions.py` of github.com/allenai/aokvqa. No annotator is left out
    in turn, so three of ten give 1 where VQA accuracy gives 0.9.

    Args:
        prediction: the answer given.
        answers: what the annotators wrote.
    """
    return min(1.0, sum(answer == prediction for answer in answers) / 3)


def vizwiz_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """VizWiz: VQA accuracy with the prediction normalised and the annotators as they wrote.

    Source: the evaluator of https://vizwiz.org/tasks-and-datasets/vqa/. It differs from both years
    of `vqa_accuracy`: an annotator's "two" or "t-shirt" is never matched, whoever agrees.

    Args:
        prediction: the answer given.
        answers: what the annotators wrote, at least one.

    Raises:
        ValueError: no answers.
    """
    return soft_score(list(answers).count(normalize_answer(prediction)), len(answers))
