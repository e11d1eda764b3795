"""Attention between two sets of tokens, and the one way to look at its weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import RLock
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlm.core.features import masked_softmax
from vlm.core.validation import check_divides, check_dropout, check_positive

T = TypeVar("T")
Context = tuple[Tensor, Tensor]
"""Keys and values (B, H, M, d) of a context, made in advance."""


class PerThread(Generic[T]):
    """An attribute of modules: a list in the thread that collects, None in all others."""

    def __init__(self) -> None:
        self._lists: ContextVar[dict[nn.Module, list[T]] | None] = ContextVar("lists", default=None)

    def __get__(self, module: nn.Module, owner: type) -> list[T] | None:
        return (self._lists.get() or {}).get(module)

    @property
    def collects(self) -> bool:
        """Whether this thread collects from any module."""
        return bool(self._lists.get())

    @contextmanager
    def collecting(self, lists: dict[nn.Module, list[T]]) -> Iterator[None]:
        """Inside, the modules have these lists."""
        token = self._lists.set((self._lists.get() or {}) | lists)
        try:
            # torch would compile each pass again for the length of its list.
            with SETTING, torch.compiler.set_stance("force_eager"):
                yield
        finally:
            self._lists.reset(token)


SETTING = RLock()
"""Held by a thread while it changes a setting of the whole process, such as how torch compiles:
overlapping threads would not restore the first value."""
RECORDER = PerThread[Tensor]()
TRACE = PerThread[tuple[nn.Module, Tensor]]()


def is_watched() -> bool:
    """Whether this thread looks at attention, by `record_attention` or `trace_attention`."""
    return RECORDER.collects or TRACE.collects


class RecordsAttention(nn.Module):
    """Base of modules whose attention can be recorded.

    Attributes:
        recorder: list to which `forward` appends its weights, or None. `record_attention` sets it,
            for its thread; otherwise no weights are computed or kept.

    Example:
        >>> fusion = vlm.fusion.CrossAttention(image_dim=64, text_dim=32, num_heads=4)
        >>> with vlm.fusion.record_attention(fusion) as maps:
        ...     fused = fusion(torch.randn(2, 49, 64), torch.randn(2, 7, 32))
        >>> isinstance(fusion.layers[0].words_to_patches, vlm.fusion.RecordsAttention)
        True
        >>> maps["layers.0.words_to_patches"][0].shape
        torch.Size([2, 4, 7, 49])
    """

    recorder = RECORDER


_WRAPPERS = re.compile(r"^((_orig_mod|module)(\.|$))+")


@contextmanager
def record_attention(module: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Collect the attention weights of every forward pass made inside the block.

        with record_attention(fusion) as maps:
            fused = fusion(image, text)
        weights = maps["layers.0.words_to_patches"][0]   # (B, H, L, P)

    The modules compute an explicit softmax meanwhile, uncompiled; their output stays the same to
    1e-5 in float32 and to rounding in half precision. The weights are those before dropout, and
    part of the graph where gradients are on. Attention that `Fusion.keep` computed before the block
    is not recorded.

    Args:
        module: a fusion or a whole model.

    Yields:
        For each attending submodule, by its name inside `module` (without what DDP or
        `torch.compile` put around it), one tensor per forward pass:
        (B, heads or glimpses, words, patches) or (B, glimpses, patches), zero in the padding.
        Where patches attend to words it is given as (words, patches) too: each patch's column
        then sums to one.
    """
    attending = {
        _WRAPPERS.sub("", name): part
        for name, part in module.named_modules()
        if isinstance(part, RecordsAttention)
    }
    maps: dict[str, list[Tensor]] = {name: [] for name in attending}
    with RECORDER.collecting({part: maps[name] for name, part in attending.items()}):
        yield maps


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    allowed: Tensor | None,
    dropout: float = 0.0,
    weights: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Scaled dot-product attention (Vaswani et al. 2017, equation 1) by the fastest kernel.

    A query that may attend to nothing gets zeros.

    Args:
        query: (..., N, d).
        key, value: (..., M, d) and (..., M, dv).
        allowed: bool, broadcastable to (..., N, M), True where a query may attend; None for
            everywhere.
        dropout: fraction of the weights dropped; give 0 in evaluation mode.
        weights: whether to return the weights too, which are then computed explicitly.

    Returns:
        The mixed values (..., N, dv), and the weights (..., N, M) or None.
    """
    # On a CPU the fused kernel's backward pass is several times slower in bf16 (docs/log.md).
    explicit = query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.requires_grad
    # ONNX has no such kernel before opset 23, and what is made of it gives no zeros to a query that
    # may attend to nothing.
    explicit |= torch.compiler.is_exporting()
    if not weights and not explicit:
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=allowed, dropout_p=dropout
        )
        return mixed, None
    logits = (query * query.shape[-1] ** -0.5) @ key.mT  # (..., N, M); float16 overflows if later
    shares = logits.softmax(-1) if allowed is None else masked_softmax(logits, allowed)
    return F.dropout(shares, dropout) @ value, shares if weights else None


class Attention(nn.Module):
    """Multi-head attention from queries to a masked context (Vaswani et al. 2017, section 3.2).

    (B, N, query_dim), (B, M, context_dim), (B, M) bool -> (B, N, query_dim). A row whose context
    is empty gets the output bias alone. Same function as `nn.MultiheadAttention` on the same
    weights. The padding of the context may hold anything finite (`Features.zero_padding`).

    Args:
        query_dim: width of the queries and of the result.
        context_dim: width of the context.
        num_heads: number of heads; divides `query_dim`.
        dropout: fraction of the attention weights dropped in training, in [0, 1).

    Attributes:
        trace: list in which `trace_attention` collects, or None.

    Example:
        >>> attention = vlm.fusion.Attention(query_dim=48, context_dim=64, num_heads=4)
        >>> words, patches = torch.randn(2, 7, 48), torch.randn(2, 49, 64)
        >>> attention(words, patches, torch.ones(2, 49, dtype=torch.bool)).shape
        torch.Size([2, 7, 48])
    """

    trace = TRACE

    def __init__(
        self, query_dim: int, context_dim: int, num_heads: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_positive(context_dim=context_dim)
        check_divides("query_dim", query_dim, "num_heads", num_heads)
        check_dropout(dropout)
        self.num_heads, self.dropout = num_heads, dropout
        self.query = nn.Linear(query_dim, query_dim)
        self.key_value = nn.Linear(context_dim, 2 * query_dim)
        self.out = nn.Linear(query_dim, query_dim)

    def forward(self, query: Tensor, context: Tensor | Context, mask: Tensor) -> Tensor:
        return self.attend(query, context, mask)[0]

    def attend(
        self, query: Tensor, context: Tensor | Context, mask: Tensor, weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """The result, and the weights (B, H, N, M) if they are requested.

        Args:
            query: (B, N, query_dim).
            context: (B, M, context_dim), or the result of `keys_and_values` for it.
            mask: (B, M) bool, True = a real token of the context.
            weights: whether to return the weights too.
        """
        key, value = self.keys_and_values(context) if isinstance(context, Tensor) else context
        return self.read(query, key, value, mask[:, None, None, :], weights)

    def keys_and_values(self, context: Tensor) -> Context:
        """The keys and values of a context; a decoder keeps them between its steps."""
        both = self.key_value(context).unflatten(-1, (2, self.num_heads, -1))  # (B, M, 2, H, d)
        key, value = both.permute(2, 0, 3, 1, 4)
        return key, value

    def read(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        allowed: Tensor | None,
        weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """`attend` with the context's keys and values; `allowed` is as for the function."""
        q = self.query(query).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, N, d)
        q = q.expand(key.shape[0], -1, -1, -1)  # one row of queries may serve all contexts
        dropout = self.dropout if self.training else 0.0
        tracing = self.trace is not None
        mixed, shares = attend(q, key, value, allowed, dropout, weights or tracing)
        if self.trace is not None and shares is not None:
            self.trace.append((self, shares))
        return self.out(mixed.transpose(1, 2).flatten(2)), shares


@contextmanager
def trace_attention(module: nn.Module) -> Iterator[list[tuple[nn.Module, Tensor]]]:
    """Collect the weights of every part that traces, also of words among words.

    What `record_attention` shows of each place for looking at, this gives in the order of the
    calls and as it was computed, for following what flows where.

    Yields:
        A list of attention modules with their weights (B, H, N, M), queries before context,
        part of the graph where gradients are on.
    """
    found: list[tuple[nn.Module, Tensor]] = []
    with TRACE.collecting(dict.fromkeys(module.modules(), found)):
        yield found


class CrossModalAttention(Attention, RecordsAttention):
    """Attention between words and patches, which `record_attention` can see.

    Args:
        query_dim, context_dim, num_heads, dropout: widths, heads and dropout, as for `Attention`.
        words_last: whether the context is the words and the queries are patches; the recorded
            weights are then transposed to (words, patches).

    Example:
        >>> attention = vlm.fusion.CrossModalAttention(query_dim=48, context_dim=64, num_heads=4)
        >>> words, patches = torch.randn(2, 7, 48), torch.randn(2, 49, 64)
        >>> attention(words, patches, torch.ones(2, 49, dtype=torch.bool)).shape
        torch.Size([2, 7, 48])
    """

    def __init__(
        self,
        query_dim: int,
        context_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        words_last: bool = False,
    ) -> None:
        super().__init__(query_dim, context_dim, num_heads, dropout)
        self.words_last = words_last

    def forward(
        self,
        query: Tensor,
        context: Tensor | Context,
        mask: Tensor,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend; `query_mask` (B, N) bool only puts zeros in the recorded weights."""
        mixed, weights = self.attend(query, context, mask, self.recorder is not None)
        if self.recorder is not None and weights is not None:
            if query_mask is not None:
                weights = weights.masked_fill(~query_mask[:, None, :, None], 0)
            self.recorder.append(weights.mT if self.words_last else weights)
        return mixed


class QueryAttention(Attention, RecordsAttention):
    """Attention of learned queries, which belong to no word, to patches.

    `record_attention` sees (B, heads * queries, patches): each head of each query is a glimpse.

    Args:
        query_dim, context_dim, num_heads, dropout: as for `Attention`.

    Example:
        >>> attention = vlm.fusion.QueryAttention(query_dim=48, context_dim=64, num_heads=4)
        >>> queries, patches = torch.randn(2, 7, 48), torch.randn(2, 49, 64)
        >>> attention(queries, patches, torch.ones(2, 49, dtype=torch.bool)).shape
        torch.Size([2, 7, 48])
    """

    def forward(
        self,
        query: Tensor,
        context: Tensor | Context,
        mask: Tensor,
        patches: int | None = None,
    ) -> Tensor:
        """Attend; only the first `patches` tokens of the context are recorded, None = all."""
        mixed, weights = self.attend(query, context, mask, self.recorder is not None)
        if self.recorder is not None and weights is not None:
            self.recorder.append(weights[..., :patches].flatten(1, 2))
        return mixed
