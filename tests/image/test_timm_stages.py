"""Several intermediate outputs of a timm model, side by side."""

import pytest
import timm
import torch
from timm_models import MODELS, SMALL_VIT, random_images
from torch.nn import functional as F
from torch.testing import assert_close

from vlm.image import TimmEncoder


@pytest.mark.parametrize("key", ["vit", "resnet", "swin", "convnext"])
def test_stages_are_those_of_timm(key: str) -> None:
    name, image_size, model_args, _, grid, *_ = MODELS[key]
    stages = [-2, -1]
    encoder = TimmEncoder(name, image_size=image_size, model_args=model_args, stages=stages).eval()
    arguments = dict(model_args or {})
    if image_size and name.startswith("swin"):
        arguments["img_size"] = image_size
    reference = timm.create_model(name, num_classes=0, **arguments).eval()
    reference.load_state_dict(encoder.model.state_dict(), strict=False)
    images = random_images(encoder)
    x = (images / 255 - encoder.mean) / encoder.std
    # `norm` makes the last stage equal to the output of forward_features.
    fine, coarse = reference.forward_intermediates(x, indices=2, norm=True, intermediates_only=True)
    ratio = fine.shape[-1] // coarse.shape[-1]
    fine = F.avg_pool2d(fine, ratio)
    features = encoder(images)
    assert encoder.grid == grid
    wanted = torch.cat((fine, coarse), 1)
    assert_close(features.tokens, wanted.flatten(2).mT)
    for row, column in ((0, 1), (2, 0)):
        token = features.tokens[:, row * grid[1] + column]
        assert_close(token, wanted[:, :, row, column])
    assert_close(features.pooled, wanted.mean((2, 3)))
    assert encoder.dim == wanted.shape[1]


def test_the_last_stage_named_gives_the_grid() -> None:
    coarse = TimmEncoder("resnet10t", image_size=64, stages=[2, 3])
    fine = TimmEncoder("resnet10t", image_size=64, stages=[3, 2])
    assert (coarse.grid, fine.grid) == ((4, 4), (8, 8))
    fine.load_state_dict(coarse.state_dict())
    images = random_images(coarse)
    tokens = fine.eval()(images).tokens.unflatten(1, (4, 2, 4, 2))
    # A coarse cell repeats in its four fine cells, so the mean is that of the coarse grid.
    assert_close(tokens[..., :256], tokens[:, :, :1, :, :1, :256].expand(-1, -1, 2, -1, 2, -1))
    wanted = coarse.eval()(images).tokens.unflatten(1, (4, 4))
    assert_close(tokens.mean((2, 4)).roll(128, -1), wanted)


def test_layers_behind_the_last_stage_are_left_out() -> None:
    encoder = TimmEncoder("vit_tiny_patch16_224", model_args=SMALL_VIT, stages=[0])
    whole = TimmEncoder("vit_tiny_patch16_224", model_args=SMALL_VIT)
    names = {name for name, _ in encoder.named_parameters()}
    assert not [name for name in names if "blocks.1" in name]
    assert [name for name, _ in whole.named_parameters() if "blocks.1" in name]


def test_stages_that_are_not_there(monkeypatch) -> None:
    for stages in ([2], [-3], []):
        with pytest.raises(
            ValueError, match=r"stages: got .*has 2, so expected one or more of 0 - 1"
        ):
            TimmEncoder("vit_tiny_patch16_224", model_args=SMALL_VIT, stages=stages)
    monkeypatch.delattr(timm.models.vision_transformer.VisionTransformer, "forward_intermediates")
    with pytest.raises(ValueError, match="vit_tiny_patch16_224 has no forward_intermediates"):
        TimmEncoder("vit_tiny_patch16_224", model_args=SMALL_VIT, stages=[-1])
