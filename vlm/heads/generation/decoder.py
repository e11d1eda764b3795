"""Decoders: write an answer, token by token, while they read the joint tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from vlm.core.part import Part
from vlm.core.validation import check_positive
from vlm.fusion.attention import Attention
from vlm.fusion.cross_attention import feedforward
from vlm.heads.generation.tokenizer import AnswerTokenizer, ByteTokenizer

KeysAndValues = tuple[Tensor, Tensor]


class Memory(NamedTuple):
    """What a decoder reads.

    Attributes:
        tokens: (Q, N, D) float.
        mask: (Q, N) bool, True = a real token; each row has one at least.
        choices: the texts of each question among which to decide, or None to write freely.
        prompt: (Q, L) int64, the questions' prompts, where the decoder reads them.
        prompt_mask: (Q, L) bool, True = a real token of a prompt.
    """

    tokens: Tensor
    mask: Tensor
    choices: list[list[str]] | None = None
    prompt: Tensor | None = None
    prompt_mask: Tensor | None = None

    def rows(self, rows: slice | Tensor) -> Memory:
        """That of some questions, without their choices."""
        prompt, mask = self.prompt, self.prompt_mask
        if prompt is not None and mask is not None:
            prompt, mask = prompt[rows], mask[rows]
        return Memory(self.tokens[rows], self.mask[rows], None, prompt, mask)


class DecoderState(ABC):
    """What a decoder keeps between the steps of Q questions' R = Q * K texts."""

    @abstractmethod
    def reorder(self, rows: Tensor) -> None:
        """Go on with these texts, (R,) int64: as many of each question, in the questions' order."""


class AnswerDecoder(Part, ABC):
    """Base of the decoders, which read a memory and predict each next token of an answer.

    Attributes:
        memory_dim: width of the memory.
        tokenizer: tokenizer between answers and ids.
        max_length: largest number of tokens of an answer, including its end.
        reads_prompt: whether the decoder reads the questions itself, from `vlm.text.Prompt`.

    Example:
        >>> decoder = vlm.heads.TransformerDecoder(memory_dim=64, dim=32)
        >>> isinstance(decoder, vlm.heads.AnswerDecoder)
        True
        >>> decoder.max_length
        32
    """

    reads_prompt: ClassVar[bool] = False

    def __init__(self, memory_dim: int, tokenizer: AnswerTokenizer, max_length: int) -> None:
        super().__init__()
        check_positive(memory_dim=memory_dim, max_length=max_length)
        self.memory_dim, self.tokenizer, self.max_length = memory_dim, tokenizer, max_length

    @abstractmethod
    def start(self, memory: Memory) -> DecoderState:
        """A state before the first token."""

    def rows_at_once(self, memory: Memory) -> int:
        """How many texts to judge together: their logits fill memory."""
        return 1024

    @abstractmethod
    def forward(self, ids: Tensor, state: DecoderState) -> Tensor:
        """Logits (R, T, V) of the tokens after each of `ids` (R, T), which are added to the state.

        The first `ids` of a state begin with `tokenizer.begin`; there may be several texts for
        each question, R = Q * K, in the questions' order. Padding at the end of `ids` changes
        nothing before it.
        """


DecoderFactory = Callable[[int], AnswerDecoder]
"""A decoder without the memory's width, which the head sets: a class or a partial of one."""


class TransformerDecoder(AnswerDecoder):
    """A small Transformer decoder from scratch, with cross-attention to the memory.

    Its layers are masked self-attention, cross-attention and a feed-forward network (Vaswani et al.
    2017, arXiv 1706.03762), each after a normalisation as in GPT-2. Positions are learned. The
    embedding is also the output layer.

    Args:
        memory_dim: width of the memory.
        dim: width of the layers.
        num_layers: number of layers.
        num_heads: attention heads; divides `dim`.
        feedforward_dim: hidden width of the feed-forward networks.
        dropout: fraction dropped in training from attention weights, hidden layers and branches.
        max_length: largest number of tokens of an answer, including its end.
        tokenizer: tokenizer of the answers; None for UTF-8 bytes.

    Example:
        >>> from functools import partial
        >>> decoder = partial(vlm.heads.TransformerDecoder, dim=32, max_length=8)
        >>> head = vlm.heads.Generation(in_dim=64, decoder=decoder)
        >>> head.decoder.max_length
        8
    """

    def __init__(
        self,
        memory_dim: int,
        dim: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
        feedforward_dim: int = 256,
        dropout: float = 0.0,
        max_length: int = 32,
        tokenizer: AnswerTokenizer | None = None,
    ) -> None:
        super().__init__(memory_dim, tokenizer or ByteTokenizer(), max_length)
        check_positive(dim=dim, num_layers=num_layers, feedforward_dim=feedforward_dim)
        self.memory = nn.Sequential(nn.LayerNorm(memory_dim), nn.Linear(memory_dim, dim))
        self.embedding = nn.Embedding(self.tokenizer.vocab_size, dim)
        self.positions = nn.Embedding(max_length, dim)
        for table in (self.embedding, self.positions):
            nn.init.normal_(table.weight, std=0.02)  # of GPT-2; the logits start small
        self.layers = nn.ModuleList(
            DecoderLayer(dim, num_heads, feedforward_dim, dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def start(self, memory: Memory) -> TransformerState:
        # `where` and not a product: whatever stands in the padding (NaN too) must not leak.
        tokens = self.memory(memory.tokens.masked_fill(~memory.mask[..., None], 0))
        read = []
        for layer in self.layers:
            assert isinstance(layer, DecoderLayer)
            key, value = layer.cross_attention.keys_and_values(tokens)
            read.append((key.contiguous(), value.contiguous()))  # every step reads all of them
        return TransformerState(read, memory.mask[:, None, None, :])

    def forward(self, ids: Tensor, state: DecoderState) -> Tensor:
        assert isinstance(state, TransformerState)
        before = state.length
        after = before + ids.shape[1]
        # Each token sees those before it and itself: a single new one sees all.
        seen = None
        if ids.shape[1] > 1:
            seen = torch.ones(ids.shape[1], after, dtype=torch.bool, device=ids.device).tril(before)
        x = self.dropout(self.embedding(ids) + self.positions.weight[before:after])  # (R, T, D)
        for number, layer in enumerate(self.layers):
            x, state.written[number] = layer(
                x, seen, state.written[number], state.read[number], state.mask
            )
        return self.norm(x) @ self.embedding.weight.T


class TransformerState(DecoderState):
    """Keys and values: of the memory, once a question, and of what each text has so far."""

    def __init__(self, read: list[KeysAndValues], mask: Tensor) -> None:
        self.read, self.mask = read, mask
        self.written: list[KeysAndValues | None] = [None] * len(read)

    @property
    def length(self) -> int:
        return 0 if self.written[0] is None else self.written[0][0].shape[2]

    def reorder(self, rows: Tensor) -> None:
        self.written = [
            None if pair is None else (pair[0][rows], pair[1][rows]) for pair in self.written
        ]


class DecoderLayer(nn.Module):
    """One layer of `TransformerDecoder`."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_norm, self.cross_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.self_attention = Attention(dim, dim, num_heads, dropout)
        self.cross_attention = Attention(dim, dim, num_heads, dropout)
        self.feedforward = feedforward(dim, feedforward_dim, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        seen: Tensor | None,
        written: KeysAndValues | None,
        read: KeysAndValues,
        mask: Tensor,
    ) -> tuple[Tensor, KeysAndValues]:
        """(R, T, D) -> (R, T, D), and the keys and values of all that is written now."""
        normed = self.self_norm(x)
        key, value = self.self_attention.keys_and_values(normed)
        if written is not None:
            key, value = torch.cat((written[0], key), 2), torch.cat((written[1], value), 2)
        x = x + self.dropout(self.self_attention.read(normed, key, value, seen)[0])
        # All texts of a question read its memory in one go: it is never copied.
        normed = self.cross_norm(x).reshape(mask.shape[0], -1, x.shape[2])
        mixed = self.cross_attention.read(normed, *read, mask)[0].view_as(x)
        x = x + self.dropout(mixed)
        return x + self.feedforward(x), (key, value)
