"""Any language model of the Hugging Face hub as the decoder of answers."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlm.core.safe_config import DECODERS, check_kind, model_of
from vlm.heads.generation.decoder import AnswerDecoder, DecoderState, Memory
from vlm.heads.generation.tokenizer import AnswerTokenizer, SubwordAnswers
from vlm.pretrained.attention_masks import always_mask
from vlm.pretrained.availability import check_hub, hub_access
from vlm.pretrained.pruning import config_of, prune, stored_config


class HuggingFaceDecoder(AnswerDecoder):
    """A pretrained language model with its own word pieces writes the answer.

    A causal model (GPT-2, Llama) reads the memory as embeddings before the text. In a model with
    encoder and decoder (T5, BART), the decoder reads it instead of the encoder's output, and the
    encoder is removed. A layer maps the memory to the model's width. Weights are kept in float32.

    After construction, `arguments` holds the model's configuration and its tokenizer as plain data,
    so vlm rebuilds it without hub, cache or folder.

    Args:
        memory_dim: width of the memory.
        name: a model of the Hugging Face hub, or a local folder. Not read if `config` is given.
        pretrained: whether to load the weights, or only the configuration and the tokenizer.
        config: the configuration itself instead of a name, with its `model_type`; needs a
            `tokenizer`, and the weights are then random.
        tokenizer: tokenizer to use instead of the one stored under `name`.
        max_length: largest number of tokens of an answer, including its end. A causal model's
            positions must suffice for the memory too.

    Raises:
        ValueError: a config without model_type, a tokenizer that does not fit the model, or a
            `max_length` beyond its positions.
        OSError: the model is neither in the cache nor available.

    Example:
        >>> from functools import partial
        >>> config = {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2}
        >>> decoder = partial(
        ...     vlm.heads.HuggingFaceDecoder,
        ...     pretrained=False,
        ...     config=config | {"vocab_size": 257, "bos_token_id": 256, "eos_token_id": 256},
        ...     tokenizer=vlm.heads.ByteTokenizer(),
        ... )
        >>> vlm.heads.Generation(in_dim=64, decoder=decoder).decoder.max_length
        32
    """

    stored: ClassVar = {"config": model_of(DECODERS)}

    def __init__(
        self,
        memory_dim: int,
        name: str = "gpt2",
        pretrained: bool = True,
        config: dict[str, Any] | None = None,
        tokenizer: AnswerTokenizer | None = None,
        max_length: int = 32,
    ) -> None:
        model = load_model(name, pretrained) if config is None else random_model(config_of(config))
        always_mask(model)
        if tokenizer is None:
            if config is not None:
                raise ValueError(
                    "tokenizer: got None with a config; expected the model's tokenizer."
                )
            tokenizer = _tokenizer(name, model)
        super().__init__(memory_dim, tokenizer, max_length)
        plain = stored_config(model.config)
        if tokenizer.vocab_size > model.config.vocab_size:
            raise ValueError(
                f"tokenizer: got {tokenizer.vocab_size} ids for {name!r}, which has "
                f"{model.config.vocab_size}; expected the tokenizer that the model was "
                f"trained with."
            )
        room = getattr(model.config, "max_position_embeddings", None)
        # A causal model must have room for the memory too: `start` checks that.
        if model.config.is_encoder_decoder and room and max_length > room:
            raise ValueError(
                f"max_length: got {max_length}; expected at most {room}, the positions of "
                f"this model."
            )
        width = model.get_input_embeddings().embedding_dim
        self.projection = nn.Linear(memory_dim, width)
        self.state: Callable[..., PretrainedState]
        self.state = EncoderOutput if model.config.is_encoder_decoder else Prefix
        model.eval()
        memory = Memory(torch.zeros(1, 1, width), torch.ones(1, 1, dtype=torch.bool))
        prune(model, lambda: self.state(model, memory).logits(torch.tensor([[tokenizer.begin]])))
        self.model = model.train()  # the hub's loader leaves it in evaluation mode
        self.arguments.update(pretrained=False, config=plain, tokenizer=tokenizer)

    def train_new(self) -> None:
        self.projection.requires_grad_(True)

    def start(self, memory: Memory) -> PretrainedState:
        if self.state is Prefix:
            check_room(self.model, memory.mask, self.max_length, "joint tokens")
        tokens = self.projection(memory.tokens.masked_fill(~memory.mask[..., None], 0))
        return self.state(self.model, Memory(tokens, memory.mask))

    def rows_at_once(self, memory: Memory) -> int:
        return min(super().rows_at_once(memory), rows_in_cache(self.model, memory))

    def forward(self, ids: Tensor, state: DecoderState) -> Tensor:
        assert isinstance(state, PretrainedState)
        # Some models have more outputs than tokens, to fill up a power of two.
        return state.logits(ids)[..., : self.tokenizer.vocab_size]


def check_room(model: Any, mask: Tensor, answer: int, tokens: str) -> None:
    """Refuse more tokens before an answer, (Q, N) bool, than a model has positions for.

    Raises:
        ValueError: says how many there are, and how many fit.
    """
    room = getattr(model.config, "max_position_embeddings", None)
    # Padding takes no positions, but to leave it out means to wait for the device.
    if room and mask.shape[1] + answer > room:
        longest = int(mask.sum(1).max())
        if longest + answer > room:
            raise ValueError(
                f"decoder: got {longest} {tokens} and answers of up to {answer}; expected {room} "
                f"in all, the positions of this model. Take a fusion with fewer tokens, or a "
                f"lower max_length."
            )


CACHE = 2**30
"""Bytes of keys and values that texts judged together may take."""


def rows_in_cache(model: Any, memory: Memory) -> int:
    """How many texts with a memory each have keys and values of at most `CACHE` bytes."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    width *= getattr(config, "num_key_value_heads", None) or heads
    tokens = memory.mask.shape[1] + (0 if memory.prompt is None else memory.prompt.shape[1])
    row = 2 * config.num_hidden_layers * width * tokens * memory.tokens.element_size()
    return max(1, CACHE // max(1, row))


class PretrainedState(DecoderState, ABC):
    """The memory at first, then the model's own cache of memory and texts."""

    def __init__(self, model: Any, memory: Memory) -> None:
        self.model, self.memory = model, memory
        self.cache: Any = None

    def logits(self, ids: Tensor) -> Tensor:
        """Logits (R, T, V) of the tokens after each of `ids` (R, T)."""
        questions = len(self.memory.mask)
        if len(ids) != questions:
            rows = torch.arange(questions, device=ids.device)
            self.spread(rows.repeat_interleave(len(ids) // questions))
        output = self.run(ids)
        self.cache = output.past_key_values
        return output.logits[:, -ids.shape[1] :]

    @abstractmethod
    def run(self, ids: Tensor) -> Any:
        """The model's output, with its cache, for one text a row of the memory."""

    def spread(self, rows: Tensor) -> None:
        """Go on with several texts for each question, of which nothing is written."""
        self._take(rows)

    def reorder(self, rows: Tensor) -> None:
        self.cache.reorder_cache(rows)
        if len(rows) != len(self.memory.mask):
            self._take(rows)  # otherwise each text stays with its question

    def _take(self, rows: Tensor) -> None:
        self.memory = Memory(self.memory.tokens[rows], self.memory.mask[rows])


class EncoderOutput(PretrainedState):
    """The decoder of a model with both attends to the memory."""

    def run(self, ids: Tensor) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        return self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self.memory.tokens),
            attention_mask=self.memory.mask.long(),
            decoder_input_ids=ids,
            past_key_values=self.cache,
            use_cache=True,
        )


class Prefix(PretrainedState):
    """A causal model has the memory before the text.

    Padding stands in front, and positions count real tokens alone: so it changes nothing, whether
    the model numbers its positions or takes their distances.

    Args:
        model: causal language model.
        memory: what it reads, in its width.
        begins: whether the text's first token, which begins it, is read too.
    """

    def __init__(self, model: Any, memory: Memory, begins: bool = True) -> None:
        order = memory.mask.int().argsort(dim=1, stable=True)
        tokens = memory.tokens.gather(1, order[..., None].expand_as(memory.tokens))
        super().__init__(model, Memory(tokens, memory.mask.gather(1, order)))
        self.unread: Tensor | None = tokens
        self.begins = begins
        options = inspect.signature(model.forward).parameters
        self.numbered = "position_ids" in options
        self.shortens = "logits_to_keep" in options

    def run(self, ids: Tensor) -> Any:
        new = ids if self.unread is None or self.begins else ids[:, 1:]
        mask = F.pad(self.memory.mask, (0, new.shape[1]), value=True)
        self.memory = self.memory._replace(mask=mask)
        embeddings = self.model.get_input_embeddings()(new)
        if self.unread is not None:
            embeddings = torch.cat((self.unread, embeddings), 1)
            self.unread = None
        # Logits of the memory are not asked for, and a vocabulary is large.
        return self._read(embeddings, mask, ids.shape[1])

    def spread(self, rows: Tensor) -> None:
        """The memory is read once for all texts of a question, but for its last token."""
        assert self.unread is not None
        if self.unread.shape[1] > 1:
            ahead = self._read(self.unread[:, :-1], self.memory.mask[:, :-1], 1)
            self.cache = ahead.past_key_values
            self.cache.reorder_cache(rows)
        self.unread = self.unread[rows, -1:]
        super().spread(rows)

    def _read(self, embeddings: Tensor, mask: Tensor, kept: int) -> Any:
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -embeddings.shape[1] :]
        return self.model(
            inputs_embeds=embeddings,
            attention_mask=mask.long(),
            past_key_values=self.cache,
            use_cache=True,
            **({"position_ids": positions} if self.numbered else {}),
            **({"logits_to_keep": kept} if self.shortens else {}),
        )


def load_model(name: str, pretrained: bool) -> Any:
    check_hub(name)  # before the import, which takes seconds
    from transformers import AutoConfig

    with hub_access(name):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if not pretrained:
            whole, config = config, config.get_text_config()  # of a model for images too
            # The output layer is the whole's, and so is the word on whether it is tied.
            config.tie_word_embeddings = getattr(whole, "tie_word_embeddings", False)
        check_kind(config.model_type, DECODERS)
        if pretrained:
            return _kind(config).from_pretrained(name, dtype=torch.float32)
    return random_model(config)


def random_model(config: Any) -> Any:
    return _kind(config).from_config(config, dtype=torch.float32)


def _kind(config: Any) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def _tokenizer(name: str, model: Any) -> AnswerTokenizer:
    own = SubwordAnswers(name)
    # T5 and BART begin with another token than their tokenizer says.
    begin = getattr(model.generation_config, "decoder_start_token_id", None)
    if begin is None or not model.config.is_encoder_decoder:
        return own
    return SubwordAnswers(
        json=own.arguments["json"], begin=own.token(begin), end=own.arguments["end"]
    )
