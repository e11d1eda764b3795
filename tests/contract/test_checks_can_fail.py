"""A part that breaks one promise turns its check red, and the message says which."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

from vlm.features import Features, masked_mean
from vlm.fusion import Attention, CrossAttention, Fusion, Merge, Product, RecordsAttention
from vlm.image import ConvNet
from vlm.testing import check_fusion, check_image_encoder, check_merge, check_text_encoder
from vlm.text import BagOfWords, WordTokenizer

# ------------------------------------------------------------------------------------ merges


class GoodMerge(Merge):
    def __init__(self, x_dim: int = 13, y_dim: int = 11, out_dim: int = 17) -> None:
        super().__init__(x_dim, y_dim, out_dim)
        self.x_projection = nn.Linear(x_dim, out_dim)
        self.y_projection = nn.Linear(y_dim, out_dim)

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        return self.x_projection(x).tanh() * self.y_projection(y)


class TooNarrow(GoodMerge):
    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        return super().merge(x, y)[..., 1:]


class WrongBroadcast(GoodMerge):
    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        y = self.y_projection(y)
        if x.ndim == 3:
            y = y[:, :1].expand_as(y)
        return self.x_projection(x) * y


class CoupledMerge(GoodMerge):
    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        joint = super().merge(x, y)
        return joint - joint.mean(0)


class FirstRowOnly(GoodMerge):
    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        joint = super().merge(x, y)
        scale = torch.ones(joint.shape[0]).index_fill(0, torch.tensor(0), 2)
        return joint * scale.view(-1, *[1] * (joint.ndim - 1))


class UnusedParameter(GoodMerge):
    def __init__(self, x_dim: int = 13, y_dim: int = 11, out_dim: int = 17) -> None:
        super().__init__(x_dim, y_dim, out_dim)
        self.forgotten = nn.Linear(x_dim, out_dim)


class IgnoresY(GoodMerge):
    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        return self.x_projection(x) + 0 * self.y_projection(y)


class NaNGradientAtZero(GoodMerge):
    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        return super().merge(x, y) + x.norm(dim=-1, keepdim=True).sqrt()


class WrongGradient(GoodMerge):
    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        joint = super().merge(x, y)
        return joint + joint.square().detach()


class RandomBuffer(GoodMerge):
    def __init__(self, x_dim: int = 13, y_dim: int = 11, out_dim: int = 17) -> None:
        super().__init__(x_dim, y_dim, out_dim)
        self.register_buffer("signs", torch.randn(out_dim), persistent=False)

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        return super().merge(x, y) * self.signs


class NotRebuilt(GoodMerge):
    def __init__(self, x_dim: int = 13, y_dim: int = 11, out_dim: object = (17,)) -> None:
        super().__init__(x_dim, y_dim, out_dim[0])  # type: ignore[index]
        self.arguments["out_dim"] = 17  # the same thing, but not what the constructor takes


class Unpicklable(GoodMerge):
    def __getstate__(self) -> dict:
        raise TypeError("cannot pickle this")

    def __deepcopy__(self, memo: dict) -> Unpicklable:
        return Unpicklable(self.x_dim, self.y_dim).to(self.x_projection.weight.dtype)


class PoorInBF16(GoodMerge):
    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        joint = super().merge(x, y)
        if torch.is_autocast_enabled("cpu"):
            return joint * 1.5
        return joint


class GraphBreak(GoodMerge):
    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        joint = super().merge(x, y)
        return joint if joint.sum().item() > -1e9 else -joint


class WrongWhenCompiled(GoodMerge):
    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        joint = super().merge(x, y)
        return 2 * joint if torch.compiler.is_dynamo_compiling() else joint


class WrongWhenExported(GoodMerge):
    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        joint = super().merge(x, y)
        exporting = torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()
        return 2 * joint if exporting else joint


class Unchecked(GoodMerge):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.merge(x, y)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (TooNarrow, r"TooNarrow breaks a promise: .*out_dim.*Shape \(5, 16\), not \(5, 17\)"),
        (WrongBroadcast, r"broadcasting equals .*given \(B, 1, Dx\) and \(B, N, Dy\).*differs by"),
        (CoupledMerge, "a row alone gives what it gives in a batch .*row 0 of 5"),
        (FirstRowOnly, "the order of the batch changes nothing"),
        (UnusedParameter, "gradient from `output` alone.*forgotten.weight, forgotten.bias"),
        (IgnoresY, "both inputs matter.*gradient of y is zero"),
        (NaNGradientAtZero, "gradients are finite .*given zeros.*NaN"),
        (WrongGradient, "gradcheck passes"),
        (RandomBuffer, r"build\(part.config\) plus the state_dict gives the same"),
        (NotRebuilt, r"build\(part.config\) plus the state_dict gives the same.*do not fit"),
        (Unpicklable, "pickle.*cannot pickle this"),
        (PoorInBF16, r"bf16 autocast .*output: off by .*%, at most 10%"),
        (GraphBreak, "fullgraph=True"),
        (WrongWhenCompiled, "fullgraph=True.*differs by"),
        (WrongWhenExported, "torch.export gives the same.*differs by"),
        (Unchecked, "wrong input raises ValueError.*x that is too wide"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_broken_merge(broken: type[Merge], message: str) -> None:
    with pytest.raises(AssertionError, match=f"(?s){message}"):
        check_merge(broken(13, 11))


# ----------------------------------------------------------------------------------- fusions


class GoodFusion(Fusion):
    """Words and patches side by side; `pooled` from their means."""

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
            raise RuntimeError("boxes wanted")
        return super().fuse(image, text)


class Attending(GoodFusion):
    """Words attend to patches."""

    def __init__(self, image_dim: int = 13, text_dim: int = 11, out_dim: int = 17) -> None:
        super().__init__(image_dim, text_dim, out_dim)
        self.attention = self.make_attention(out_dim)

    def make_attention(self, dim: int) -> nn.Module:
        return Attention(dim, dim, heads=1)

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
        return Attention(dim, dim, heads=1, words_last=True)


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


class UncheckedBatch(GoodFusion):
    def forward(self, image: Features | Tensor, text: Features | Tensor) -> Features:
        if isinstance(text, Tensor) and text.ndim == 3 and len(text) == 4:
            return super().forward(image.take(torch.arange(4)), text)  # type: ignore[union-attr]
        return super().forward(image, text)


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
        (WrongWidth, r"of one width. pooled: shape \(5, 16\), not \(5, 17\)"),
        (FloatMask, "result.mask: got dtype torch.float32"),
        (SwappedMask, "masks concatenated, no boxes. The mask is another"),
        (WithBoxes, "masks concatenated, no boxes. There are boxes"),
        (NoPlainTensors, r"plain tensors are welcome .*given \(B, D\).*boxes wanted"),
        (WrongOrientation, r"maps are \(B, H, words, patches\).*Shape \(5, 1, 11, 7\)"),
        (PaddedWordsAttend, "maps are zero in the padding .*map 'attention'"),
        (DiffersRecording, "recording attention leaves the result as it is"),
        (NothingRecorded, "No map was recorded"),
        (UncheckedBatch, "wrong input raises ValueError .*fewer questions than images"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_broken_fusion(broken: type[Fusion], message: str) -> None:
    with pytest.raises(AssertionError, match=f"(?s){message}"):
        check_fusion(broken(13, 11))


@pytest.mark.parametrize("good", [GoodFusion, Attending])
def test_good_fusion(good: type[Fusion]) -> None:
    check_fusion(good(13, 11))


def test_good_merge() -> None:
    check_merge(GoodMerge())


def test_leaves_the_part_and_random_numbers_alone() -> None:
    fusion = CrossAttention(13, 11, out_dim=6, heads=2, feedforward_dim=17)
    fusion.pool.eval()
    before = {name: value.clone() for name, value in fusion.state_dict().items()}
    torch.manual_seed(7)
    random.seed(7)
    wanted = torch.rand(3), random.random()
    torch.manual_seed(7)
    random.seed(7)
    check_fusion(fusion)
    assert torch.equal(torch.rand(3), wanted[0])
    assert random.random() == wanted[1]
    assert fusion.training
    assert not fusion.pool.training
    assert all(parameter.grad is None for parameter in fusion.parameters())
    torch.testing.assert_close(dict(fusion.state_dict()), before, rtol=0, atol=0)


def test_works_under_no_grad() -> None:
    with torch.no_grad():
        check_merge(Product(13, 11, out_dim=17))


# ---------------------------------------------------------------------------------- encoders


class ByteScale(ConvNet):
    def forward(self, images: Tensor) -> Features:
        return super().forward(images.float() / 256 if images.dtype == torch.uint8 else images)


class FlippedGrid(ConvNet):
    def forward(self, images: Tensor) -> Features:
        output = super().forward(images)
        return output._replace(boxes=output.boxes.flip(1))  # type: ignore[union-attr]


class CoupledImages(ConvNet):
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens, pooled = super().encode(images)
        return tokens, pooled - pooled.mean(0)


class PoolsFirstToken(ConvNet):
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens, _ = super().encode(images)
        return tokens, tokens[:, 0].detach()


class OnlyInPooled(ConvNet):
    def __init__(self, image_size: int, widths: tuple[int, ...]) -> None:
        super().__init__(image_size, widths)
        self.pooler = nn.Linear(self.dim, self.dim)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens, pooled = super().encode(images)
        return tokens, self.pooler(pooled)


class Single(ConvNet):
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens, pooled = super().encode(images)
        return tokens.float(), pooled.float()


class AnySize(ConvNet):
    def forward(self, images: Tensor) -> Features:
        return super().forward(images[..., :24, :24])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (ByteScale, r"uint8 in \[0, 255\] and float in \[0, 1\] give the same.*differs"),
        (FlippedGrid, "boxes are the cells of `grid`, row by row.*differs"),
        (CoupledImages, "a row alone gives what it gives in a batch"),
        (PoolsFirstToken, "gradient from `pooled` alone"),
        (OnlyInPooled, "gradient from `real tokens` alone.*pooler.weight, pooler.bias"),
        (Single, "number type of the weights.*float32"),
        (AnySize, "wrong input raises ValueError .*too wide"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_broken_image_encoder(broken: type[ConvNet], message: str) -> None:
    with pytest.raises(AssertionError, match=f"(?s){message}"):
        check_image_encoder(broken(24, widths=(5, 7, 11)))


class PaddingCounts(BagOfWords):
    def encode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        tokens, pooled = super().encode(ids, mask)
        return tokens, pooled * ids.shape[1]


class ReadsPadding(BagOfWords):
    def forward(self, ids: Tensor, mask: Tensor) -> Features:
        fused = super().forward(ids, mask)
        return fused._replace(pooled=fused.pooled + ids.sum(1, keepdim=True) * 1e-3)


class EmptyIsNaN(BagOfWords):
    def encode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        tokens, pooled = super().encode(ids, mask)
        return tokens, pooled / mask.any(1, keepdim=True)


class TokensWithoutMLP(BagOfWords):
    def encode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.embedding(ids), super().encode(ids, mask)[1]


class TooLong(BagOfWords):
    def __init__(self, words: list[str], dim: int) -> None:
        super().__init__(words, dim, tokenizer=LongTokenizer(words, max_length=9))


class LongTokenizer(WordTokenizer):
    def __call__(self, questions: list[str]) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        ids, mask = WordTokenizer(self.words, self.max_length + 5)(questions)
        return ids, mask

    def __reduce__(self) -> tuple:
        return LongTokenizer, (self.words, self.max_length)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (PaddingCounts, "padding changes nothing .*2 more padded words"),
        (ReadsPadding, "padding changes nothing .*other ids in the padding"),
        (EmptyIsNaN, "pooled: 13 of 65 values are NaN"),
        (TokensWithoutMLP, "gradient from `real tokens` alone.*mlp.0.weight"),
        (TooLong, "no question has more tokens than `max_length`. There are 14"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_broken_text_encoder(broken: type[BagOfWords], message: str) -> None:
    with pytest.raises(AssertionError, match=f"(?s){message}"):
        check_text_encoder(broken(["what", "colour"], dim=13))


def test_a_frozen_encoder_is_fine() -> None:
    encoder = ConvNet(12, widths=(5, 7)).requires_grad_(False)
    check_image_encoder(encoder)
