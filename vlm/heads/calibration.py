"""Calibrated probabilities of a head's answers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vlm.core.calibration import Calibration
from vlm.heads.base import AnswerHead, Ranked
from vlm.heads.classification import VocabularyHead
from vlm.heads.multi_task import MultiTask, answering
from vlm.image.as_text import in_words

ALL = 1_000_000


def method_for(head: AnswerHead) -> str:
    """The method that fits a head."""
    head = answering(head)
    if isinstance(head, VocabularyHead):
        return "platt" if head.independent else "temperature"
    return "temperature" if head.takes_choices else "length"


def answer_scores(head: AnswerHead, output: Any) -> tuple[AnswerHead, Tensor, list[list[str]]]:
    """The head whose answers count, its scores (Q, A) of all answers that it can give, and these,
    one list for each question; -inf fills up rows of fewer choices. Scores are logits, or logs of
    probabilities; of a head that writes, the logs of what it found."""
    if isinstance(head, MultiTask):
        head, output = head.answering, output[head.answers_by]
    if isinstance(head, VocabularyHead):
        return head, output.float(), [head.vocabulary.answers] * len(output)
    ranked = head.decode(output, ALL)
    logs = [[math.log(max(p, 1e-30)) for _, p in row] for row in ranked]
    scores = pad_sequence([torch.tensor(row) for row in logs], True, -math.inf)
    return head, scores, [[text for text, _ in row] for row in ranked]


def probabilities(calibration: Calibration, head: AnswerHead, scores: Tensor) -> Tensor:
    """Probabilities (Q, A) of `answer_scores`."""
    scaled = calibration.scale * scores + calibration.bias
    if getattr(head, "independent", False):
        return scaled.sigmoid()
    return scaled.softmax(-1)


def decode(
    head: AnswerHead, output: Any, top_k: int, calibration: Calibration | None
) -> list[Ranked]:
    """`head.decode` with calibrated probabilities, if there is a calibration. The best answer stays
    the same."""
    if calibration is None:
        return head.decode(output, top_k)
    head, scores, answers = answer_scores(head, output)
    if calibration.method == "length":
        rows = zip(answers, scores.tolist(), strict=True)
        return [_of_texts(calibration, texts, row)[:top_k] for texts, row in rows]
    shares = probabilities(calibration, head, scores)
    count = min(top_k, scores.shape[1])
    if isinstance(head, VocabularyHead):
        best = scores.topk(count, dim=-1).indices
    else:  # in the head's own order, which says who is first of equals
        best = torch.arange(count, device=scores.device).expand(len(scores), count)
    pairs = zip(answers, best.tolist(), shares.gather(-1, best).tolist(), strict=True)
    return [
        [(texts[i], p) for i, p in zip(index, values, strict=True) if i < len(texts)]
        for texts, index, values in pairs
    ]


def _of_texts(calibration: Calibration, texts: list[str], logs: list[float]) -> Ranked:
    """Written answers, best first. The map was fitted on best answers alone: the others share what
    is left as the head has it, and none gets more than the best."""
    own = [math.exp(log_p) for log_p in logs[: len(texts)]]
    first = calibration.of_text(logs[0], in_words(texts[0]))
    left = (1 - first) / max(1 - own[0], sum(own[1:]), 1e-12)  # a sure one may be rounded to 1
    return list(zip(texts, [first, *(min(p * left, first) for p in own[1:])], strict=True))
