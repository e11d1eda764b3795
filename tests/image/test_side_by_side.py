"""Several image encoders in one: each is seen unchanged in its part of the tokens."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from vlm.core.features import Several
from vlm.image import ConvNet, RegionFeatures, SideBySide, grid_boxes
from vlm.model import VQAModel


def pair(**arguments: object) -> SideBySide:
    torch.manual_seed(0)
    encoders = [ConvNet(16, (3, 5)), ConvNet(32, (4, 6, 7))]  # both on a grid of 4 x 4
    return SideBySide(encoders, positions="none", **arguments).eval()  # type: ignore[arg-type]


def alone(part: SideBySide, place: int) -> ConvNet:
    encoder = copy.deepcopy(part.arguments["encoders"][place])
    assert isinstance(encoder, ConvNet)
    return encoder


def test_each_encoder_gives_its_own_tokens() -> None:
    both, images = pair(), torch.rand(2, 3, 32, 32)
    half = F.interpolate(images, (16, 16), mode="bilinear", antialias=True)
    tokens = both(images).tokens
    torch.testing.assert_close(tokens[..., :8], alone(both, 0)(half).tokens)
    torch.testing.assert_close(tokens[..., 8:], alone(both, 1)(images).tokens)
    torch.testing.assert_close(both(images).pooled, tokens.mean(1))


def test_a_coarser_grid_is_repeated() -> None:
    coarse, fine = ConvNet(16, (3, 5, 2)), ConvNet(16, (4, 6))  # 2 x 2 and 4 x 4
    both = SideBySide([coarse, fine], positions="none").eval()
    images = torch.rand(1, 3, 16, 16)
    found = both(images).tokens[0, :, :10].view(4, 4, 10)
    expected = alone(both, 0)(images).tokens[0].view(2, 2, 10)
    torch.testing.assert_close(found, expected.repeat_interleave(2, 0).repeat_interleave(2, 1))


def test_a_cell_has_the_coarse_token_that_its_middle_lies_in() -> None:
    coarse, fine = ConvNet(16, (3, 5, 2)), ConvNet(12, (4, 6))  # 2 x 2 and 3 x 3
    both = SideBySide([coarse, fine], positions="none").eval()
    images = torch.rand(1, 3, 16, 16)
    found = both(images).tokens[0, :, :10].view(3, 3, 10)
    expected = alone(both, 0)(images).tokens[0].view(2, 2, 10)
    torch.testing.assert_close(found, expected[[0, 1, 1]][:, [0, 1, 1]])


def test_padding_reaches_each_encoder_as_zeros() -> None:
    both = pair(fit="pad")
    images = torch.rand(1, 4, 32, 32)
    images[:, 3, :, :16], images[:, 3, :, 16:] = 1, 0
    found = both(images)
    assert found.mask[0].view(4, 4).tolist() == [[True, True, False, False]] * 4
    second = both.arguments["encoders"][1]
    assert isinstance(second, ConvNet)
    colours = ((images[:, :3] - 0.5) / 0.5) * images[:, 3:]
    expected, _ = second.encode(colours, found.mask)
    torch.testing.assert_close(found.tokens[..., 8:], expected)


def test_layers_are_counted_from_the_outputs() -> None:
    both = SideBySide([ConvNet(16, (3, 5)), ConvNet(32, (4, 6, 7))])
    layers = both.layer_names()
    names = [name for layer in layers for name in layer]
    assert sorted(names) == sorted(name for name, _ in both.named_parameters())
    firsts = [{name.split(".")[1] for name in layer if "views" in name} for layer in layers]
    assert firsts[0] == {"1"}
    assert firsts[-1] == {"0", "1"}


def test_a_model_with_two_encoders_comes_back_from_its_configuration() -> None:
    from vlm.fusion import CrossAttention
    from vlm.heads import Classification
    from vlm.text import BagOfWords

    image, text = pair(), BagOfWords(["what", "is"], dim=6)
    fusion = CrossAttention(image.dim, text.dim, 8, num_heads=2)
    model = VQAModel(image, text, fusion, Classification(fusion.out_dim, ["yes", "no"])).eval()
    again = VQAModel.from_config(model.config).eval()
    again.load_state_dict(model.state_dict())
    images = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(again.image_encoder(images).tokens, image(images).tokens)


def along_tokens(**arguments: object) -> SideBySide:
    torch.manual_seed(0)
    encoders = [ConvNet(16, (3, 5)), ConvNet(32, (4, 6))]  # 4 x 4 and 8 x 8
    given = {"positions": "none", "along": "tokens", "dim": 9} | arguments
    return SideBySide(encoders, **given).eval()  # type: ignore[arg-type]


def test_along_tokens_each_encoder_keeps_its_own_grid() -> None:
    both, images = along_tokens(), torch.rand(2, 3, 32, 32)
    assert both.marks is not None
    found = both(images)
    second = alone(both, 1)(images).tokens @ both.projections[1].weight.T + both.marks[1]
    torch.testing.assert_close(found.tokens[:, 16:], second)
    boxes = torch.cat((grid_boxes(4, 4), grid_boxes(8, 8)))
    torch.testing.assert_close(found.boxes, boxes.expand(2, -1, -1))
    shares = [found.tokens[:, :16].mean(1), found.tokens[:, 16:].mean(1)]
    torch.testing.assert_close(found.pooled, (shares[0] + shares[1]) / 2)


def test_along_tokens_the_share_of_an_encoder_stays_behind_positions() -> None:
    both, images = along_tokens(positions="sine"), torch.rand(2, 3, 32, 32)
    assert both.positions is not None
    nn.init.normal_(both.positions.outer.weight)
    found = both(images)
    shares = [found.tokens[:, :16].mean(1), found.tokens[:, 16:].mean(1)]
    torch.testing.assert_close(found.pooled, (shares[0] + shares[1]) / 2)


def test_along_tokens_each_encoder_masks_its_own_cells() -> None:
    both, images = along_tokens(fit="pad"), torch.rand(1, 4, 32, 32)
    images[:, 3, :, :12], images[:, 3, :, 12:] = 1, 0
    mask = both(images).mask[0]
    assert mask[:16].view(4, 4).tolist() == [[True, True, False, False]] * 4
    assert mask[16:].view(8, 8).tolist() == [[True] * 3 + [False] * 5] * 8


@pytest.mark.parametrize("along", ["channels", "tokens"])
def test_features_of_one_encoder_may_be_known(along: str) -> None:
    both = along_tokens(along=along, dim=None)
    images = torch.rand(2, 3, 32, 32)
    first, second = (view.look(images) for view in both.parts().values())
    expected = both(images)
    for known in ((first, None), (None, second), (first, second)):
        seen = None if None not in known else images
        for found, wanted in zip(both(Several(seen, known)), expected, strict=True):
            torch.testing.assert_close(found, wanted)


def test_features_that_fit_no_encoder_are_refused() -> None:
    both, images = along_tokens(), torch.rand(2, 3, 32, 32)
    first = both.parts()["views.0"].look(images)
    with pytest.raises(ValueError, match=r"features of 1 encoders; expected one entry .* of 2"):
        both(Several(images, (first,)))
    with pytest.raises(ValueError, match=r"features of shape \(2, 16, 8\); expected \(B, 64, 10\)"):
        both(Several(images, (None, first)))
    with pytest.raises(ValueError, match="neither images nor features"):
        both(Several(None, (first, None)))


def test_along_tokens_what_has_no_weights_is_trained_in_a_frozen_part() -> None:
    both = along_tokens(positions="sine").requires_grad_(False)
    both.train_new()
    trained = {n.partition(".")[0] for n, p in both.named_parameters() if p.requires_grad}
    assert trained == {"positions", "projections", "marks"}


@pytest.mark.parametrize(
    ("arguments", "got"),
    [
        ({"encoders": [ConvNet(16)]}, r"encoders: got 1;"),
        ({"encoders": [ConvNet(16), RegionFeatures(dim=4)]}, r"encoders: got RegionFeatures"),
        (
            {"encoders": [pair(), ConvNet(32)]},
            r"encoders: got SideBySide, which has encoders inside",
        ),
        ({"encoders": [ConvNet(16), ConvNet(32)], "pool": "min"}, r"pool: got 'min'"),
        ({"encoders": [ConvNet(16), ConvNet(32)], "along": "time"}, r"along: got 'time'"),
        ({"encoders": [ConvNet(16), ConvNet(32)], "dim": 8}, r"dim: got 8 along channels"),
        ({"encoders": [ConvNet(16)] * 2, "along": "tokens", "dim": 0}, r"dim: got 0"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], got: str) -> None:
    with pytest.raises(ValueError, match=got):
        SideBySide(**arguments)  # type: ignore[arg-type]


def test_inputs_of_other_aspects_are_refused() -> None:
    from vlm.image import TimmEncoder

    sizes = {"img_size": (15, 25), "patch_size": 5, "embed_dim": 14, "depth": 1, "num_heads": 2}
    wide = TimmEncoder("vit_tiny_patch16_224", model_args=sizes)
    with pytest.raises(ValueError, match=r"15 x 25 pixels; expected one aspect"):
        SideBySide([ConvNet(16), wide])


def test_half_precision_reads_inputs_of_two_sizes() -> None:
    encoder = SideBySide([ConvNet(16, (5, 7)), ConvNet(32, (5, 7))]).eval()
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    expected = encoder(images).tokens
    assert_close(encoder.bfloat16()(images).tokens.float(), expected, rtol=0.1, atol=0.1)
