"""A language model that reads image and question in its own prompt, as LLaVA does."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from vlm.core.safe_config import DECODERS, model_of
from vlm.heads.generation.decoder import AnswerDecoder, DecoderState, Memory
from vlm.heads.generation.pretrained_decoder import (
    Prefix,
    PretrainedState,
    check_room,
    load_model,
    random_model,
    rows_in_cache,
)
from vlm.heads.generation.tokenizer import AnswerTokenizer, SubwordAnswers
from vlm.pretrained.attention_masks import always_mask
from vlm.pretrained.chat import QUESTION, read_chat
from vlm.pretrained.pruning import config_of, prune, stored_config
from vlm.text.prompt import PromptTokenizer
from vlm.text.tokenizer import Tokenizer


class LanguageModel(AnswerDecoder):
    """A causal language model answers in its own chat template.

    It reads the prompt of `vlm.text.Prompt` with the same model. The image tokens from a connector
    (`vlm.fusion.Projector`, `PixelShuffle`, `Resampler` or `QFormer`) replace the image token of
    the prompt (Liu et al. 2023, arXiv 2304.08485, section 4). Answers are tokenised as in the
    template. Weights are kept in float32.

    After construction, `arguments` holds the model's configuration and its tokenizer as plain data,
    so vlm rebuilds it without hub, cache or folder.

    Args:
        memory_dim: width of the connector's tokens, which must be the model's own.
        name: a model of the Hugging Face hub, or a local folder. Not read if `config` is given.
        pretrained: whether to load the weights, or only the configuration and the tokenizer.
        config: the configuration itself instead of a name, with its `model_type`; needs `tokenizer`
            and `image_id`, and the weights are then random.
        tokenizer: tokenizer of answers to use instead of that of `name`.
        image_id: id of the image token; None for the id of `name`.
        max_length: largest number of tokens of an answer, including its end.

    Raises:
        ValueError: a connector of another width, a config without model_type, an encoder-decoder,
            a tokenizer that does not fit the model; on use, a prompt, an image and an answer that
            are longer than the model's positions.
        OSError: the model is neither in the cache nor available.

    Example:
        >>> from functools import partial
        >>> sizes = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1}
        >>> decoder = partial(
        ...     vlm.heads.LanguageModel,
        ...     config={"model_type": "llama", "vocab_size": 258, **sizes},
        ...     tokenizer=vlm.heads.ByteTokenizer(),
        ...     image_id=257,
        ... )
        >>> vlm.heads.Generation(in_dim=64, decoder=decoder).reads_prompt
        True
    """

    reads_prompt: ClassVar[bool] = True
    stored: ClassVar = {"config": model_of(DECODERS)}

    def __init__(
        self,
        memory_dim: int,
        name: str = "HuggingFaceTB/SmolLM2-135M-Instruct",
        pretrained: bool = True,
        config: dict[str, Any] | None = None,
        tokenizer: AnswerTokenizer | None = None,
        image_id: int | None = None,
        max_length: int = 32,
    ) -> None:
        model = random_model(config_of(config)) if config else load_model(name, pretrained)
        always_mask(model)
        if model.config.is_encoder_decoder:
            raise ValueError(
                f"{name}: got an encoder-decoder; expected a causal model. Take HuggingFaceDecoder."
            )
        width = model.get_input_embeddings().embedding_dim
        if memory_dim != width:
            raise ValueError(
                f"memory_dim: got image tokens of width {memory_dim}; expected {width}, the width "
                f"of {model.config.model_type} {name if config is None else ''}".strip()
                + f". Set the fusion's out_dim to {width}."
            )
        if config is None and (tokenizer is None or image_id is None):
            chat = read_chat(name)
            after = chat.prompt.partition(QUESTION)[2]
            tokenizer = tokenizer or SubwordAnswers(
                json=chat.json, end=chat.end, after=after, space=chat.space
            )
            image_id = PromptTokenizer(chat.json, chat.prompt, chat.image_token, 1024).image_id
        if tokenizer is None or image_id is None:
            raise ValueError(
                f"tokenizer, image_id: got {tokenizer!r:.80} and {image_id} with a config; "
                f"expected the model's tokenizer and the id of its image token."
            )
        size = model.config.vocab_size
        if tokenizer.vocab_size > size:
            raise ValueError(
                f"tokenizer: got {tokenizer.vocab_size} ids for {name!r}, which has {size}; "
                f"expected the tokenizer that the model was trained with."
            )
        super().__init__(memory_dim, tokenizer, max_length)
        self.image_id = image_id
        plain = stored_config(model.config)
        model.eval()
        tokens = Memory(torch.zeros(1, 1, width), torch.ones(1, 1, dtype=torch.bool))
        begin = torch.zeros(1, 2, dtype=torch.long)
        prune(model, lambda: Prefix(model, tokens, begins=False).logits(begin))
        self.model = model.train()  # the hub's loader leaves it in evaluation mode
        self.arguments.update(
            pretrained=False, config=plain, tokenizer=tokenizer, image_id=image_id
        )

    def check_tokenizer(self, prompts: Tokenizer) -> None:
        """Refuse prompts whose ids mean something else here.

        Raises:
            ValueError: a tokenizer with another image token, or with another number of ids.
        """
        own = self.tokenizer.arguments.get("json")
        assert isinstance(prompts, PromptTokenizer)
        if prompts.image_id != self.image_id or own not in (None, prompts.arguments["json"]):
            raise ValueError(
                f"text_encoder: got a prompt of {prompts.vocab_size} ids, with {prompts.image_id} "
                f"for the image; the language model in the head has {self.tokenizer.vocab_size}, "
                f"with {self.image_id}, or others. Give vlm.text.Prompt and "
                f"vlm.heads.LanguageModel the same `name`."
            )

    def start(self, memory: Memory) -> PretrainedState:
        return Prefix(self.model, self.sequence(memory), begins=False)

    def sequence(self, memory: Memory) -> Memory:
        """What the model reads before the answer: the prompt, embedded, with the image in it."""
        ids, words = memory.prompt, memory.prompt_mask
        if ids is None or words is None:
            raise ValueError("memory.prompt: got None; expected the tokens of vlm.text.Prompt.")
        slots = ids == self.image_id
        place = slots.int().argmax(1, keepdim=True)  # (Q, 1); the front where there is none
        words = words & ~slots
        embedded = self.model.get_input_embeddings()(ids.masked_fill(~words, 0))
        image = memory.tokens.masked_fill(~memory.mask[..., None], 0).to(embedded.dtype)
        number, count = torch.arange(ids.shape[1], device=ids.device), image.shape[1]
        turn = torch.arange(count, device=ids.device) + place  # of each of the image's tokens
        turns = torch.cat((number + count * (number >= place), turn), 1)
        order = turns.argsort(1)
        tokens = torch.cat((embedded, image), 1)
        mask = torch.cat((words, memory.mask), 1).gather(1, order)
        check_room(self.model, mask, self.max_length, "tokens of prompt and image")
        tokens = tokens.gather(1, order[..., None].expand_as(tokens))
        return Memory(tokens, mask)

    def rows_at_once(self, memory: Memory) -> int:
        return min(super().rows_at_once(memory), rows_in_cache(self.model, memory))

    def forward(self, ids: Tensor, state: DecoderState) -> Tensor:
        assert isinstance(state, PretrainedState)
        return state.logits(ids)
