"""A fusion that breaks one promise fails its check, and the message says which promise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vlm.core.features import Features, masked_mean
from vlm.core.together import together
from vlm.fusion import CrossModalAttention, Fusion, RecordsAttention
from vlm.testing import check_fusion


class GoodFusion(Fusion):
    """Words and patches side by side, with `pooled` from their means."""

    def __init__(self, image_dim: int = 13, text_dim: int = 11, out_dim: int = 17) -> None:
        super().__init__(image_dim, text_dim, out_dim)
        self.patches = nn.Linear(image_dim, out_dim)
        self.words = nn.Linear(text_dim, out_dim)

    def fuse(self, image: Features, text: Features) -> Features:
        patches = self.patches(image.zero_padding().tokens)
        words = self.words(text.zero_padding().tokens)
        pooled = self.pool(words, text.mask) * self.pool(patches, image.mask)
        mask = torch.cat((text.mask, image.mask), 1)
        return self.result(torch.cat((words, patches), 1), mask, pooled)

    def pool(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return masked_mean(tokens, mask).tanh()

    def result(self, tokens: Tensor, mask: Tensor, pooled: Tensor) -> Features:
        return Features(tokens, mask, pooled)


class MeanOverPadding(GoodFusion):
    def pool(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return tokens.mean(1)


class JunkLeaks(GoodFusion):
    def fuse(self, image: Features, text: Features) -> Features:
        fused = super().fuse(image, text)
        return fused._replace(pooled=fused.pooled + image.tokens.mean() * 1e-3)


class NaNTimesZero(GoodFusion):
    def fuse(self, image: Features, text: Features) -> Features:
        fused = super().fuse(image, text)
        zeros = (text.tokens * text.mask[..., None]).sum((1, 2))
        return fused._replace(pooled=fused.pooled + zeros[:, None])


class NaNGradient(GoodFusion):
    def fuse(self, image: Features, text: Features) -> Features:
        fused = super().fuse(image, text)
        squares = (image.zero_padding().tokens @ self.patches.weight.T).square().sum(-1)
        length = squares.sqrt().masked_fill(~image.mask, 0).sum(1)  # infinite slope at zero
        return fused._replace(pooled=fused.pooled * length[:, None])


class CoupledFusion(GoodFusion):
    def result(self, tokens: Tensor, mask: Tensor, pooled: Tensor) -> Features:
        return Features(tokens, mask, pooled - pooled.mean(0))


class NaNOnEmpty(GoodFusion):
    def pool(self, tokens: Tensor, mask: Tensor) -> Tensor:
        total = torch.where(mask[..., None], tokens, 0).sum(1)
        return total / mask.sum(1, keepdim=True)


class EmptySpreads(GoodFusion):
    def pool(self, tokens: Tensor, mask: Tensor) -> Tensor:
        empty = (~mask.any(1)).sum()
        return super().pool(tokens, mask) * (1 + empty)


class TokensOnly(GoodFusion):
    def __init__(self, image_dim: int = 13, text_dim: int = 11, out_dim: int = 17) -> None:
        super().__init__(image_dim, text_dim, out_dim)
        self.last = nn.Linear(out_dim, out_dim)

    def result(self, tokens: Tensor, mask: Tensor, pooled: Tensor) -> Features:
        return Features(self.last(tokens), mask, pooled)


class WrongWidth(GoodFusion):
    def result(self, tokens: Tensor, mask: Tensor, pooled: Tensor) -> Features:
        return Features(tokens[..., 1:], mask, pooled[..., 1:])


class FloatMask(GoodFusion):
    def result(self, tokens: Tensor, mask: Tensor, pooled: Tensor) -> Features:
        return Features(tokens, mask.float(), pooled)


class SwappedMask(GoodFusion):
    def result(self, tokens: Tensor, mask: Tensor, pooled: Tensor) -> Features:
        return Features(tokens, torch.cat((mask[:, 7:], mask[:, :7]), 1), pooled)


class WithBoxes(GoodFusion):
    def result(self, tokens: Tensor, mask: Tensor, pooled: Tensor) -> Features:
        return Features(tokens, mask, pooled, torch.zeros(*mask.shape, 4))


class NoPlainTensors(GoodFusion):
    def fuse(self, image: Features, text: Features) -> Features:
        if image.boxes is None and not image.tokens.requires_grad:
            raise RuntimeError("boxes expected")
        return super().fuse(image, text)


class OtherIfShared(GoodFusion):
    def prepare(self, image: Features) -> Any:
        return self.shared(image) if len(image.tokens) == 3 else image

    def shared(self, image: Features) -> Features:
        return image._replace(tokens=2 * image.tokens)


class KeepsOnlyValues(OtherIfShared):
    def shared(self, image: Features) -> Features:
        return image._replace(tokens=image.tokens.detach())


class Attending(GoodFusion):
    """Words attend to patches."""

    def __init__(self, image_dim: int = 13, text_dim: int = 11, out_dim: int = 17) -> None:
        super().__init__(image_dim, text_dim, out_dim)
        self.attention = self.make_attention(out_dim)

    def make_attention(self, dim: int) -> nn.Module:
        return CrossModalAttention(dim, dim, num_heads=1)

    def fuse(self, image: Features, text: Features) -> Features:
        patches = self.patches(image.zero_padding().tokens)
        words = self.words(text.zero_padding().tokens)
        words = words + self.attend(words, patches, text.mask, image.mask)
        mask = torch.cat((text.mask, image.mask), 1)
        return self.result(torch.cat((words, patches), 1), mask, self.pool(words, text.mask))

    def attend(self, words: Tensor, patches: Tensor, words_mask: Tensor, mask: Tensor) -> Tensor:
        return self.attention(words, patches, mask, words_mask)


class WrongOrientation(Attending):
    def make_attention(self, dim: int) -> nn.Module:
        return CrossModalAttention(dim, dim, num_heads=1, words_last=True)


class PaddedWordsAttend(Attending):
    def attend(self, words: Tensor, patches: Tensor, words_mask: Tensor, mask: Tensor) -> Tensor:
        return self.attention(words, patches, mask)


class Uniform(RecordsAttention):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.out = nn.Linear(dim, dim)

    def forward(self, words: Tensor, patches: Tensor, mask: Tensor, words_mask: Tensor) -> Tensor:
        weights = mask[:, None].to(patches.dtype).expand(-1, words.shape[1], -1)  # (B, L, P)
        weights = weights * words_mask[..., None] / mask.sum(1).clamp(min=1)[:, None, None]
        mixed = self.out(weights @ patches)
        self.record(weights)
        return mixed if self.recorder is None else self.while_recording(mixed)

    def record(self, weights: Tensor) -> None:
        if self.recorder is not None:
            self.recorder.append(weights[:, None])

    def while_recording(self, mixed: Tensor) -> Tensor:
        return mixed


class Differs(Uniform):
    def while_recording(self, mixed: Tensor) -> Tensor:
        return mixed * 1.01


class Silent(Uniform):
    def record(self, weights: Tensor) -> None:
        pass


class DiffersRecording(Attending):
    def make_attention(self, dim: int) -> nn.Module:
        return Differs(dim)


class NothingRecorded(Attending):
    def make_attention(self, dim: int) -> nn.Module:
        return Silent(dim)


class Unnumbered(GoodFusion):
    def _together(self, image: Features, lists: Tensor | None) -> Features:
        return image if lists is None else together(image, lists)


class FirstImageAlone(GoodFusion):
    def _together(self, image: Features, lists: Tensor | None) -> Features:
        return super()._together(image, None if lists is None else lists[:, :1])


class UncheckedBatch(GoodFusion):
    def forward(self, image: Any, text: Any, *masks: Any, **named_masks: Any) -> Features:
        if isinstance(text, Tensor) and text.ndim == 3 and len(text) == 4:
            return super().forward(image.take(torch.arange(4)), text)
        return super().forward(image, text, *masks, **named_masks)


class MaskBesideIsIgnored(GoodFusion):
    def forward(self, image: Any, text: Any, image_mask: Any = None, text_mask: Any = None) -> Any:
        return super().forward(image, text, image_mask)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (MeanOverPadding, "padding changes nothing .*2 more padded words|padding.*pooled: differs"),
        (JunkLeaks, "padding changes nothing .*10000.0 in the padding of the patches"),
        (NaNTimesZero, "padding changes nothing .*nan in the padding of the words"),
        (NaNGradient, "gradients are finite .*padding"),
        (CoupledFusion, "a row alone gives what it gives in a batch"),
        (NaNOnEmpty, "given rows without a word, a patch, or both, evaluation mode.*NaN"),
        (EmptySpreads, "an empty row leaves the others as they were.*pooled"),
        (TokensOnly, "gradient from `pooled` alone.*last.weight, last.bias"),
        (FloatMask, "result.mask: got dtype torch.float32"),
        (SwappedMask, "masks concatenated, no boxes. The mask is another"),
        (WithBoxes, "masks concatenated, no boxes. There are boxes"),
        (NoPlainTensors, r"plain tensors are welcome .*given \(B, D\).*boxes expected"),
        (OtherIfShared, "`image_index` equals gathering the images"),
        (KeepsOnlyValues, "gathering the images, in its gradients"),
        (WrongOrientation, r"maps are \(B, H, words, patches\).*Shape \(5, 1, 11, 7\)"),
        (PaddedWordsAttend, "maps are zero in the padding .*map 'attention'"),
        (DiffersRecording, "recording attention leaves the result as it is"),
        (NothingRecorded, "No map was recorded"),
        (MaskBesideIsIgnored, "a mask beside tokens counts as their own"),
        (Unnumbered, "the order of the images counts"),
        (FirstImageAlone, "each number gets a gradient"),
        (UncheckedBatch, "wrong input raises ValueError .*fewer questions than images"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_broken_fusion(broken: type[Fusion], message: str) -> None:
    with pytest.raises(AssertionError, match=f"(?s){message}"):
        check_fusion(broken(13, 11))


def test_a_wrong_width_is_refused_by_the_fusion_itself() -> None:
    with pytest.raises(
        ValueError, match=r"WrongWidth\.fuse: .* of width 16; expected 17, the out_dim"
    ):
        check_fusion(WrongWidth(13, 11))


def test_a_module_that_is_no_fusion_is_refused() -> None:
    with pytest.raises(TypeError, match=r"fusion: got Linear; expected .* vlm\.fusion\.Fusion"):
        check_fusion(nn.Linear(13, 11))


@pytest.mark.parametrize("good", [GoodFusion, Attending])
def test_good_fusion(good: type[Fusion]) -> None:
    check_fusion(good(13, 11))
