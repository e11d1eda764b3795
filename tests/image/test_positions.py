"""Positions: which encoders get them, what they hold, and that place cannot be read without."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from vlm.core.features import Features
from vlm.image import (
    ConvNet,
    ImageEncoder,
    OpenClipImageEncoder,
    PixelEncoder,
    Positions,
    RegionFeatures,
    StridedConvNet,
    TimmEncoder,
    TorchvisionEncoder,
    grid_boxes,
)

CLIP = {
    "embed_dim": 13,
    "vision_cfg": {"image_size": 64, "width": 8, "head_width": 4, "layers": 2, "patch_size": 16},
    "text_cfg": {"context_length": 11, "vocab_size": 49408, "width": 14, "heads": 2, "layers": 2},
    "preprocess_cfg": {
        "interpolation": "bicubic",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "resize_mode": "shortest",
    },
}
RESNET_CLIP = CLIP | {"vision_cfg": CLIP["vision_cfg"] | {"layers": [1, 1, 1, 1]}}  # type: ignore[operator]
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 14, "depth": 1, "num_heads": 2}
WITHOUT: dict[str, Callable[[], ImageEncoder]] = {
    "ConvNet": lambda: ConvNet(32),
    "StridedConvNet": lambda: StridedConvNet(32),
    "timm ResNet": lambda: TimmEncoder("resnet10t", image_size=64),
    "torchvision SqueezeNet": lambda: TorchvisionEncoder("squeezenet1_1", image_size=64),
    "CLIP's ResNet": lambda: OpenClipImageEncoder(config=RESNET_CLIP),
    "regions": lambda: RegionFeatures(13),
}
WITH: dict[str, Callable[[], ImageEncoder]] = {
    "timm ViT": lambda: TimmEncoder("vit_tiny_patch16_224", model_args=VIT),
    "torchvision Swin": lambda: TorchvisionEncoder("swin_v2_t", image_size=64),
    "CLIP's ViT": lambda: OpenClipImageEncoder(config=CLIP),
}
FAMILIES = {  # of timm, by a small member
    "beit_base_patch16_224": True,
    "coatnet_nano_rw_224": True,
    "convnext_atto": False,
    "cait_xxs24_224": True,
    "deit_tiny_patch16_224": True,
    "densenet121": False,
    "dm_nfnet_f0": False,
    "efficientnet_b0": False,
    "eva02_tiny_patch14_224": True,
    "mixnet_s": False,
    "mobilenetv3_small_050": False,
    "nest_tiny": True,
    "pit_ti_224": True,
    "regnetx_002": False,
    "resmlp_12_224": False,
    "rexnet_100": False,
    "swin_tiny_patch4_window7_224": True,
    "swinv2_cr_tiny_224": False,  # names its own otherwise, so it gets ours too
    "vgg11": False,
    "vit_base_patch16_siglip_224": True,
    "vit_medium_patch16_rope_reg1_gap_256": True,
}


@pytest.mark.parametrize("name", WITHOUT)
def test_encoders_without_positions_get_them(name: str) -> None:
    encoder = WITHOUT[name]()
    assert encoder.positions is not None
    assert encoder.positions.kind == "sine"


@pytest.mark.parametrize("name", WITH)
def test_encoders_with_positions_keep_their_own(name: str) -> None:
    assert WITH[name]().positions is None


@pytest.mark.slow
@pytest.mark.parametrize(("name", "own"), FAMILIES.items())
def test_families_of_timm(name: str, own: bool) -> None:
    import timm

    from vlm.image.positions import has_positions

    assert has_positions(timm.create_model(name)) is own


@pytest.mark.parametrize("kind", ["sine", "coordinates", "learned"])
def test_they_start_as_the_identity(kind: str) -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 32, 32)
    torch.manual_seed(0)
    plain = ConvNet(32, positions="none").eval()
    torch.manual_seed(0)
    placed = ConvNet(32, positions=kind).eval()  # type: ignore[arg-type]
    for ours, without in zip(placed(images), plain(images), strict=True):
        assert ours.equal(without)


def test_by_hand() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 0.5, 1.0], [0.5, 0.25, 1.0, 0.5]]])
    centres = [[-0.5, 0.0, 1.0, 2.0], [0.5, -0.25, 1.0, 0.5]]
    found = Positions(3, "coordinates", "max").codes(boxes)
    torch.testing.assert_close(found, torch.tensor([centres]))
    sines = Positions(3, "sine", "max").codes(boxes)
    angles = [[n * 2**k * math.pi / 2 for n in numbers for k in range(4)] for numbers in centres]
    wanted = [[*map(math.sin, row), *map(math.cos, row)] for row in angles]
    torch.testing.assert_close(sines, torch.tensor([wanted]))


def test_grids_that_are_not_square_and_padding() -> None:
    encoder = TimmEncoder(
        "resnet10t", model_args={"img_size": (64, 128)}, fit="pad", pool="max", stages=[4]
    ).eval()
    positions = encoder.positions
    assert positions is not None
    assert encoder.grid == (2, 4)
    nn.init.normal_(positions.outer.weight)
    images = torch.rand(1, 4, 64, 128)
    images[:, 3] = 1
    images[:, 3, :, 64:] = 0
    looked, placed = encoder.look(images), encoder(images)
    place = positions.codes(grid_boxes(2, 4))
    hidden = positions.inner(torch.cat((looked.tokens[0], place), 1)).relu()
    wanted = looked.tokens[0] + positions.outer(hidden) / 8  # the root of its width, 64
    torch.testing.assert_close(placed.tokens[0], wanted)
    assert placed.mask.equal(looked.mask)
    torch.testing.assert_close(placed.pooled[0], wanted[looked.mask[0]].amax(0))


def test_regions_are_placed_by_their_boxes() -> None:
    encoder = RegionFeatures(5).eval()
    positions = encoder.positions
    assert positions is not None
    nn.init.normal_(positions.outer.weight)
    tokens, boxes = torch.randn(1, 1, 5).expand(2, 3, 5), torch.rand(2, 3, 4)
    made = encoder(Features(tokens, boxes=boxes)).tokens
    assert not made[0, 0].allclose(made[0, 1])  # equal regions at different places
    again = encoder(Features(tokens, boxes=boxes.flip(0))).tokens
    torch.testing.assert_close(again, made.flip(0))


def test_features_that_were_kept_are_placed() -> None:
    encoder = ConvNet(32).eval()
    assert encoder.positions is not None
    nn.init.normal_(encoder.positions.outer.weight)
    images = torch.rand(2, 3, 32, 32)
    for ours, wanted in zip(encoder(encoder.look(images)), encoder(images), strict=True):
        assert ours.equal(wanted)


def object_at(places: torch.Tensor) -> torch.Tensor:
    """Black images with one white cell of a grid of 4 x 4: (B,) -> (B, 3, 32, 32)."""
    images = torch.zeros(len(places), 16)
    images[range(len(places)), places] = 1
    return (
        images.view(-1, 1, 4, 4)
        .repeat_interleave(8, 2)
        .repeat_interleave(8, 3)
        .expand(-1, 3, -1, -1)
    )


@pytest.mark.parametrize("kind", ["sine", "coordinates", "learned"])
def test_left_and_right_can_be_read_off_the_pooled_vector(kind: str) -> None:
    torch.manual_seed(0)
    cell = torch.arange(16).repeat(4)
    images, right = object_at(cell), (cell % 4 >= 2).long()
    encoder = Cells(kind)
    head = nn.Linear(3, 2)
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], 0.01)
    for _ in range(300):
        loss = nn.functional.cross_entropy(head(encoder(images).pooled), right)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert head(encoder(images).pooled).argmax(1).equal(right)


def test_without_positions_it_cannot() -> None:
    encoder = Cells("none")
    pooled = encoder(object_at(torch.arange(16))).pooled
    assert pooled.equal(pooled[:1].expand_as(pooled))


class Cells(PixelEncoder):
    """The colours of a grid's cells, and nothing that a border would tell."""

    def __init__(self, kind: str) -> None:
        from vlm.image.positions import make_positions
        from vlm.image.transform import ImageTransform

        grey = (0.5, 0.5, 0.5)
        super().__init__(3, (4, 4), ImageTransform((32, 32)), grey, grey)
        self.positions = make_positions(kind, 3, "max", (4, 4))  # type: ignore[arg-type]

    def encode(self, images: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = nn.functional.avg_pool2d(images, 8).flatten(2).mT
        return tokens, tokens.amax(1)


def test_errors() -> None:
    with pytest.raises(
        ValueError, match=r"positions: got 'learned', which needs one grid for all images"
    ):
        RegionFeatures(13, positions="learned")
    with pytest.raises(
        ValueError, match=r"positions: got 'sin'; expected one of auto, sine, learn"
    ):
        ConvNet(32, positions="sin")  # type: ignore[arg-type]
