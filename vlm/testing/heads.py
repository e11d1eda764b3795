"""What every answer head promises."""

from __future__ import annotations

import copy
import json
import pickle
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlm.core.compat import tree_map_only
from vlm.core.features import Features
from vlm.core.part import build
from vlm.testing.fusions import emptied, padded, some_features
from vlm.testing.promises import (
    check_refuses,
    own_randomness,
    prepared,
    promise,
    require,
    require_finite,
    require_finite_gradients,
    require_gradients,
    require_near,
    require_same,
    take,
)

if TYPE_CHECKING:
    from vlm.core.batch import Batch
    from vlm.heads.base import AnswerHead, Ranked

ROWS, TOKENS, LAST = 5, 7, 4
COUNTS = (7, 3, 1, 5, 2)
"""Real joint tokens of each question."""
CANDIDATES = (0, 1, 2, 3), (2, 0), (1, 3, 0), (3, 2), (0, 2, 3)
"""Which answers each question chooses from, if it does; the first of them is right."""


@own_randomness()
def check_head(head: AnswerHead, answers: tuple[str, str, str, str]) -> None:
    """Check that a head keeps the promises of `vlm.heads.AnswerHead`.

    It checks that junk in the padding of joint tokens and choices, more padding, batch order, batch
    size and the order of choices change neither evidence nor answers; that the loss is a sum over
    questions divided by `Batch.total` and reaches every parameter; that ranked answers have
    probabilities in order; that a batch without questions has no answers; that targets can be
    pickled; copies and checkpoints, bf16, and errors. Heads may return anything from `forward`: the
    check compares `evidence` and `decode`. Equality is required in evaluation mode.

    Args:
        head: any head.
        answers: four different answers that the head can give.

    Raises:
        AssertionError: a broken promise, which the message names.
    """
    _Check(prepared(head), answers).run()


class _Check:
    def __init__(self, head: AnswerHead, answers: tuple[str, ...]) -> None:
        self.head, self.answers = head, answers
        self.fused = some_features(head.in_dim, COUNTS, TOKENS)
        self.texts = [[answers[i] for i in row] for row in CANDIDATES]
        self.given = [[row[0]] for row in self.texts]
        # What stands for the text encoder: each answer has its own vector.
        self.vectors = torch.randn(len(answers), head.text_dim or 1)
        self.question = some_features(head.text_dim or 1, COUNTS, TOKENS)
        self.image = torch.randn(ROWS, head.image_dim or 1)
        self.whole = self.batch(range(ROWS))
        with promise(head, "it has an output, evidence and answers for each question"):
            self.evidence = self.evidence_of(self.fused, self.whole)
            self.ranked = self.decode(self.fused, self.whole)
            require(self.evidence.shape == (ROWS,), f"Shape {tuple(self.evidence.shape)}.")
            require_finite(self.evidence, "evidence")

    def run(self) -> None:
        self.check_ranking()
        self.check_padding()
        self.check_batch()
        if self.head.takes_choices:
            self.check_choices()
        self.check_empty()
        self.check_nothing()
        self.check_loss()
        self.check_gradients()
        self.check_copies()
        self.check_bf16()
        self.check_half()

    def batch(self, rows: Any, total: int = ROWS, texts: list[list[str]] | None = None) -> Batch:
        from vlm.core.batch import Batch  # not above: fusions are checked without what it imports
        from vlm.core.choices import Choices
        from vlm.core.padding import padded as padded_rows

        texts = [(texts or self.texts)[row] for row in rows]
        choices = None
        if self.head.takes_choices:
            rows_of_index = [[self.answers.index(text) for text in row] for row in texts]
            index, mask = padded_rows(rows_of_index, least=1)
            words = torch.arange(len(self.answers))[:, None]
            all_real = torch.ones_like(words, dtype=torch.bool)
            features = Features(self.vectors[:, None], all_real, self.vectors)
            choices = Choices(words, all_real, index, mask, texts, features)
        given = [self.given[row] for row in rows]
        count = len(texts)
        nothing = torch.zeros(count, 0)
        return Batch(
            images=nothing,
            image_index=torch.arange(count),
            words=nothing.long(),
            words_mask=nothing.bool(),
            targets=self.head.encode_targets(given, texts if self.head.takes_choices else None),
            ids=[str(row) for row in rows],
            total=total,
            choices=choices,
            question=self.question.take(torch.tensor([*rows], dtype=torch.long)),
            image=self.image[torch.tensor([*rows], dtype=torch.long)],
        )

    def evidence_of(self, fused: Features, batch: Batch) -> Tensor:
        asked = [self.given[int(row)][0] for row in batch.ids]
        return self.head.evidence(self.head(fused, batch), asked)

    def decode(self, fused: Features, batch: Batch) -> list[Ranked]:
        with torch.no_grad():
            return self.head.decode(self.head(fused, batch), LAST)

    def require_same(self, fused: Features, batch: Batch) -> None:
        """Nothing but which rows there are differs from the whole batch."""
        rows = [int(row) for row in batch.ids]
        require_same(self.evidence_of(fused, batch), self.evidence[rows])
        same_answers(self.decode(fused, batch), [self.ranked[row] for row in rows])

    def check_ranking(self) -> None:
        with promise(self.head, "answers are ranked, with probabilities in [0, 1]"):
            require(len(self.ranked) == ROWS, f"{len(self.ranked)} rows for {ROWS} questions.")
            for row in self.ranked:
                shares = [share for _, share in row]
                require(0 < len(row) <= LAST, f"{len(row)} answers, asked for {LAST}.")
                require(shares == sorted(shares, reverse=True), f"Not in order: {shares}.")
                require(all(0 <= share <= 1 for share in shares), f"Out of range: {shares}.")
                require(len({text for text, _ in row}) == len(row), f"Repeated: {row}.")
        with promise(self.head, "`decode(output, 1)` gives the first of the ranking"):
            with torch.no_grad():
                first = self.head.decode(self.head(self.fused, self.whole), 1)
            same_answers(first, [row[:1] for row in self.ranked])

    def check_padding(self) -> None:
        for junk in (1e4, float("nan")):
            for extra in (0, 2):
                given = f"{extra} more padded tokens, {junk} in the padding"
                with promise(self.head, "padding changes nothing", given):
                    self.require_same(padded(self.fused, junk, extra), self.whole)

    def check_batch(self) -> None:
        order = [*range(1, ROWS, 2), *range(0, ROWS, 2)]
        with promise(self.head, "the order of the batch changes nothing", f"the order {order}"):
            self.require_same(take(self.fused, order), self.batch(order))
        for row in range(ROWS):
            given = f"row {row} of {ROWS}"
            with promise(self.head, "a row alone gives what it gives in a batch", given):
                self.require_same(take(self.fused, [row]), self.batch([row]))

    def check_choices(self) -> None:
        with promise(self.head, "answers are among the question's choices"):
            for row, texts in zip(self.ranked, self.texts, strict=True):
                require({text for text, _ in row} == set(texts), f"{row} for {texts}.")
        with promise(self.head, "the order of the choices changes nothing", "turned round"):
            turned = [texts[::-1] for texts in self.texts]
            self.require_same(self.fused, self.batch(range(ROWS), texts=turned))
        if self.head.text_dim is not None:
            batch = self.whole
            assert batch.choices is not None
            more = torch.nn.functional.pad(batch.choices.text_index, (0, 2), value=1)
            mask = torch.nn.functional.pad(batch.choices.mask, (0, 2))
            longer = batch.choices._replace(text_index=more.where(mask, 1), mask=mask)
            with promise(self.head, "padding changes nothing", "2 more padded choices"):
                self.require_same(self.fused, batch._replace(choices=longer))
            others = ["none of them"] * ROWS
            check_refuses(
                self.head,
                "evidence for an answer that is none of the choices",
                lambda: self.head.evidence(self.head(self.fused, self.whole), others),
            )

    def check_empty(self) -> None:
        fused = emptied(self.fused, [0])
        with promise(self.head, "a question without joint tokens leaves the others as they were"):
            require_finite(self.evidence_of(fused, self.whole), "evidence")
            kept = [1, 2, 3, 4]
            require_same(self.evidence_of(fused, self.whole)[kept], self.evidence[kept])

    def check_nothing(self) -> None:
        with promise(self.head, "no questions have no answers", "a batch of none"):
            fused, batch = take(self.fused, []), self.batch([])
            require(self.decode(fused, batch) == [], f"Got {self.decode(fused, batch)}.")
            evidence = self.evidence_of(fused, batch)
            require(evidence.shape == (0,), f"Evidence of shape {tuple(evidence.shape)}.")

    def check_loss(self) -> None:
        with promise(self.head, "the loss is a sum over questions divided by `total`"):
            whole = self.loss(range(ROWS))
            require(whole.shape == (), f"Shape {tuple(whole.shape)}.")
            require_finite(whole, "loss")
            require(bool(whole > 0), f"It is {whole}.")
            require_same(self.loss([0, 3]) + self.loss([4, 1, 2]), whole)
            require_same(self.loss(range(ROWS), total=2 * ROWS), whole / 2)

    def loss(self, rows: Any, total: int = ROWS) -> Tensor:
        batch = self.batch(rows, total)
        return self.head.loss(self.head(take(self.fused, list(rows)), batch), batch)

    def check_gradients(self) -> None:
        fused = self.fused._replace(
            tokens=self.fused.tokens.clone().requires_grad_(),
            pooled=self.fused.pooled.clone().requires_grad_(),
        )
        with promise(self.head.train(), "every trainable parameter gets a gradient of the loss"):
            self.head.zero_grad()
            self.head.loss(self.head(fused, self.whole), self.whole).backward()
            require_gradients(self.head)
            require_finite_gradients(self.head, (fused,))
        self.head.eval()
        with promise(self.head, "evidence has a gradient that reaches the joint vector or tokens"):
            evidence = self.evidence_of(fused, self.whole).sum()
            found = torch.autograd.grad(evidence, (fused.pooled, fused.tokens), allow_unused=True)
            reached = [gradient for gradient in found if gradient is not None]
            require(any(bool(gradient.any()) for gradient in reached), "It is zero.")
            for gradient in reached:
                require_finite(gradient, "gradient")

    def check_copies(self) -> None:
        with promise(self.head, "`encode_targets` pickles, without weights"):
            again = pickle.loads(pickle.dumps(self.head.encode_targets))
            texts = self.texts if self.head.takes_choices else None
            batch = self.whole._replace(targets=again(self.given, texts))
            require_same(
                self.head.loss(self.head(self.fused, batch), batch), self.loss(range(ROWS))
            )
        config = json.loads(json.dumps(self.head.config))
        for name, made in {
            "pickle.loads(pickle.dumps(head))": lambda: pickle.loads(pickle.dumps(self.head)),
            "build(head.config) plus the state_dict": lambda: build(config, trust=True),
        }.items():
            with promise(self.head, f"{name} gives the same"):
                other = made()
                require(type(other) is type(self.head), f"It is a {type(other).__name__}.")
                other.load_state_dict(self.head.state_dict())
                require(other.config == self.head.config, "Its configuration is another.")
                check = _Check.__new__(_Check)
                check.__dict__.update(self.__dict__, head=other.eval())
                check.require_same(self.fused, self.whole)

    def check_bf16(self) -> None:
        with promise(self.head, "bf16 autocast gives finite values close to float32"):
            expected = self.loss(range(ROWS))
            with torch.autocast("cpu", dtype=torch.bfloat16):
                got, evidence = self.loss(range(ROWS)), self.evidence_of(self.fused, self.whole)
                self.decode(self.fused, self.whole)
            require_near(evidence, self.evidence, "evidence")
            require_near(got, expected, "loss")

    def check_half(self) -> None:
        """A head in bf16, with features around 1,000."""
        given = "bf16 weights and large features"
        with promise(self.head, "the loss is computed in float32 and close to float32's", given):
            half, wide = copy.deepcopy(self.head).bfloat16(), copy.deepcopy(self.head).float()
            wide.load_state_dict(half.state_dict())
            fused, whole = _cast((self.fused, self.whole), torch.bfloat16)
            output = half(fused._replace(pooled=1e3 * fused.pooled), whole)
            got = half.loss(output, whole)
            require(got.dtype == torch.float32, f"It is {got.dtype}.")
            require_near(got, wide.loss(*_cast((output, whole), torch.float32)), "loss")


def _cast(values: Any, dtype: torch.dtype) -> Any:
    """The same values, with floating-point tensors in this type."""
    return tree_map_only(Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, values)


def same_answers(got: list[Ranked], expected: list[Ranked]) -> None:
    """Raise unless the answers are the same, in the same order where probabilities differ."""
    for row, other in zip(got, expected, strict=True):
        shares, others = dict(row), dict(other)
        require(shares.keys() == others.keys(), f"Answers {list(shares)}, not {list(others)}.")
        require(row[0][0] == other[0][0], f"The first is {row[0][0]!r}, not {other[0][0]!r}.")
        for text, share in shares.items():
            error = abs(share - others[text])
            require(error <= 1e-5, f"Probability of {text!r}: differs by {error:.2g}.")
