"""Several image encoders in one: each is seen unchanged in its part of the tokens."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from vlm.core.part import build
from vlm.image import ConvNet, RegionFeatures, SideBySide
from vlm.model import VQAModel
from vlm.training.finetuning.plan import set_modes


def pair(**arguments: object) -> SideBySide:
    torch.manual_seed(0)
    encoders = [ConvNet(16, (3, 5)), ConvNet(32, (4, 6, 7))]  # both on a grid of 4 x 4
    return SideBySide(encoders, positions="none", **arguments).eval()  # type: ignore[arg-type]


def alone(part: SideBySide, place: int) -> ConvNet:
    encoder = copy.deepcopy(part.encoders[place])
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


def test_padding_reaches_each_encoder_as_zeros() -> None:
    both = pair(fit="pad")
    images = torch.rand(1, 4, 32, 32)
    images[:, 3, :, :16], images[:, 3, :, 16:] = 1, 0
    found = both(images)
    assert found.mask[0].view(4, 4).tolist() == [[True, True, False, False]] * 4
    second = both.encoders[1]
    assert isinstance(second, ConvNet)
    colours = ((images[:, :3] - 0.5) / 0.5) * images[:, 3:]
    expected, _ = second.encode(colours, found.mask)
    torch.testing.assert_close(found.tokens[..., 8:], expected)


def test_a_frozen_encoder_stays_frozen_when_it_is_rebuilt() -> None:
    both = pair(frozen=[True, False])
    again = build(both.config)
    for part in (both, again):
        assert not any(p.requires_grad for p in part.encoders[0].parameters())
        assert all(p.requires_grad for p in part.encoders[1].parameters())
    trained = {p for p in both.parameters() if p.requires_grad}
    set_modes(both.train(), trained)
    assert [encoder.training for encoder in both.encoders] == [False, True]


def test_layers_are_counted_from_the_outputs() -> None:
    both = SideBySide([ConvNet(16, (3, 5)), ConvNet(32, (4, 6, 7))])
    layers = both.layer_names()
    names = [name for layer in layers for name in layer]
    assert sorted(names) == sorted(name for name, _ in both.named_parameters())
    firsts = [{name.split(".")[1] for name in layer if "encoders" in name} for layer in layers]
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


@pytest.mark.parametrize(
    ("arguments", "got"),
    [
        ({"encoders": [ConvNet(16)]}, r"encoders: got 1;"),
        ({"encoders": [ConvNet(16), RegionFeatures(dim=4)]}, r"encoders: got RegionFeatures"),
        ({"encoders": [ConvNet(16), ConvNet(32)], "frozen": [True]}, r"frozen: got 1 values for 2"),
        ({"encoders": [ConvNet(16), ConvNet(32)], "pool": "min"}, r"pool: got 'min'"),
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
