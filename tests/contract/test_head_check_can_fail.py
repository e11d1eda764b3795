"""A head that breaks one promise fails its check, and the message says which promise."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vlm.core.batch import Batch
from vlm.core.features import Features
from vlm.fusion import Product
from vlm.heads import AnswerHead, MultipleChoice, Ranked
from vlm.heads.base import AnswerVocabulary
from vlm.testing import check_head

ANSWERS = ("no", "yes", "two cats", "red")


class GoodHead(AnswerHead):
    def __init__(self, in_dim: int = 13) -> None:
        super().__init__(in_dim)
        self.vocabulary = AnswerVocabulary(ANSWERS)
        self.encode_targets = self.vocabulary.encode
        self.layer = nn.Linear(in_dim, 4)

    def forward(self, fused: Features, batch: Batch) -> Tensor:
        return self.layer(fused.pooled)

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return -(output.float().log_softmax(-1) * batch.targets.counts).sum() / batch.total

    def decode(self, output: Tensor, top_k: int) -> list[Ranked]:
        rows = output.float().softmax(-1).tolist()
        ranked = [sorted(zip(ANSWERS, row, strict=True), key=lambda x: -x[1]) for row in rows]
        return [row[:top_k] for row in ranked]

    def evidence(self, output: Tensor, answers: Sequence[str]) -> Tensor:
        columns = torch.tensor(self.vocabulary.indices(answers))
        return output.gather(-1, columns[:, None]).squeeze(-1)


class ReadsPadding(GoodHead):
    def forward(self, fused: Features, batch: Batch) -> Tensor:
        return self.layer(fused.tokens.mean(1))


class CoupledHead(GoodHead):
    def forward(self, fused: Features, batch: Batch) -> Tensor:
        scores = super().forward(fused, batch)
        return scores - scores.mean(0)


class MeanLoss(GoodHead):
    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return super().loss(output, batch) * batch.total / len(batch.ids)


class Unused(GoodHead):
    def __init__(self, in_dim: int = 13) -> None:
        super().__init__(in_dim)
        self.forgotten = nn.Linear(in_dim, 4)


class Unranked(GoodHead):
    def decode(self, output: Tensor, top_k: int) -> list[Ranked]:
        return [row[::-1] for row in super().decode(output, top_k)]


class Logits(GoodHead):
    def decode(self, output: Tensor, top_k: int) -> list[Ranked]:
        return [[(a, 3 * p) for a, p in row] for row in super().decode(output, top_k)]


class AnswersTooMuch(GoodHead):
    def decode(self, output: Tensor, top_k: int) -> list[Ranked]:
        return super().decode(output, max(top_k, 2))


class Detached(GoodHead):
    def evidence(self, output: Tensor, answers: Sequence[str]) -> Tensor:
        return super().evidence(output, answers).detach().requires_grad_()


class ForgetsItsBuffer(GoodHead):
    def __init__(self, in_dim: int = 13) -> None:
        super().__init__(in_dim)
        self.register_buffer("shift", torch.randn(4), persistent=False)

    def forward(self, fused: Features, batch: Batch) -> Tensor:
        return super().forward(fused, batch) + self.shift


class PoorInBF16(GoodHead):
    def forward(self, fused: Features, batch: Batch) -> Tensor:
        scores = super().forward(fused, batch)
        return scores * 1.5 if torch.is_autocast_enabled("cpu") else scores


class TargetsOfAModule(GoodHead):
    def __init__(self, in_dim: int = 13) -> None:
        super().__init__(in_dim)
        self.encode_targets = lambda answers, choices=None: self.vocabulary.encode(answers)


class ByPlace(MultipleChoice):
    """A head that prefers the first choice."""

    def forward(self, fused: Features, batch: Batch) -> Any:
        output = super().forward(fused, batch)
        places = torch.arange(output.logits.shape[1])
        return output._replace(logits=output.logits - places)


class PaddingCompetes(MultipleChoice):
    def decode(self, output: Any, top_k: int) -> list[Ranked]:
        everything = output._replace(mask=torch.ones_like(output.mask))
        return super().decode(everything, top_k)


class Lenient(MultipleChoice):
    def evidence(self, output: Any, answers: Sequence[str]) -> Tensor:
        given = [a if a in t else t[0] for a, t in zip(answers, output.texts, strict=True)]
        return super().evidence(output, given)


def test_a_good_head_passes() -> None:
    check_head(GoodHead(), ANSWERS)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (ReadsPadding, "padding changes nothing"),
        (CoupledHead, "a row alone gives what it gives in a batch"),
        (MeanLoss, "the loss is a sum over questions divided by `total`"),
        (Unused, "gradient of the loss.*forgotten.weight, forgotten.bias"),
        (Unranked, "answers are ranked.*Not in order"),
        (Logits, r"probabilities in \[0, 1\].*Out of range"),
        (AnswersTooMuch, r"`decode\(output, 1\)` gives the first"),
        (Detached, "evidence has a gradient"),
        (ForgetsItsBuffer, r"build\(head.config\) plus the state_dict gives the same"),
        (PoorInBF16, "bf16 autocast.*off by"),
        (TargetsOfAModule, "`encode_targets` pickles"),
    ],
)
def test_a_broken_promise_is_named(broken: type[GoodHead], message: str) -> None:
    with pytest.raises(
        AssertionError, match=f"(?s){broken.__name__} breaks a promise: .*{message}"
    ):
        check_head(broken(), ANSWERS)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (ByPlace, "the order of the choices changes nothing"),
        (PaddingCompetes, "a row alone gives what it gives in a batch"),
        (Lenient, "wrong input raises ValueError.*none of the choices"),
    ],
)
def test_a_broken_promise_about_choices_is_named(broken: type, message: str) -> None:
    head = broken(13, 11, partial(Product, out_dim=17))
    with pytest.raises(
        AssertionError, match=f"(?s){broken.__name__} breaks a promise: .*{message}"
    ):
        check_head(head, ANSWERS)
