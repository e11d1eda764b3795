"""The one type that passes between the stages, and the arithmetic of masks.

Shapes, everywhere in the library: B batch, N tokens, D width, Q questions, U unique images,
L words of a question, P patches of an image, A answers, H attention heads.

Masks are bool and True marks a real token. A row with nothing real yields zeros, never NaN.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class _Default(Enum):
    """What stands for an argument that is left out; None is a value, of pytrees and copies."""

    MASK = "all real"
    POOLED = "mean of the real tokens"

    def __repr__(self) -> str:
        return f"<{self.value}>"


_MASK: Any = _Default.MASK
_POOLED: Any = _Default.POOLED


class Features(NamedTuple):
    """What an encoder or a fusion returns.

    It is a `NamedTuple`, so Lightning's device transfer, `torch.utils._pytree` and `torch.export`
    can look into it.

    Attributes:
        tokens: (B, N, D) float: patches or grid cells of an image, words of a question.
        mask: (B, N) bool, True for a real token; without it, all tokens are real.
        pooled: (B, D) float, one vector for all tokens, made from them; without it, the mean of the
            real tokens.
        boxes: (B, N, 4) float in [0, 1] or None: x0, y0, x1, y1 of each token in the model's input
            image, or in the image itself if the encoder keeps its aspect ratio. None for words.

    Example:
        >>> words = torch.randn(2, 7, 512)
        >>> features = Features(words, mask=torch.arange(7) < torch.tensor([[7], [4]]))
        >>> features
        Features(2 x 7 x 512, 4-7 real)
        >>> features.pooled.shape
        torch.Size([2, 512])
    """

    tokens: Tensor
    mask: Tensor = _MASK
    pooled: Tensor = _POOLED
    boxes: Tensor | None = None

    def __repr__(self) -> str:
        if not isinstance(self.tokens, Tensor):  # what a pytree's function put in its place
            return f"Features({', '.join(type(leaf).__name__ for leaf in self)})"
        facts = [" x ".join(map(str, self.tokens.shape)), *_real(self.mask)]
        return f"Features({', '.join(facts)}{', boxes' * (self.boxes is not None)})"

    def take(self, index: Tensor) -> Features:
        """The rows `index` (Q,) int64 of the batch: features gathered to questions."""
        boxes = None if self.boxes is None else self.boxes[index]
        return Features(self.tokens[index], self.mask[index], self.pooled[index], boxes)

    def without(self, rows: Tensor) -> Features:
        """These features with nothing in the rows where `rows` (B,) bool is True."""
        mask = self.mask & ~rows[:, None]
        tokens = self.tokens.masked_fill(rows[:, None, None], 0)
        return Features(tokens, mask, self.pooled.masked_fill(rows[:, None], 0), self.boxes)

    def zero_padding(self) -> Features:
        """These features with zeros in the padding, so that junk there (NaN too) cannot spread."""
        if _known_all(self.mask):
            return self
        return self._replace(tokens=torch.where(self.mask[..., None], self.tokens, 0))


class Several(NamedTuple):
    """What the encoders of a `vlm.image.SideBySide` are given, if features of some are known.

    Attributes:
        images: as its `transform` makes them, for the others; None if there are no others.
        known: for each encoder its features of the images, as it makes them; None for those that
            see the images.
    """

    images: Tensor | None
    known: tuple[Features | None, ...]


Seen = Tensor | Features | Several
"""What an image encoder is given of a batch's images: pixels, regions, or features kept of them."""


def _new(
    cls: type[Features],
    tokens: Tensor,
    mask: Tensor = _MASK,
    pooled: Tensor = _POOLED,
    boxes: Tensor | None = None,
) -> Features:
    if mask is _MASK or (mask is None and pooled is _POOLED):
        mask = all_real(tokens)
    if pooled is _POOLED:
        pooled = masked_mean(tokens, mask)
    return tuple.__new__(cls, (tokens, mask, pooled, boxes))


# Not in the class, where `NamedTuple` refuses it, nor in a subclass, which `torch.compile` would
# return empty. `_make`, and so `_replace`, do not come through here.
Features.__new__ = _new  # type: ignore[method-assign, assignment]  # as said above


def _real(mask: Any) -> list[str]:
    """How many tokens are real in each row; nothing where a mask has no values (export, meta)."""
    try:
        counts = mask.sum(-1).tolist()
    except (AttributeError, RuntimeError):
        return []
    fewest, most = min(counts, default=0), max(counts, default=0)
    return [f"{fewest} real" if fewest == most else f"{fewest}-{most} real"]


def _known_all(mask: Tensor) -> bool:
    """Whether a mask is seen to be True everywhere; not looked at where that would wait or fail."""
    if mask.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    try:
        return bool(mask.all())
    except RuntimeError:  # no value is known under `torch.func.vmap`
        return False


def all_real(tokens: Tensor) -> Tensor:
    """The mask (B, N) of tokens (B, N, D) with nothing padded."""
    return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)


def one_token(pooled: Tensor) -> Features:
    """Features whose only token is their pooled vector (B, D)."""
    tokens = pooled[:, None]
    return Features(tokens, all_real(tokens), pooled)


class HasHiddenState(Protocol):
    """An output of transformers' models."""

    @property
    def last_hidden_state(self) -> Tensor | None: ...


FeaturesLike = Features | Tensor | tuple[Tensor, Tensor] | HasHiddenState
"""What a fusion accepts as features: see `as_features`."""


def as_features(value: FeaturesLike, name: str, mask: Tensor | None = None) -> Features:
    """Make features of what stands for them, and check what was given.

    A tensor (B, D) is one pooled vector a row. A tensor (B, N, D), `(tokens, mask)` and the
    `last_hidden_state` of an output of transformers are tokens, whose mean is `pooled`.

    Args:
        value: features, a tensor, a pair of tensors, or an output of transformers.
        name: the argument's name, for the error.
        mask: (B, N) of tokens without one, True or 1 = a real token: bool, or a tokenizer's
            `attention_mask` of integers. Left out, all tokens are real.

    Raises:
        ValueError: wrong number of dimensions, a mask of other values, a second mask, parts that
            disagree.
    """
    if isinstance(value, Features):
        if mask is not None:
            raise _second_mask(name, "`Features`")
        return _checked(value, name)
    mask_name = f"{name}_mask"
    if isinstance(value, tuple) and len(value) == 2:
        if mask is not None:
            raise _second_mask(name, "`(tokens, mask)`")
        (value, mask), mask_name = value, f"{name}[1]"
    tokens = value if isinstance(value, Tensor) else getattr(value, "last_hidden_state", None)
    if not isinstance(tokens, Tensor):
        raise ValueError(
            f"{name}: got {type(value).__name__}; expected `Features`, a tensor of pooled vectors "
            f"(B, D) or tokens (B, N, D), `(tokens, mask)`, or an output of transformers with a "
            f"`last_hidden_state`."
        )
    if tokens.ndim == 2 and mask is None:
        return one_token(tokens)
    if tokens.ndim != 3:
        raise ValueError(
            f"{name}: got a {tokens.ndim}-D tensor of shape {tuple(tokens.shape)}; expected pooled "
            f"vectors (B, D) without a mask, or tokens (B, N, D). Flatten the grid of an image "
            f"into N tokens."
        )
    mask = all_real(tokens) if mask is None else _as_mask(mask, tokens, mask_name)
    return Features(tokens, mask)


def _second_mask(name: str, where: str) -> ValueError:
    return ValueError(
        f"{name}_mask: got a mask beside {where}, where one is already; expected one mask. Leave "
        f"`{name}_mask` out, or give the tokens as a tensor."
    )


def _as_mask(mask: Tensor, tokens: Tensor, name: str) -> Tensor:
    """A mask of bool from one of bool, or of integers 0 and 1."""
    if not isinstance(mask, Tensor) or mask.shape != tokens.shape[:2]:
        got = f"shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"{name}: got {got}; expected a tensor of shape {tuple(tokens.shape[:2])}, the (B, N) "
            f"of the tokens."
        )
    if mask.device != tokens.device:
        raise ValueError(
            f"{name}: got a mask on {mask.device} for tokens on {tokens.device}; expected one "
            f"device. Move it with `.to({str(tokens.device)!r})`."
        )
    if mask.dtype == torch.bool:
        return mask
    if mask.is_floating_point() or mask.is_complex():
        raise ValueError(
            f"{name}: got dtype {mask.dtype}; expected torch.bool, or integers 0 and 1, with "
            f"True or 1 = a real token. Convert an additive mask with `mask == 0`."
        )
    # A compiled program cannot branch on values.
    if not torch.compiler.is_compiling() and (other := mask[(mask != 0) & (mask != 1)]).numel():
        raise ValueError(
            f"{name}: got the value {other[0].item()}; expected 0 and 1 alone, 1 = a real token."
        )
    return mask.bool()


def _checked(value: Features, name: str) -> Features:
    tokens, mask, pooled, boxes = value
    if tokens.ndim != 3:
        raise ValueError(
            f"{name}.tokens: got shape {tuple(tokens.shape)}; expected three dimensions (B, N, D)."
        )
    if not tokens.device == mask.device == pooled.device:
        raise ValueError(
            f"{name}: got tokens, mask and pooled on {tokens.device}, {mask.device} and "
            f"{pooled.device}; expected one device. Move them with `.to(device)`."
        )
    if mask.dtype != torch.bool:
        raise ValueError(
            f"{name}.mask: got dtype {mask.dtype}; expected torch.bool with True = a real token. "
            f"Convert it with `mask.bool()` (Hugging Face masks) or `mask == 0` (additive masks)."
        )
    batch, number, width = tokens.shape
    for part, tensor, shape, meaning in (
        ("mask", mask, (batch, number), "the (B, N) of the tokens. One mask serves all heads"),
        ("pooled", pooled, (batch, width), "the (B, D) of the tokens"),
        ("boxes", boxes, (batch, number, 4), "x0, y0, x1, y1 of each token"),
    ):
        if tensor is not None and tensor.shape != shape:
            got = tuple(tensor.shape)
            raise ValueError(f"{name}.{part}: got shape {got}; expected {shape}, {meaning}.")
    return value


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean of the real tokens: (B, N, D), (B, N) -> (B, D). Zeros for rows without a real token.

    Args:
        tokens: (B, N, D) float. Values in the padding, even NaN, change nothing.
        mask: (B, N) bool, True = a real token.

    Example:
        >>> tokens = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]]])
        >>> masked_mean(tokens, torch.tensor([[True, True, False]]))
        tensor([[2., 4.]])
    """
    # `where` and not a product: whatever stands in the padding (NaN too) must not leak. The sum of
    # many tokens may overflow float16.
    wide = torch.promote_types(tokens.dtype, torch.float32)
    total = torch.where(mask[..., None], tokens, 0).sum(-2, dtype=wide)
    return (total / mask.sum(-1, keepdim=True).clamp(min=1)).to(tokens.dtype)


def masked_max(tokens: Tensor, mask: Tensor) -> Tensor:
    """Maximum over the real tokens: (B, N, D), (B, N) -> (B, D). Zeros for rows without a real
    token.

    Args:
        tokens: (B, N, D) float. Values in the padding, even NaN, change nothing.
        mask: (B, N) bool, True = a real token.

    Example:
        >>> tokens = torch.tensor([[[1.0, 6.0], [3.0, 2.0], [9.0, 9.0]]])
        >>> masked_max(tokens, torch.tensor([[True, True, False]]))
        tensor([[3., 6.]])
    """
    if tokens.shape[-2] == 0:
        return tokens.sum(-2)
    lowest = torch.finfo(tokens.dtype).min
    highest = torch.where(mask[..., None], tokens, lowest).amax(-2)
    return torch.where(mask.any(-1, keepdim=True), highest, 0)


def masked_softmax(logits: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
    """Softmax over the real entries along `dim`; zeros in the padding and in empty rows.

    Args:
        logits: scores of any shape.
        mask: bool, broadcastable to `logits`.
        dim: axis along which the result sums to one.

    Example:
        >>> masked_softmax(torch.zeros(1, 3), torch.tensor([[True, True, False]]))
        tensor([[0.5000, 0.5000, 0.0000]])
    """
    # A finite floor, since a softmax over nothing but -inf is NaN in value and in gradient.
    logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
    return logits.softmax(dim).masked_fill(~mask, 0)
