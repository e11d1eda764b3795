"""Images of any aspect: the grid an image gets, its boxes, and what a tile and a thumbnail show."""

from __future__ import annotations

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from vlm.image import ConvNet, NaFlexEncoder, PixelEncoder, RegionFeatures, SideBySide, Tiles
from vlm.image.naflex import BudgetTransform
from vlm.image.tiles import _shrunk
from vlm.image.transform import ImageTransform

SMALL = {"patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2}


class Means(PixelEncoder):
    """The mean colour of each quarter of what it sees."""

    def __init__(self) -> None:
        super().__init__(3, (2, 2), ImageTransform((8, 8)), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def encode(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        tokens = torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(2).mT
        return tokens, tokens.mean(1)


def ramp(width: int, height: int) -> Image.Image:
    """Red grows from left to right, green from the top down: as a pixel's place in [0, 1]."""
    x, y = (torch.arange(n, dtype=torch.float) / (n - 1) * 255 for n in (width, height))
    pixels = torch.stack(
        (x.expand(height, -1), y[:, None].expand(-1, width), 0 * y[:, None] + 0 * x)
    )
    return Image.fromarray(pixels.permute(1, 2, 0).to(torch.uint8).numpy())


def tiles(**arguments: object) -> Tiles:
    return Tiles(Means(), positions="none", **arguments).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((8, 8), (1, 1)),  # no larger than a tile
        ((16, 16), (2, 2)),
        ((800, 800), (2, 2)),
        ((640, 480), (2, 2)),
        ((800, 400), (1, 2)),
        ((900, 300), (1, 3)),
        ((300, 900), (3, 1)),
        ((9000, 30), (1, 3)),
    ],
)
def test_the_grid_of_tiles_that_fits_best(size: tuple[int, int], grid: tuple[int, int]) -> None:
    assert tiles().transform.tiles(size) == grid


@pytest.mark.parametrize("most", [3, 10, 12])
def test_there_are_as_many_tokens_as_announced(most: int) -> None:
    """A canvas of 3 x 3 has no room for ten tiles."""
    encoder = tiles(tiles=most)
    pixels = encoder.transform.open(ramp(64, 64))
    assert encoder(pixels[None]).tokens.shape[1] == encoder.length == 4 * (1 + min(most, 9))


@pytest.mark.parametrize("size", [(64, 64), (96, 32), (32, 96), (64, 48), (7, 5)])
def test_each_token_sees_what_its_box_says(size: tuple[int, int]) -> None:
    """Thumbnail and tiles alike: the mean colour of a ramp is the middle of the box."""
    encoder = tiles()
    found = encoder(encoder.transform(ramp(*size))[None])
    assert found.boxes is not None
    boxes, tokens = found.boxes[found.mask], found.tokens[found.mask]
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    if min(encoder.transform.fitted(size)) % 8 == 0:  # cells that a border cuts are darker
        torch.testing.assert_close(tokens[:, :2], middle, atol=0.04, rtol=0)
    torch.testing.assert_close(tokens[:4, :2], middle[:4], atol=0.08, rtol=0)
    quarters = [
        [0, 0, 0.5, 0.5],
        [0.5, 0, 1, 0.5],
        [0, 0.5, 0.5, 1],
        [0.5, 0.5, 1, 1],
    ]
    assert boxes[:4].tolist() == quarters


def test_a_mirrored_image_has_mirrored_tiles() -> None:
    encoder = tiles()
    images = encoder.transform(ramp(64, 48))[None]
    found, mirrored = encoder(images), encoder(images.flip(-1))
    assert found.boxes is not None
    assert mirrored.boxes is not None
    x0, y0, x1, y1 = found.boxes[found.mask].unbind(1)
    expected = torch.stack((1 - x1, y0, 1 - x0, y1), 1)
    rows = [sorted(boxes.tolist()) for boxes in (expected, mirrored.boxes[mirrored.mask])]
    torch.testing.assert_close(torch.tensor(rows[0]), torch.tensor(rows[1]))


def test_an_image_no_larger_than_a_tile_has_its_thumbnail_alone() -> None:
    encoder = tiles()
    found = encoder(encoder.transform(ramp(8, 8))[None])
    assert found.mask.sum() == 4
    torch.testing.assert_close(found.pooled, found.tokens[:, :4].mean(1))


def test_tiles_of_nothing_are_not_encoded() -> None:
    class Counting(Means):
        seen = 0

        def encode(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
            self.seen += len(images)
            return super().encode(images, mask)

    inner = Counting()
    encoder = Tiles(inner, positions="none")
    images = [encoder.transform(ramp(*size)) for size in ((8, 8), (96, 32), (64, 64))]
    encoder(encoder.transform.stack(images))
    assert inner.seen == 1 + 4 + 5


@pytest.mark.parametrize("budget", [1, 7, 64, 256])
@pytest.mark.parametrize("size", [(1, 1), (640, 480), (480, 640), (3000, 1), (1, 3000), (91, 400)])
def test_a_budget_is_kept_and_well_used(size: tuple[int, int], budget: int) -> None:
    transform = BudgetTransform.make(4, budget, "bicubic", None)
    width, height = (side // 4 for side in transform.fitted(size))
    assert 1 <= width * height <= budget
    assert max(width, height) * 4 <= transform.size[0]
    if budget >= 64 and max(size) <= 2 * min(size):
        assert width * height > 0.85 * budget
        assert width / height == pytest.approx(size[0] / size[1], rel=0.15)


@pytest.mark.parametrize("size", [(64, 64), (64, 32), (20, 90)])
def test_the_tokens_are_those_of_the_image_alone(size: tuple[int, int]) -> None:
    """timm gives the same for the image cut out of the canvas, with no budget and no mask."""
    torch.manual_seed(0)
    encoder = NaFlexEncoder(tokens=16, model_args=SMALL).eval()
    reference = timm.create_model("naflexvit_base_patch16_gap", num_classes=0, **SMALL).eval()
    reference.load_state_dict(encoder.model.state_dict(), strict=False)
    # Of an image alone timm resizes the positions in another way, with antialiasing.
    for model in (encoder.model, reference):
        nn.init.zeros_(model.embeds.pos_embed)
    width, height = encoder.transform.fitted(size)
    images = encoder.transform(ramp(*size))[None]
    pixels, _ = encoder.normalised(images)
    expected = reference.forward_features(pixels[:, :, :height, :width])
    found = encoder(images)
    torch.testing.assert_close(found.tokens[found.mask], expected[0, reference.num_prefix_tokens :])


def test_positions_are_those_of_the_image_s_own_grid() -> None:
    """Where the grid is the trained one, each patch gets its own trained position."""
    grid = {"pos_embed_grid_size": (2, 8)}
    encoder = NaFlexEncoder(tokens=16, model_args=SMALL | grid).eval()
    images = encoder.transform(ramp(64, 16))[None]
    pixels, _ = encoder.normalised(images)
    expected = encoder.model.forward_features(pixels[:, :, :8, :32])
    found = encoder(images)
    assert found.mask.all()
    torch.testing.assert_close(
        found.tokens, expected[:, encoder.model.num_prefix_tokens :], atol=1e-4, rtol=1e-4
    )


def test_boxes_are_in_the_image() -> None:
    encoder = NaFlexEncoder(tokens=32, model_args=SMALL).eval()
    images = [encoder.transform(ramp(*size)) for size in ((64, 32), (32, 64))]
    found = encoder(encoder.transform.stack(images))
    assert found.boxes is not None
    assert found.mask.all()
    assert found.boxes[0, 1].tolist() == [1 / 8, 0, 2 / 8, 1 / 4]  # 4 rows of 8
    assert found.boxes[1, 1].tolist() == [1 / 4, 0, 2 / 4, 1 / 8]  # 8 rows of 4
    assert found.boxes[:, -1, 2:].tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (lambda: NaFlexEncoder(tokens=0, model_args=SMALL), "tokens: got 0"),
        (lambda: NaFlexEncoder(tokens=-3, model_args=SMALL), "tokens: got -3"),
        (lambda: NaFlexEncoder("vit_tiny_patch16_224"), "name: got 'vit_tiny_patch16_224'"),
        (lambda: NaFlexEncoder("naflexvit_tiny"), "name: got 'naflexvit_tiny'"),
        (lambda: Tiles(ConvNet(16), tiles=0), "tiles: got 0"),
        (lambda: Tiles(RegionFeatures(4)), "encoder: got RegionFeatures"),  # type: ignore[arg-type]
        (lambda: Tiles(Tiles(ConvNet(16))), "encoder: got Tiles"),
        (
            lambda: Tiles(SideBySide([ConvNet(16)] * 2)),
            "encoder: got SideBySide, which has encoders",
        ),
        (lambda: SideBySide([ConvNet(16), Tiles(ConvNet(16))]), "encoders: got Tiles, whose input"),
    ],
)
def test_bad_arguments(make: object, got: str) -> None:
    with pytest.raises(ValueError, match=got):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_thumbnail_in_half_precision_is_the_same(dtype: torch.dtype) -> None:
    ramp = torch.linspace(0, 1, 672).expand(1, 3, 672, 672)
    place = torch.tensor([[0, 0, 672, 672]])
    expected = _shrunk(ramp, place, (224, 224))
    found = _shrunk(ramp.to(dtype), place, (224, 224)).float()
    torch.testing.assert_close(found, expected, rtol=0, atol=0.01)


def test_learned_positions_need_one_grid() -> None:
    with pytest.raises(ValueError, match="needs one grid for all images"):
        Tiles(ConvNet(8, (5, 7)), positions="learned")
