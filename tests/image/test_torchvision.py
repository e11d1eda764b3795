"""TorchvisionEncoder: torchvision's own features, preprocessing and names, and no network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import rest_slow
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from torchvision import models

from vlm.core.part import build
from vlm.image import TorchvisionEncoder


def resnet(model: Any, x: Tensor) -> Tensor:
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    return model.layer4(model.layer3(model.layer2(model.layer1(x))))


def vit(model: Any, x: Tensor) -> Tensor:
    x = model._process_input(x)
    tokens = torch.cat((model.class_token.expand(len(x), -1, -1), x), 1)
    return model.encoder(tokens)[:, 1:].mT.unflatten(2, (2, 2))


# image_size, width, grid, and what the model applies before pooling
MODELS: dict[str, tuple[int, int, tuple[int, int], Callable[[Any, Tensor], Tensor]]] = {
    "resnet18": (96, 512, (3, 3), resnet),
    "densenet121": (64, 1024, (2, 2), lambda m, x: F.relu(m.features(x))),
    "mobilenet_v3_small": (64, 576, (2, 2), lambda m, x: m.features(x)),
    "squeezenet1_1": (64, 512, (3, 3), lambda m, x: m.features(x)),
    "shufflenet_v2_x0_5": (
        64,
        1024,
        (2, 2),
        lambda m, x: m.conv5(m.stage4(m.stage3(m.stage2(m.maxpool(m.conv1(x)))))),
    ),
    "regnet_x_400mf": (64, 400, (2, 2), lambda m, x: m.trunk_output(m.stem(x))),
    "swin_t": (64, 768, (2, 2), lambda m, x: m.permute(m.norm(m.features(x)))),
    "vit_b_32": (64, 768, (2, 2), vit),
}


def random_images(encoder: TorchvisionEncoder) -> Tensor:
    return torch.randint(256, (2, *encoder.transform.shape), dtype=torch.uint8)


@pytest.mark.parametrize("name", rest_slow(MODELS, "resnet18", "vit_b_32"))
def test_tokens_are_those_of_torchvision(name: str) -> None:
    size, dim, grid, own = MODELS[name]
    encoder = TorchvisionEncoder(name, image_size=size).eval()
    sizes = {"image_size": size} if name.startswith("vit") else {}
    reference = models.get_model(name, **sizes).eval()
    left_out = reference.load_state_dict(encoder.model.state_dict(), strict=False)
    assert not left_out.unexpected_keys
    heads = ("fc.", "classifier.", "head.", "heads.")
    assert all(key.startswith(heads) for key in left_out.missing_keys)
    assert left_out.missing_keys
    images = random_images(encoder)
    with torch.no_grad():
        features = encoder(images)
        wanted = own(reference, (images / 255 - encoder.mean) / encoder.std)
    assert (encoder.dim, encoder.grid) == (dim, grid)
    assert_close(features.tokens, wanted.flatten(2).mT)
    assert_close(features.pooled, wanted.mean((2, 3)))


def test_stages_of_a_network_and_of_a_transformer() -> None:
    encoder = TorchvisionEncoder("resnet18", image_size=64, stages=[-1, -3]).eval()
    reference = models.resnet18().eval()
    reference.load_state_dict(encoder.model.state_dict(), strict=False)
    images = random_images(encoder)
    x = (images / 255 - encoder.mean) / encoder.std
    fine = reference.layer2(
        reference.layer1(reference.maxpool(reference.relu(reference.bn1(reference.conv1(x)))))
    )
    coarse = resnet(reference, x)
    wanted = torch.cat((coarse.repeat_interleave(4, 2).repeat_interleave(4, 3), fine), 1)
    assert encoder.grid == (8, 8)
    assert_close(encoder(images).tokens, wanted.flatten(2).mT)
    with pytest.raises(ValueError, match=r"stages: got \[7\]; resnet18.IMAGENET1K_V1 has 5"):
        TorchvisionEncoder("resnet18", image_size=64, stages=[7])


def test_preprocessing_is_that_of_the_weights() -> None:
    encoder = TorchvisionEncoder("resnet50", model_args={"num_classes": 1})
    preset = models.ResNet50_Weights.IMAGENET1K_V2.transforms()
    assert encoder.arguments["name"] == "resnet50.IMAGENET1K_V2"
    # A photo without fine detail, because torchvision rounds its crop to whole pixels.
    y, x = torch.meshgrid(torch.linspace(0, 1, 300), torch.linspace(0, 1, 400), indexing="ij")
    photo = Image.fromarray((torch.stack((x, y, x * y), -1) * 255).byte().numpy())
    ours = (encoder.transform(photo) / 255 - encoder.mean) / encoder.std
    assert_close(ours, preset(photo), rtol=0, atol=0.05)
    older = TorchvisionEncoder("resnet18.IMAGENET1K_V1", image_size=64).transform
    assert (older.size, older.fit, older.crop_share) == ((64, 64), "crop", 224 / 256)
    whole = TorchvisionEncoder("resnet18", image_size=64, fit="squash").transform
    assert (whole.fit, whole.crop_share) == ("squash", 1.0)


def test_weights_of_a_file_and_rebuilt_offline(tmp_path) -> None:
    reference = models.mnasnet0_5(num_classes=7)
    for parameter in reference.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    save_file(reference.state_dict(), tmp_path / "a.safetensors")
    encoder = TorchvisionEncoder("mnasnet0_5", str(tmp_path), image_size=64).eval()
    loaded = encoder.model.get_parameter("layers.0.weight")
    assert_close(loaded, reference.layers[0].weight, rtol=0, atol=0)
    (tmp_path / "a.safetensors").unlink()
    again = build(encoder.config).eval()
    assert again.config == encoder.config
    again.load_state_dict(encoder.state_dict(), strict=True)
    images = random_images(encoder)
    assert_close(again(images), encoder(images), rtol=0, atol=0)
    torch.save({"layers.0.weight": torch.zeros(3)}, tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"(?s)its weights do not fit.*missing here: layers"):
        TorchvisionEncoder("mnasnet0_5", str(tmp_path), image_size=64)


def test_training_drops_and_evaluation_does_not() -> None:
    """Dropout is active only in training, in the traced model and in a rebuilt one."""
    encoder = TorchvisionEncoder("swin_t", image_size=64)
    images = random_images(encoder)
    for model in (encoder, build(encoder.config)):
        assert not torch.equal(model.train()(images).pooled, model(images).pooled)
        assert torch.equal(model.eval()(images).pooled, model(images).pooled)


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"name: got 'resnet_50'.*Did you mean resnet50"):
        TorchvisionEncoder("resnet_50")
    with pytest.raises(ValueError, match=r"'resnet50.V3'; this torchvision has IMAGENET1K_V1 and"):
        TorchvisionEncoder("resnet50.V3")


def test_offline_fails_at_once_and_clearly(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = rf"(?s)mnasnet0_5.IMAGENET1K_V1: .*looked for {tmp_path}/hub/.*pretrained=False"
    with pytest.raises(OSError, match=message):
        TorchvisionEncoder("mnasnet0_5", pretrained=True)


def test_a_copy_is_in_the_same_mode() -> None:
    encoder = TorchvisionEncoder("resnet18", image_size=32).eval()
    images = random_images(encoder)
    copied = copy.deepcopy(encoder)
    assert not any(part.training for part in copied.modules())
    assert_close(copied(images).tokens, encoder(images).tokens, rtol=0, atol=0)
    assert_close(copied.state_dict(), encoder.state_dict(), rtol=0, atol=0)
    assert all(part.training for part in copy.deepcopy(encoder.train()).modules())


@pytest.mark.parametrize("size", [0, -32])
def test_a_size_that_is_none(size: int) -> None:
    with pytest.raises(ValueError, match=f"image_size: got {size}; expected a positive"):
        TorchvisionEncoder("resnet18", image_size=size)
