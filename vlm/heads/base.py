"""What every answer head offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from vlm.core.batch import Batch
from vlm.core.choices import Choices
from vlm.core.features import Features
from vlm.core.part import Part
from vlm.core.validation import check_positive
from vlm.heads.vocabulary import AnswerVocabulary

Ranked = list[tuple[str, float]]
"""Answers with their probabilities, the most likely first."""

TargetEncoder = Callable[[Sequence[Sequence[str]], Sequence[Sequence[str]] | None], Any]
"""(answers, choices) of Q questions -> `Batch.targets`. `answers` are the annotators', `choices`
the candidates, None where the head takes none."""

AnswerKind = Literal["vocabulary", "choices", "text"]
"""How a head answers: from its vocabulary, from the question's choices, or in free text."""

LINKED = ("image_dim", "text_dim", "answers")
"""Arguments of heads that the rest of the model gives, beside `in_dim`, which comes first: the
widths of both encoders, and the training questions' answers. The command line and `MultiTask`
fill them in. Their defaults are values that the head refuses."""


def required_choices(batch: Batch) -> Choices:
    """The choices of a batch, which must be there for a head that picks from them."""
    if batch.choices is None:
        raise ValueError(
            "choices: got none, but this model picks from candidates; give each question two "
            "or more (`choices=[...]`, `--choices`, or the data's column `choices`)."
        )
    return batch.choices


class AnswerHead(Part, ABC):
    """Base of the heads: joint features in, answers out.

    `forward` returns the output that the other methods need. Each kind of head has its own: scores
    of a vocabulary, scores of the candidates, or the tokens that a decoder reads.

    Attributes:
        in_dim: width of the joint features.
        encode_targets: function that turns the annotators' answers of Q questions into
            `Batch.targets`. It is sent to loader workers, so it has no weights.
        vocabulary: the answers that the head can give; None if they are not known beforehand.
        takes_choices: whether the head answers from `Batch.choices`.
        writes_text: whether a decoder writes the answers, token by token.
        draws: whether an answer may be an image.
        reads_prompt: whether the head reads the questions' own tokens, as `vlm.text.Prompt` makes
            them.
        takes_pairs: whether the loss reads `Batch.pairs`.
        reads_question: whether the head reads `Batch.question`, at least in training.
        reads_image: whether the training reads `Batch.image`.
        image_dim: width of the encoded image that the head reads; None if it reads none.
        text_dim: width of the encoded choices, or of the encoded question, that the head reads;
            None if it reads neither, or only texts.

    Example:
        >>> head = vlm.heads.Classification(in_dim=64, answers=["yes", "no", "red"])
        >>> isinstance(head, vlm.heads.AnswerHead)
        True
        >>> head.encode_targets([["yes"] * 3, ["red", "blue"]]).counts
        tensor([[3., 0., 0.],
                [0., 0., 1.]])
    """

    encode_targets: TargetEncoder
    vocabulary: AnswerVocabulary | None = None
    takes_choices: bool = False
    writes_text: bool = False
    draws: bool = False
    reads_prompt: bool = False
    takes_pairs: bool = False
    reads_question: bool = False
    reads_image: bool = False
    image_dim: int | None = None
    text_dim: int | None = None

    def __init__(self, in_dim: int) -> None:
        super().__init__()
        check_positive(in_dim=in_dim)
        self.in_dim = in_dim

    def learn_first(
        self, answers: Callable[[], Iterable[str]], alive: Callable[[], None] = lambda: None
    ) -> None:
        """Learn what is trained before the model is; unless a class says otherwise, nothing.

        It is called at the start of each training, also of one that is continued or begins with
        weights of another.

        Args:
            answers: returns the different answers to the training questions.
            alive: is called during long work, so that the watchdog does not end the run.
        """

    @abstractmethod
    def forward(self, fused: Features, batch: Batch) -> Any:
        """The output for Q questions, with Q in front of every tensor."""

    if TYPE_CHECKING:
        __call__ = forward

    @abstractmethod
    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Scalar: the sum over this batch's questions divided by `batch.total`."""

    @abstractmethod
    def decode(self, output: Any, top_k: int) -> list[Ranked]:
        """The `top_k` most likely answers of each question with their probabilities."""

    @abstractmethod
    def evidence(self, output: Any, answers: Sequence[str]) -> Tensor:
        """The evidence for an answer to each question, (Q,), with gradient.

        It is a logit or a log-likelihood. Explanations trace it back to words and patches, and
        candidates are ranked by it.

        Args:
            output: output of `forward`.
            answers: one answer for each of the Q questions.

        Raises:
            ValueError: an answer that this head cannot give.
        """

    def truncated_at(self, answer: str) -> int | None:
        """The number of tokens after which a written answer was cut; None if the answer ended."""
        return None

    def choice_ids(self, choice: str) -> list[int] | None:
        """The tokens of a choice, for a head that reads choices itself; None for other heads."""
        return None
