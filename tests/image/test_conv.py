"""ConvNet, the small network trained from scratch."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vlm.image import ConvNet, grid_boxes


def test_shapes() -> None:
    encoder = ConvNet(48, widths=(5, 7, 11, 13))
    assert (encoder.dim, encoder.grid) == (36, (3, 3))
    assert encoder.transform.size == (48, 48)
    features = encoder(torch.zeros(2, 3, 48, 48))
    assert features.tokens.shape == (2, 9, 36)
    assert features.pooled.shape == (2, 36)


def test_tokens_hold_every_scale_where_it_lies() -> None:
    torch.manual_seed(0)
    encoder = ConvNet(24, widths=(5, 7, 11)).eval()
    images = torch.rand(2, 3, 24, 24)
    tokens = encoder(images).tokens
    x = (images - 0.5) / 0.5
    first = encoder.stages[0](x)
    second = encoder.stages[1](first)
    third = encoder.stages[2](second)
    for row in range(3):
        for column in range(3):
            token = tokens[:, 3 * row + column]
            cells = [
                first[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].amax((2, 3)),
                second[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].amax((2, 3)),
                third[:, :, row, column],
            ]
            torch.testing.assert_close(token, torch.cat(cells, 1) / (1 + 1e-5) ** 0.5)


def test_a_stage_by_hand() -> None:
    """One channel sums the 3 x 3 neighbourhood of an image with one white pixel."""
    encoder = ConvNet(4, widths=(1,)).eval()
    nn.init.ones_(encoder.stages[0][0].weight)
    images = torch.full((1, 3, 4, 4), 0.5)  # zero after normalisation
    images[0, :, 0, 0] = 1  # one after normalisation
    tokens = encoder(images).tokens.flatten()
    # The three channels sum to 3 next to the pixel (rows and columns 0 and 1): the first cell.
    wanted = torch.tensor([3.0, 0, 0, 0]) / (1 + 1e-5)  # normalised twice, by variances of one
    torch.testing.assert_close(tokens, wanted)


def test_in_training_the_tokens_have_no_mean_and_unit_variance() -> None:
    tokens = ConvNet(24, widths=(5, 7, 11), positions="none")(torch.rand(6, 3, 24, 24)).tokens
    variance, mean = torch.var_mean(tokens.flatten(0, 1), 0, correction=0)
    torch.testing.assert_close(mean, torch.zeros(23), atol=1e-5, rtol=0)
    torch.testing.assert_close(variance, torch.ones(23), atol=1e-2, rtol=0)


def test_pooled_is_the_maximum_of_the_tokens() -> None:
    encoder = ConvNet(24, widths=(5, 7, 11))
    features = encoder(torch.rand(2, 3, 24, 24))
    torch.testing.assert_close(features.pooled, features.tokens.amax(1))


def test_normalisation() -> None:
    encoder = ConvNet(12, widths=(5, 7)).eval()
    images = torch.randint(256, (2, 3, 12, 12), dtype=torch.uint8)
    mask = torch.ones(len(images), encoder.grid[0] * encoder.grid[1], dtype=torch.bool)
    tokens, _ = encoder.encode(images / 127.5 - 1, mask)
    torch.testing.assert_close(encoder(images).tokens, tokens)


def test_dropout_only_in_training() -> None:
    encoder = ConvNet(12, widths=(5, 7), dropout=0.5)
    images = torch.rand(2, 3, 12, 12)
    assert (F.relu(encoder(images).tokens) == 0).float().mean() > 0.3
    encoder.eval()
    torch.testing.assert_close(encoder(images).tokens, encoder(images).tokens, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("size", "widths", "message"),
    [
        (20, (5, 7, 11), "image_size: got 20 with 3 stages; expected a multiple of 8"),
        (0, (5,), "image_size: got 0"),
        (64, (), "image_size: got 64 with 0 stages"),
    ],
)
def test_sizes_must_fit(size: int, widths: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConvNet(size, widths)


def test_wrong_images() -> None:
    encoder = ConvNet(12, widths=(5, 7))
    with pytest.raises(ValueError, match=r"got shape \(2, 3, 12, 13\); expected \(B, 3, 12, 12\)"):
        encoder(torch.zeros(2, 3, 12, 13))
    with pytest.raises(ValueError, match=r"dtype torch.int64; expected uint8"):
        encoder(torch.zeros(2, 3, 12, 12, dtype=torch.int64))


def test_grid_boxes() -> None:
    wanted = [[0, 0, 0.5, 1 / 3], [0.5, 0, 1, 1 / 3], [0, 1 / 3, 0.5, 2 / 3]]
    boxes = grid_boxes(rows=3, columns=2)
    assert boxes.shape == (6, 4)
    torch.testing.assert_close(boxes[:3], torch.tensor(wanted))
    torch.testing.assert_close(boxes[-1], torch.tensor([0.5, 2 / 3, 1, 1]))


def test_a_layer_without_channels_is_named() -> None:
    with pytest.raises(ValueError, match=r"widths\[1\]: got 0; expected a positive integer"):
        ConvNet(widths=(8, 0))
