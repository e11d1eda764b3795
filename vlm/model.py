"""The composition: two encoders, a fusion and a head. Plain PyTorch."""

from __future__ import annotations

from math import isqrt, prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vlm.core.batch import Batch
from vlm.core.features import Features
from vlm.core.part import build, check_parts
from vlm.core.together import together
from vlm.fusion.base import Fusion, Kept
from vlm.fusion.pixel_shuffle import PixelShuffle
from vlm.heads.base import AnswerHead
from vlm.heads.generation.language_model import LanguageModel
from vlm.heads.multi_task import answering
from vlm.image.base import ImageEncoder, PixelEncoder
from vlm.image.tiles import Tiles
from vlm.pretrained.pruning import prune
from vlm.processor import Processor
from vlm.text.base import TextEncoder
from vlm.text.prompt import Prompt

_BASES: dict[str, type] = {
    "image_encoder": ImageEncoder,
    "text_encoder": TextEncoder,
    "fusion": Fusion,
    "head": AnswerHead,
}
PARTS = tuple(_BASES)


class VQAModel(nn.Module):
    """Image encoder, text encoder, fusion and head, trained end to end.

    Raises:
        ValueError: widths of neighbouring parts that differ, a language model without
            `vlm.text.Prompt`, which makes its tokens, or a `Prompt` without a language model, or a
            `PixelShuffle` whose rows are not those of the image encoder's grid.

    Example:
        >>> image, text = vlm.image.ConvNet(), vlm.text.BagOfWords(["what", "color", "is", "it"])
        >>> fusion = vlm.fusion.CrossAttention(image.dim, text.dim)
        >>> head = vlm.heads.Classification(fusion.out_dim, ["red", "blue"])
        >>> model = vlm.VQAModel(image, text, fusion, head)
        >>> model.config["fusion"]["class_path"]
        'vlm.fusion.CrossAttention'
    """

    def __init__(
        self,
        image_encoder: ImageEncoder,
        text_encoder: TextEncoder,
        fusion: Fusion,
        head: AnswerHead,
    ) -> None:
        super().__init__()
        for argument, wanted, source in (
            ("image_dim", image_encoder.dim, image_encoder),
            ("text_dim", text_encoder.dim, text_encoder),
        ):
            _check_width(f"fusion.{argument}", getattr(fusion, argument), fusion, wanted, source)
        _check_width("head.in_dim", head.in_dim, head, fusion.out_dim, fusion)
        if head.image_dim is not None:
            _check_width("head.image_dim", head.image_dim, head, image_encoder.dim, image_encoder)
        if head.text_dim is not None:
            _check_width("head.text_dim", head.text_dim, head, text_encoder.dim, text_encoder)
        _check_prompt(text_encoder, fusion, head)
        if isinstance(text_encoder, Prompt):
            freeze_unread(fusion)
        if isinstance(fusion, PixelShuffle):
            _check_grid(image_encoder, fusion)
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.fusion = fusion
        self.head = head

    def __repr__(self) -> str:
        """The parts' classes, and the parameters in millions."""
        parts = ", ".join(getattr(self, name).made_as.__name__ for name in PARTS)
        millions = sum(parameter.numel() for parameter in self.parameters()) / 1e6
        trained = sum(p.numel() for p in self.parameters() if p.requires_grad) / 1e6
        return f"VQAModel({parts}; {millions:.3g} M parameters, {trained:.3g} M trained)"

    @property
    def processor(self) -> Processor:
        """The processor that turns images, questions and answers into this model's batches."""
        return Processor(
            self.image_encoder.transform,
            self.text_encoder.tokenizer,
            self.head.encode_targets,
            self.head.takes_choices,
            self.head.takes_pairs,
        )

    @property
    def asking_processor(self) -> Processor:
        """The processor for questions that are only asked: without pairs, and with choices only if
        the head that answers takes them."""
        answers = answering(self.head)
        return self.processor._replace(takes_choices=answers.takes_choices, takes_pairs=False)

    def fuse(self, batch: Batch, image: Features | Kept | None = None) -> Features:
        """Joint features of Q questions. Each of the U images is encoded and prepared once.

        Args:
            batch: the questions.
            image: the image encoder's features of the U images, if they are known already, or the
                result of `fusion.keep` for them.
        """
        seen, index, lists = self._seen(batch, image)
        return self.fusion(seen, self.read(batch), image_index=index, image_lists=lists)

    def _seen(
        self, batch: Batch, image: Features | Kept | None
    ) -> tuple[Features | Kept, Tensor, Tensor | None]:
        """The images, the row of them (or of their lists) that each question is about, and the
        lists."""
        if image is None:
            image = self.image_encoder(batch.images)
        index, lists = batch.image_index, batch.image_lists
        if batch.no_image is not None:
            if isinstance(image, Kept):
                raise ValueError(
                    "batch.no_image: got questions without an image, and images that are prepared "
                    "already; expected images or their features."
                )
            # One more row, of nothing, for all of them: so each image is still prepared once.
            if lists is not None:
                last = len(lists)
                lists = torch.cat((lists, torch.full_like(lists[:1], -1)))
                return image, torch.where(batch.no_image, last, index), lists
            last = image.tokens.shape[0]
            rows = torch.arange(last + 1, device=index.device)
            image = image.take(rows.clamp(max=last - 1)).without(rows == last)
            index = torch.where(batch.no_image, last, index)
        return image, index, lists

    def read(self, batch: Batch) -> Features:
        """The text encoder's features of Q questions; equal questions are encoded once."""
        text = self.text_encoder(batch.words, batch.words_mask)
        text = text if batch.text_index is None else text.take(batch.text_index)
        return text if batch.no_question is None else text.without(batch.no_question)

    def forward(self, batch: Batch, image: Features | Kept | None = None) -> Any:
        """The head's output for Q questions; its `loss`, `decode` and `evidence` read it.

        Args:
            batch: the questions.
            image: known features of the images, as for `fuse`.
        """
        text = self.read(batch)
        seen, index, lists = self._seen(batch, image)
        fused = self.fusion(seen, text, image_index=index, image_lists=lists)
        batch = self.with_choices(batch)
        if self.head.reads_question:
            batch = batch._replace(question=text)
        if self.head.reads_image and isinstance(seen, Features):
            pooled = seen.pooled if lists is None else together(seen, lists).pooled
            batch = batch._replace(image=pooled[index])
        return self.head(fused, batch)

    if TYPE_CHECKING:
        __call__ = forward

    def with_choices(self, batch: Batch) -> Batch:
        """The batch with its choices encoded, each different text once, if the head reads them."""
        if batch.choices is None or self.head.text_dim is None:
            return batch
        choices = batch.choices
        features = self.text_encoder(choices.words, choices.words_mask, questions=False)
        return batch._replace(choices=choices._replace(features=features))

    @property
    def config(self) -> dict[str, Any]:
        """Plain data from which `from_config` makes this model again, without its weights."""
        return {name: getattr(self, name).config for name in PARTS}

    @classmethod
    @torch.inference_mode(False)  # loaded inside of it, parameters could not be trained later
    def from_config(cls, config: dict[str, Any], trust: bool = False) -> VQAModel:
        """Make a model from `config`; see `vlm.core.part.build` for `trust`.

        Raises:
            ValueError: as `build` does, before any part is made; other parts than these four.
        """
        check_parts(config, trust)
        if not isinstance(config, dict) or set(config) != set(PARTS):
            raise ValueError(f"got {config!r:.200}; expected {', '.join(PARTS)}.")
        parts = {name: build(config[name], trust) for name in PARTS}
        for name, base in _BASES.items():
            if not isinstance(parts[name], base):
                raise ValueError(
                    f"{name}: got {type(parts[name]).__name__}; expected one of {base.__name__}'s."
                )
        return cls(**parts)


def _check_width(name: str, got: int, part: nn.Module, wanted: int, source: nn.Module) -> None:
    if got != wanted:
        raise ValueError(
            f"{name}: {type(part).__name__} was built for width {got}, and "
            f"{type(source).__name__} gives {wanted}. Build it with {wanted}."
        )


def _check_grid(image_encoder: ImageEncoder, fusion: PixelShuffle) -> None:
    """Refuse patches of which the fusion would join some that are no neighbours."""
    name = type(image_encoder).__name__
    if (
        not isinstance(image_encoder, PixelEncoder)
        or isinstance(image_encoder, Tiles)  # perhaps as many as cells, but in another order
        or image_encoder.length != prod(image_encoder.grid)
    ):
        raise ValueError(
            f"image_encoder: got {name}, whose tokens are no grid; expected one whose tokens are "
            f"the rows of a grid, since PixelShuffle joins neighbours. Take vlm.fusion.Projector."
        )
    rows, columns = image_encoder.grid
    if (fusion.columns or isqrt(rows * columns)) != columns:
        raise ValueError(
            f"fusion.columns: got {fusion.columns} for the {rows} x {columns} patches of {name}; "
            f"expected {columns}."
        )
    if fusion.max_images > 1 and rows % fusion.factor:
        raise ValueError(
            f"fusion.factor: got {fusion.factor} for several images of {rows} rows of patches; "
            f"expected a divisor of {rows}, so that no token is of two images."
        )


def freeze_unread(fusion: Fusion) -> None:
    """Freeze what only `pooled` depends on: a language model reads the tokens alone."""
    was = fusion.training
    fusion.eval()
    image, text = torch.zeros(1, 1, fusion.image_dim), torch.zeros(1, 1, fusion.text_dim)
    prune(fusion, lambda: fusion(image, text).tokens)
    fusion.train(was)


def _check_prompt(text_encoder: TextEncoder, fusion: Fusion, head: AnswerHead) -> None:
    """Refuse parts of which one has the questions' tokens, and another does not read them."""
    given = isinstance(text_encoder, Prompt)
    if not given and not any(getattr(part, "reads_prompt", False) for part in head.modules()):
        return
    if not (given and head.reads_prompt and fusion.patches_first):
        parts = (type(part).__name__ for part in (text_encoder, fusion, head))
        raise ValueError(
            f"text_encoder, fusion, head: got {', '.join(parts)}; expected vlm.text.Prompt, a "
            f"connector (vlm.fusion.Projector, PixelShuffle, Resampler or QFormer) and a head with "
            f"vlm.heads.LanguageModel, or none of them. A prompt's tokens mean nothing to other "
            f"parts."
        )
    for decoder in head.modules():
        if isinstance(decoder, LanguageModel):
            decoder.check_tokenizer(text_encoder.tokenizer)
