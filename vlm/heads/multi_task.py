"""Several heads on one trunk, trained together."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from vlm.core.batch import Batch
from vlm.core.features import Features
from vlm.core.part import factory_class
from vlm.heads.base import LINKED, AnswerHead, Ranked, TargetEncoder

HeadFactory = Callable[[int], AnswerHead]
"""A head without its widths, which `MultiTask` sets: a class or a partial of one."""


class MultiTask(AnswerHead):
    """Several heads on the same joint features: the loss is the weighted sum of their losses.

    One of them answers; the others are trained with it, and reports have the accuracy of each.

        MultiTask(128, {"classify": Classification, "choose": MultipleChoice}, text_dim=64,
                  answers=["yes", "no"])

    Its output and its targets are dicts of those of the heads. If a batch has no choices, a head
    that takes choices is left out, unless it is the one that answers.

    Args:
        in_dim: width of the joint features.
        heads: classes or partials that make each head from `in_dim`, by names that you choose.
        answers_by: name of the head whose answers count; None for the first.
        weights: weight of each head's loss, by name; 1 for heads that are not named.
        image_dim, text_dim: widths of the encoders, for heads that take them.
        answers: the vocabulary, for heads that take it.

    Raises:
        ValueError: no heads, a name that is no identifier, a name in `answers_by` or `weights` that
            no head has, a weight that is not positive.

    Example:
        >>> heads = {"answer": vlm.heads.Classification, "write": vlm.heads.Generation}
        >>> head = vlm.heads.MultiTask(64, heads, answers=["yes", "no"], weights={"write": 0.5})
        >>> head.answers_by, head.weights
        ('answer', {'answer': 1.0, 'write': 0.5})
    """

    def __init__(
        self,
        in_dim: int,
        heads: dict[str, HeadFactory],
        answers_by: str | None = None,
        weights: dict[str, float] | None = None,
        text_dim: int = 0,
        answers: Sequence[str] = (),
        image_dim: int = 0,
    ) -> None:
        super().__init__(in_dim)
        weights = weights or {}
        _check_names(heads, answers_by, weights)
        linked = {"image_dim": image_dim, "text_dim": text_dim, "answers": answers}
        self.heads = nn.ModuleDict(
            {name: _made(factory, in_dim, linked) for name, factory in heads.items()}
        )
        # Of the heads themselves: one may have edited its arguments, to be rebuilt offline.
        self.arguments["heads"] = {name: _factory(head) for name, head in self._heads()}
        self.answers_by = answers_by or next(iter(heads))
        self.weights = {name: float(weights.get(name, 1)) for name in heads}
        self.vocabulary = self.answering.vocabulary
        self.takes_choices = any(head.takes_choices for _, head in self._heads())
        self.takes_pairs = any(head.takes_pairs for _, head in self._heads())
        self.reads_prompt = all(head.reads_prompt for _, head in self._heads())
        self.reads_question = any(head.reads_question for _, head in self._heads())
        self.reads_image = any(head.reads_image for _, head in self._heads())
        seen = {head.image_dim for _, head in self._heads()} - {None}
        self.image_dim = seen.pop() if seen else None
        widths = {head.text_dim for _, head in self._heads()} - {None}
        self.text_dim = widths.pop() if widths else None
        encoders = {name: head.encode_targets for name, head in self._heads()}
        self.encode_targets = partial(_targets, encoders)

    @property
    def answering(self) -> AnswerHead:
        """The head whose answers count."""
        return self.heads[self.answers_by]  # type: ignore[return-value]  # modules to torch

    def _heads(self) -> list[tuple[str, AnswerHead]]:
        return list(self.heads.items())  # type: ignore[arg-type]  # modules to torch

    def train_new(self) -> None:
        for _, head in self._heads():
            head.train_new()

    def learn_first(
        self, answers: Callable[[], Iterable[str]], alive: Callable[[], None] = lambda: None
    ) -> None:
        for _, head in self._heads():
            head.learn_first(answers, alive)

    def forward(self, fused: Features, batch: Batch) -> dict[str, Any]:
        return {
            name: head(fused, batch)
            for name, head in self._heads()
            if batch.choices is not None or not head.takes_choices or name == self.answers_by
        }

    if TYPE_CHECKING:
        __call__ = forward

    def loss(self, output: dict[str, Any], batch: Batch) -> Tensor:
        losses = [
            self.weights[name] * head.loss(output[name], batch._replace(targets=target))
            for (name, head), target in zip(self._heads(), batch.targets.values(), strict=True)
        ]
        return sum(losses[1:], losses[0])

    def decode(self, output: dict[str, Any], top_k: int) -> list[Ranked]:
        """The answers of the head that `answers_by` names."""
        return self.answering.decode(output[self.answers_by], top_k)

    def decode_each(self, output: dict[str, Any], top_k: int) -> dict[str, list[Ranked]]:
        """The answers of every head, by its name."""
        return {n: head.decode(output[n], top_k) for n, head in self._heads() if n in output}

    def evidence(self, output: dict[str, Any], answers: Sequence[str]) -> Tensor:
        """The evidence of the head that `answers_by` names."""
        return self.answering.evidence(output[self.answers_by], answers)


def answering(head: AnswerHead) -> AnswerHead:
    """The head whose answers count: itself, or one of several."""
    return head.answering if isinstance(head, MultiTask) else head


def _targets(
    encoders: dict[str, TargetEncoder],
    answers: Sequence[Sequence[str]],
    choices: Sequence[Sequence[str]] | None = None,
) -> dict[str, Any]:
    return {name: encode(answers, choices) for name, encode in encoders.items()}


def _made(factory: HeadFactory, in_dim: int, linked: dict[str, Any]) -> AnswerHead:
    taken = inspect.signature(factory_class(factory)).parameters
    given = getattr(factory, "keywords", {})  # the command line gives all, with their defaults
    if own := [name for name in LINKED if given.get(name)]:
        raise ValueError(f"heads: got a head with {own[0]} of its own; give it to MultiTask.")
    return factory(in_dim, **{name: linked[name] for name in LINKED if name in taken})


def _factory(head: AnswerHead) -> HeadFactory:
    own = {k: v for k, v in head.arguments.items() if k not in ("in_dim", *LINKED)}
    return partial(type(head), **own)


def _check_names(
    heads: dict[str, HeadFactory], answers_by: str | None, weights: dict[str, float]
) -> None:
    if not heads:
        raise ValueError("heads: got none; expected at least one, by a name of your own.")
    for name in heads:
        if not name.isidentifier() or hasattr(nn.ModuleDict(), name):
            raise ValueError(
                f"heads: got the name {name!r}; expected a word of letters, digits and _ that "
                f"torch's ModuleDict has no other use for."
            )
    named = [("weights", name) for name in weights]
    named += [] if answers_by is None else [("answers_by", answers_by)]
    for argument, name in named:
        if name not in heads:
            raise ValueError(
                f"{argument}: got {name!r}; expected one of the heads {', '.join(heads)}."
            )
    for name, weight in weights.items():
        if not 0 < weight < math.inf:
            raise ValueError(f"weights.{name}: got {weight}; expected a positive number.")
