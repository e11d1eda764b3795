"""BLIP for VQA (Li et al. 2022, arXiv 2201.12086): a vision transformer, a question encoder that
attends to it, and a decoder that attends to the question.

The modules are those of transformers, so that its weights fit by name; each part's `config` is the
`to_dict()` of transformers' BlipVisionConfig (`BlipPatches`) or BlipTextConfig.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vlm.core.features import Features, masked_mean
from vlm.core.safe_config import model_of, read_options
from vlm.fusion import Fusion
from vlm.heads.generation.decoder import AnswerDecoder, Memory
from vlm.heads.generation.pretrained_decoder import PretrainedState
from vlm.heads.generation.tokenizer import AnswerTokenizer
from vlm.image.base import PixelEncoder
from vlm.image.transform import ImageTransform
from vlm.pretrained.tokenizer_growth import read_tokenizer, tokenizer
from vlm.text.base import TextEncoder
from vlm.text.tokenizer import Tokenizer

_TEXT = model_of(["blip_text_model"])


class BlipPatches(PixelEncoder):
    """The vision transformer; `pooled` is its class token, which the question attends to too."""

    stored: ClassVar = {"config": model_of(["blip_vision_model"])}

    def __init__(self, config: dict[str, Any], mean: Sequence[float], std: Sequence[float]) -> None:
        from transformers import BlipVisionConfig, BlipVisionModel

        made: Any = BlipVisionConfig(**read_options(config))
        side = made.image_size // made.patch_size
        transform = ImageTransform((made.image_size, made.image_size), "bicubic")
        super().__init__(made.hidden_size, (side, side), transform, tuple(mean), tuple(std))
        self.vision_model = BlipVisionModel(made)

    def encode(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.vision_model(images).last_hidden_state
        return hidden[:, 1:], hidden[:, 0]


class BlipWords(TextEncoder):
    """Word pieces with positions."""

    stored: ClassVar = {"config": _TEXT}

    def __init__(self, config: dict[str, Any], tokenizer: Tokenizer) -> None:
        from transformers.models.blip.modeling_blip_text import BlipTextEmbeddings

        made = text_config(config)
        super().__init__(made.hidden_size, tokenizer)
        self.embeddings = BlipTextEmbeddings(made)

    def encode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        words = self.embeddings.word_embeddings(ids)
        tokens = self.embeddings(inputs_embeds=words.clone())  # it adds to them in place
        return tokens, masked_mean(tokens, mask)


class BlipFusion(Fusion):
    """The question encoder with cross-attention to the image. `pooled` is its first token, the
    others are the tokens: a decoder that reads first one and then the others reads them all.
    """

    stored: ClassVar = {"config": _TEXT}

    def __init__(self, image_dim: int, text_dim: int, config: dict[str, Any]) -> None:
        from transformers import BlipTextModel

        made = text_config(config)
        super().__init__(image_dim, text_dim, made.hidden_size)
        text_encoder: Any = BlipTextModel(made, add_pooling_layer=False)
        text_encoder.embeddings = nn.Identity()  # they are `BlipWords`
        self.text_encoder = text_encoder

    def fuse(self, image: Features, text: Features) -> Features:
        image, text = image.zero_padding(), text.zero_padding()
        seen = torch.cat((image.pooled[:, None], image.tokens), 1)
        seen_mask = torch.cat((image.mask.new_ones(len(image.mask), 1), image.mask), 1)
        hidden = self.text_encoder(
            encoder_embeds=text.tokens,
            inputs_embeds=text.tokens,
            attention_mask=text.mask.long(),
            encoder_hidden_states=seen,
            encoder_attention_mask=seen_mask.long(),
        ).last_hidden_state
        return Features(hidden[:, 1:], text.mask[:, 1:], hidden[:, 0])


class BlipAnswers(AnswerTokenizer):
    """Word pieces of answers, from the text of a `tokenizer.json`. What begins an answer is a
    number that the pieces need not have."""

    stored: ClassVar = {"json": tokenizer}

    def __init__(self, json: str, begin: int, end: int, vocab_size: int) -> None:
        self._backend = read_tokenizer(json, "json")
        self._backend.no_truncation()
        self._backend.no_padding()
        self.begin, self.end, self.vocab_size = begin, end, vocab_size

    def encode(self, answer: str) -> Sequence[int]:
        return self._backend.encode(answer, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._backend.decode(list(ids)))

    def __reduce__(self) -> tuple[type, tuple[str, int, int, int]]:
        return BlipAnswers, (self.arguments["json"], self.begin, self.end, self.vocab_size)


class BlipDecoder(AnswerDecoder):
    """The answer decoder."""

    stored: ClassVar = {"config": _TEXT}

    def __init__(
        self,
        memory_dim: int,
        config: dict[str, Any],
        tokenizer: AnswerTokenizer,
        max_length: int = 20,
    ) -> None:
        from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

        super().__init__(memory_dim, tokenizer, max_length)
        self.text_decoder = BlipTextLMHeadModel(text_config(config))
        self.text_decoder.tie_weights()

    def start(self, memory: Memory) -> BlipState:
        return BlipState(self.text_decoder, memory)

    def forward(self, ids: Tensor, state: BlipState) -> Tensor:  # type: ignore[override]  # its own state
        return state.logits(ids)


class BlipState(PretrainedState):
    """The decoder attends to the memory and to what it wrote."""

    def run(self, ids: Tensor) -> Any:
        return self.model(
            input_ids=ids,
            encoder_hidden_states=self.memory.tokens,
            encoder_attention_mask=self.memory.mask.long(),
            past_key_values=self.cache,
            use_cache=True,
            is_decoder=True,
        )


def text_config(config: dict[str, Any]) -> Any:
    """transformers' configuration of plain data."""
    from transformers import BlipTextConfig

    return BlipTextConfig(**read_options(config))
