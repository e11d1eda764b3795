"""Recurrent networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from vlm.core.validation import check_positive
from vlm.text.base import TextEncoder
from vlm.text.tokenizer import Tokenizer, WordTokenizer


class Recurrent(TextEncoder):
    """A GRU or LSTM over the words; each token depends on its word and on those before it.

    `pooled` is the output at the last real word, and zeros for an empty question. With
    `bidirectional`, it is the last output of the forward direction and the first of the backward
    direction, concatenated.

    Args:
        words: words that the encoder knows (`vlm.text.count_words` of the training questions).
        dim: width of the result; an even number if `bidirectional`, because each direction gives
            half of it.
        cell: kind of recurrent cell, "gru" (arXiv 1406.1078) or "lstm".
        embedding_dim: width of the word vectors.
        num_layers: number of layers.
        bidirectional: whether to read from both ends.
        dropout: fraction dropped in training from the word vectors and between layers, in [0, 1).
        tokenizer: tokenizer to use instead of `words`, for subwords or with word vectors.
        standardize: whether to standardise words and `pooled` over the batch, see `Standardize`.

    Raises:
        ValueError: a size that is not positive, an odd `dim` with `bidirectional`.

    Example:
        >>> encoder = vlm.text.Recurrent(words=["what", "color", "is", "it"], dim=64)
        >>> ids, mask = encoder.tokenizer(["what color is it?", "is it red?"])
        >>> encoder(ids, mask)
        Features(2 x 4 x 64, 3-4 real)
    """

    def __init__(
        self,
        words: Sequence[str],
        dim: int = 128,
        cell: Literal["gru", "lstm"] = "gru",
        embedding_dim: int = 128,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        tokenizer: Tokenizer | None = None,
        standardize: bool = False,
    ) -> None:
        check_positive(dim=dim, embedding_dim=embedding_dim, num_layers=num_layers)
        if bidirectional and dim % 2:
            raise ValueError(f"dim: got {dim}; expected an even number, half for each direction.")
        tokenizer = tokenizer or WordTokenizer(words)
        super().__init__(dim, tokenizer, standardize)
        self.embedding = tokenizer.embedding(embedding_dim)
        self.dropout = nn.Dropout(dropout)
        directions = 2 if bidirectional else 1
        widths = [embedding_dim] + [dim] * (num_layers - 1)
        self.forwards = nn.ModuleList(Direction(cell, w, dim // directions) for w in widths)
        self.backwards = nn.ModuleList(
            Direction(cell, w, dim // directions) for w in widths if bidirectional
        )

    def layer_names(self) -> list[list[str]]:
        """The word vectors, then the layers, with both directions together."""
        layers = super().layer_names()
        if not self.backwards:
            return layers
        first, count = len(layers) - 2 * len(self.forwards), len(self.forwards)
        both = zip(layers[first : first + count], layers[first + count :], strict=True)
        return [*layers[:first], *(forwards + backwards for forwards, backwards in both)]

    def encode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        # No packed sequences, which need the lengths on the CPU, fail on empty questions and
        # cannot be exported. Forwards, what follows the last word cannot reach it; backwards,
        # the words alone are turned round and the padding stays at the end.
        length = mask.sum(1, keepdim=True)  # (B, 1)
        place = torch.arange(ids.shape[1], device=ids.device)  # (L,)
        turned = torch.where(place < length, length - 1 - place, place)[..., None]  # (B, L, 1)
        tokens = self.embedding(ids)
        for layer, forwards in enumerate(self.forwards):
            inputs = self.dropout(tokens)
            outputs = [forwards(inputs)]  # (B, L, D) or half of D
            if self.backwards:
                backwards = self.backwards[layer](_take(inputs, turned))
                outputs.append(_take(backwards, turned))
            tokens = torch.cat(outputs, -1)
        # Turned, the last word comes first.
        ends = [_take(outputs[0], turned[:, :1]), *(o[:, :1] for o in outputs[1:])]
        pooled = torch.cat(ends, -1)[:, 0]
        return tokens, torch.where(length > 0, pooled, 0)


# oneDNN has no LSTM in half precision for other CPUs, and raises.
_HALF_LSTM = torch.backends.cpu.get_cpu_capability().startswith("AVX512")


class Direction(nn.RNNBase):
    """One layer in one direction: (B, L, in_dim) -> (B, L, out_dim).

    An `RNNBase`, which keeps the weights together as cuDNN needs them; not an `nn.GRU`, which
    torch.compile refuses to look into.
    """

    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor

    def __init__(self, cell: Literal["gru", "lstm"], in_dim: int, out_dim: int) -> None:
        super().__init__(cell.upper(), in_dim, out_dim, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "LSTM" and not _HALF_LSTM and x.device.type == "cpu":
            with torch.autocast("cpu", enabled=False):
                return self._run(x.to(self.weight_ih_l0.dtype))
        return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        weights = [self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0]
        if torch.compiler.is_exporting():
            return run_direction(x, weights)
        return _direction(x, weights, self.training)


def _direction(x: Tensor, weights: list[Tensor], training: bool = False) -> Tensor:
    """An LSTM's or a GRU's outputs (B, L, H) from inputs (B, L, D), by torch's own kernel."""
    hidden = weights[1].shape[1]
    start = x.new_zeros(1, x.shape[0], hidden)
    # Biases, one layer, no dropout, training or not, one direction, the batch first.
    if weights[0].shape[0] == 4 * hidden:
        return torch.lstm(x, (start, start), weights, True, 1, 0.0, training, False, True)[0]
    return torch.gru(x, start, weights, True, 1, 0.0, training, False, True)[0]


@torch.library.custom_op("vlm::recurrent", mutates_args=())
def run_direction(x: Tensor, weights: list[Tensor]) -> Tensor:
    """`_direction` as one operator: traced through, it would be unrolled to a fixed length."""
    return _direction(x, weights).contiguous().clone()


@run_direction.register_fake
def _(x: Tensor, weights: list[Tensor]) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], weights[1].shape[1])


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Positions `index` (B, M, 1) of each row: (B, L, D) -> (B, M, D)."""
    return x.gather(1, index.expand(-1, -1, x.shape[-1]))
