"""`FiLM` equals the paper's formulas, written naively."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vlm.core.features import Features
from vlm.fusion import FiLM
from vlm.fusion.film import TokenBatchNorm

IMAGE_DIM, TEXT_DIM, DIM, BLOCKS = 13, 11, 17, 3
PATCH_COUNTS = (7, 4, 1)


@pytest.fixture
def inputs() -> tuple[Features, Features]:
    rows, patches = len(PATCH_COUNTS), max(PATCH_COUNTS)
    tokens = torch.randn(rows, patches, IMAGE_DIM, dtype=torch.float64)
    corners = torch.rand(rows, patches, 2, 2, dtype=torch.float64).sort(2).values.flatten(2)
    mask = torch.arange(patches) < torch.tensor(PATCH_COUNTS)[:, None]
    words = torch.randn(rows, 5, TEXT_DIM, dtype=torch.float64)
    return (
        Features(tokens, mask, tokens.mean(1), corners),
        Features(words),
    )


def naive(fusion: FiLM, patch: Tensor, question: Tensor, place: list[float]) -> Tensor:
    """Take one patch (I,) and one question (T,) through all blocks: (D,)."""
    where = torch.tensor(place, dtype=torch.float64)
    film = fusion.modulation(question)
    x = fusion.stem(patch).clamp(min=0)
    for number, block in enumerate(fusion.layers):
        delta_gamma = film[2 * number * DIM : (2 * number + 1) * DIM]
        beta = film[(2 * number + 1) * DIM : (2 * number + 2) * DIM]
        h = block.inner(torch.cat((x, where))).clamp(min=0)
        y = block.outer(h)
        y = (y - block.norm.mean) / (block.norm.variance + 1e-5).sqrt()
        x = h + torch.stack(
            [max((1 + g) * c + b, c * 0) for g, c, b in zip(delta_gamma, y, beta, strict=True)]
        )
    return fusion.out(torch.cat((x, where)))


@pytest.mark.parametrize("with_boxes", [True, False])
def test_against_the_formulas(inputs: tuple[Features, Features], with_boxes: bool) -> None:
    image, text = inputs
    if not with_boxes:
        image = image._replace(boxes=None)
    fusion = FiLM(IMAGE_DIM, TEXT_DIM, DIM, BLOCKS).double().eval()
    for block in fusion.layers:
        block.norm.mean.normal_()
        block.norm.variance.uniform_(0.5, 2)
    fused = fusion(image, text)
    for row, count in enumerate(PATCH_COUNTS):
        tokens = []
        for number in range(count):
            place = [0.0, 0.0]
            if image.boxes is not None:
                x0, y0, x1, y1 = image.boxes[row, number].tolist()
                place = [(x0 + x1) / 2 * 2 - 1, (y0 + y1) / 2 * 2 - 1]
            tokens.append(naive(fusion, image.tokens[row, number], text.pooled[row], place))
        wanted = torch.stack(tokens)
        torch.testing.assert_close(fused.tokens[row, :count], wanted, rtol=0, atol=1e-12)
        torch.testing.assert_close(fused.pooled[row], wanted.amax(0), rtol=0, atol=1e-12)
    assert fused.mask.equal(image.mask)


def test_normalisation_is_batch_norm_over_the_real_tokens(
    inputs: tuple[Features, Features],
) -> None:
    tokens, mask = inputs[0].tokens, inputs[0].mask
    ours = TokenBatchNorm(IMAGE_DIM).double()
    theirs = nn.BatchNorm1d(IMAGE_DIM, affine=False, dtype=torch.float64)
    for _ in range(2):
        wanted = theirs(tokens[mask])
        torch.testing.assert_close(ours(tokens, mask)[mask], wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.mean, theirs.running_mean, rtol=0, atol=1e-12)
    # Ours averages the variance it normalises by; torch averages the unbiased one.
    count = mask.sum()
    variance = 0.81 + (theirs.running_var - 0.81) * (count - 1) / count
    torch.testing.assert_close(ours.variance, variance, rtol=0, atol=1e-12)
    before = ours.variance.clone()
    ours(tokens, torch.zeros_like(mask))
    assert torch.equal(ours.variance, before)
    ours.eval()
    wanted = (tokens - ours.mean) / (ours.variance + 1e-5).sqrt()
    torch.testing.assert_close(ours(tokens, mask), wanted, rtol=0, atol=1e-12)
    assert torch.equal(ours.variance, before)


def test_parameters() -> None:
    """2 N (T + 1) D + (I + 1) D + N (2 D + 4) D + (D + 3) D"""
    n, t, i, d = BLOCKS, TEXT_DIM, IMAGE_DIM, DIM
    wanted = 2 * n * (t + 1) * d + (i + 1) * d + n * (2 * d + 4) * d + (d + 3) * d
    fusion = FiLM(i, t, d, n)
    assert sum(parameter.numel() for parameter in fusion.parameters()) == wanted


def test_errors() -> None:
    with pytest.raises(ValueError, match="num_layers: got 0; expected a positive integer"):
        FiLM(13, 11, num_layers=0)
