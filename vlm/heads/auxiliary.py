"""Classification that learns beside classifiers of the image alone and of the question alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from torch import Tensor

from vlm.core.batch import Batch
from vlm.core.features import Features
from vlm.core.validation import check_positive, check_weight
from vlm.fusion.perceptron import perceptron
from vlm.heads import losses
from vlm.heads.classification import Classification


class Sides(NamedTuple):
    """What the training of `AuxiliaryClassification` reads.

    Attributes:
        logits: (Q, A) of both sides.
        image: (Q, A) of the image alone.
        question: (Q, A) of the question alone.
    """

    logits: Tensor
    image: Tensor
    question: Tensor


class AuxiliaryClassification(Classification):
    """A classifier whose encoders each learn to answer without the other.

    In training, two more classifiers, one on the image encoder's `pooled` and one on the text
    encoder's, have the same loss. The mean of their losses, times `auxiliary`, is added to the
    head's. So both encoders learn, even if one of them is enough to learn the answers; AutoGluon's
    multimodal predictor (Tang et al. 2024, arXiv 2404.16233) has such losses. Answers come only
    from the joint features. With `data.augment.no_image` and `no_question`, the joint features also
    learn to answer without a side; a question that lacks a side adds nothing to the loss of that
    side.

    Args:
        in_dim: width of the joint features.
        image_dim, text_dim: widths of the encoders; required, but the command line fills them in.
        answers, hidden_dims, dropout, loss: vocabulary, layers and loss, as for `Classification`;
            the two classifiers have the same hidden layers.
        auxiliary: weight of the mean of the two further losses, at least 0.

    Raises:
        ValueError: as for `Classification`, or a negative weight.

    Example:
        >>> head = vlm.heads.AuxiliaryClassification(64, 32, 16, answers=["yes", "no"]).eval()
        >>> head(vlm.Features(torch.randn(2, 7, 64)), batch=None).shape
        torch.Size([2, 2])
    """

    reads_question = True
    reads_image = True
    text_dim: int

    def __init__(
        self,
        in_dim: int,
        image_dim: int = 0,
        text_dim: int = 0,
        answers: Sequence[str] = (),
        hidden_dims: Sequence[int] = (128,),
        dropout: float = 0.0,
        loss: Literal["bce", "focal", "kl", "ce", "sampled_ce"] | losses.Loss = "bce",
        auxiliary: float = 0.5,
    ) -> None:
        super().__init__(in_dim, answers, hidden_dims, dropout, loss)
        check_positive(image_dim=image_dim, text_dim=text_dim)
        check_weight(auxiliary=auxiliary)
        self.image_dim, self.text_dim, self.auxiliary = image_dim, text_dim, auxiliary
        classes = len(self.vocabulary)
        self.of_image = perceptron(image_dim, hidden_dims, classes, dropout)
        self.of_question = perceptron(text_dim, hidden_dims, classes, dropout)

    def forward(self, fused: Features, batch: Batch) -> Any:
        """Logits (Q, A); in training `Sides`.

        Raises:
            ValueError: in training, a batch without the encoded images and questions.
        """
        logits = super().forward(fused, batch)
        if not self.training:
            return logits
        if batch.image is None or batch.question is None:
            raise ValueError(
                "image and question: got none; expected the encoded images and questions, which "
                "VQAModel adds to the batch."
            )
        of_sides = self.of_image(batch.image), self.of_question(batch.question.pooled)
        return Sides(logits, *of_sides)

    def loss(self, output: Any, batch: Batch) -> Tensor:
        if isinstance(output, Tensor):
            return super().loss(output, batch)
        values = self.values(output.logits, batch.targets)
        for logits, missing in (
            (output.image, batch.no_image),
            (output.question, batch.no_question),
        ):
            alone = self.values(logits, batch.targets)
            alone = alone if missing is None else alone.masked_fill(missing, 0)
            values = values + self.auxiliary / 2 * alone
        return values.sum() / batch.total
