"""TimmEncoder: timm's own numbers, the image encoder contract, and no network."""

import pytest
import timm
import torch
from own_time import own_time
from PIL import Image
from safetensors.torch import save_file
from timm_models import MODELS, SMALL_VIT, make, random_images
from torch.testing import assert_close

from vlm.core.part import build
from vlm.image import TimmEncoder
from vlm.pretrained.availability import hub_access


@pytest.mark.parametrize("key", MODELS)
def test_tokens_are_those_of_timm(key: str) -> None:
    name, image_size, model_args, dim, grid, prefix, layout = MODELS[key]
    encoder = make(key)
    arguments = dict(model_args or {})
    if image_size and name.startswith(("vit", "swin")):
        arguments["img_size"] = image_size
    reference = timm.create_model(name, num_classes=0, **arguments).eval()
    missing, unexpected = reference.load_state_dict(encoder.model.state_dict(), strict=False)
    assert not unexpected
    images = random_images(encoder)
    x = (images / 255 - encoder.mean) / encoder.std
    output = reference.forward_features(x)
    # Ours may lack only what the reference applies after its tokens.
    for parameter in missing:
        reference.get_parameter(parameter).data.fill_(float("nan"))
    assert_close(reference.forward_features(x), output)
    features = encoder.look(images)
    rows, columns = grid
    assert (encoder.dim, encoder.grid) == (dim, grid)
    assert features.tokens.shape == (3, rows * columns, dim)
    for row in range(rows):
        for column in range(columns):
            want = {
                "NLC": lambda i: output[:, prefix + i],
                "NCHW": lambda i: output[:, :, i // columns, i % columns],
                "NHWC": lambda i: output[:, i // columns, i % columns],
            }[layout](row * columns + column)
            assert_close(features.tokens[:, row * columns + column], want)
    assert_close(features.pooled, features.tokens.mean(1))
    assert features.mask.all()
    assert features.boxes is not None
    assert features.boxes.shape == (3, rows * columns, 4)


@pytest.mark.parametrize("key", MODELS)
@pytest.mark.parametrize("result", ["tokens", "pooled"])
def test_every_parameter_gets_a_gradient(key: str, result: str) -> None:
    encoder = make(key)
    value = getattr(encoder(random_images(encoder)), result)
    # A plain sum would be constant after a normalisation.
    (value * torch.randn_like(value)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.requires_grad, name
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("key", MODELS)
def test_order_and_size_of_the_batch_change_nothing(key: str) -> None:
    encoder = make(key).double()
    images = random_images(encoder)
    whole, turned = encoder(images), encoder(images.flip(0))
    assert not torch.allclose(whole.pooled[0], whole.pooled[1], atol=1e-4)
    assert_close(turned.tokens.flip(0), whole.tokens, rtol=1e-5, atol=1e-5)
    for i in range(len(images)):
        single = encoder(images[i : i + 1])
        assert_close(single.tokens[0], whole.tokens[i], rtol=1e-5, atol=1e-5)
        assert_close(single.pooled[0], whole.pooled[i], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("key", MODELS)
def test_rebuilt_from_its_config(key: str) -> None:
    encoder = make(key)
    again = build(encoder.config).eval()
    images = random_images(encoder)
    assert not torch.allclose(again(images).pooled, encoder(images).pooled, atol=1e-4)
    again.load_state_dict(encoder.state_dict(), strict=True)
    assert_close(again(images).tokens, encoder(images).tokens, rtol=0, atol=0)
    assert again.config == encoder.config
    assert again.transform == encoder.transform


def test_preprocessing_is_the_models_own() -> None:
    encoder = TimmEncoder("resnet18", model_args={"channels": (5, 7, 11, 13)})
    data = timm.data.resolve_model_data_config(encoder.model)
    transform = encoder.transform
    assert transform.size == data["input_size"][1:] == (224, 224)
    assert (transform.interpolation, transform.fit) == (data["interpolation"], "crop")
    assert transform.crop_share == data["crop_pct"] == 0.95
    assert_close(encoder.mean.flatten(), torch.tensor(data["mean"]))
    assert_close(encoder.std.flatten(), torch.tensor(data["std"]))
    whole = TimmEncoder("vit_tiny_patch16_224", model_args=SMALL_VIT, fit="squash").transform
    assert (whole.size, whole.fit, whole.crop_share) == ((56, 56), "squash", 1.0)


def test_an_oblong_input_has_an_oblong_grid() -> None:
    encoder = TimmEncoder("vit_tiny_patch16_224", model_args=SMALL_VIT | {"img_size": [24, 40]})
    assert encoder.transform.size == (24, 40)
    assert encoder.grid == (3, 5)


def test_the_config_names_the_recipe_and_never_downloads(monkeypatch, tmp_path) -> None:
    weights = TimmEncoder("vit_tiny_patch16_224", model_args=SMALL_VIT)
    path = tmp_path / "weights.pth"
    torch.save(weights.model.state_dict(), path)
    tuned = TimmEncoder(
        "vit_tiny_patch16_224", model_args=SMALL_VIT | {"checkpoint_path": str(path)}
    )
    assert_close(tuned.model.pos_embed, weights.model.pos_embed, rtol=0, atol=0)
    assert tuned.arguments == {
        "name": "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
        "pretrained": False,
        "image_size": None,
        "model_args": SMALL_VIT,
        "fit": None,
        "pool": "mean",
        "stages": None,
        "white_level": None,
        "positions": "auto",
    }

    # Pretrained weights from a file, so that timm downloads nothing.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # Without `custom_load=False`, timm before 1.0.31 expects the recipe's own file format.
    file = {"file": str(path), "custom_load": False}
    overlay = {"pretrained": True, "model_args": {"pretrained_cfg_overlay": file}}
    for source in (overlay, {"pretrained": str(path)}, {"pretrained": str(tmp_path)}):
        sizes = SMALL_VIT | source.get("model_args", {})
        pretrained = TimmEncoder("vit_tiny_patch16_224", **source | {"model_args": sizes})
        assert_close(pretrained.model.pos_embed, weights.model.pos_embed, rtol=0, atol=0)
        assert pretrained.arguments == tuned.arguments
    path.unlink()
    rebuilt = build(pretrained.config)
    rebuilt.load_state_dict(pretrained.state_dict(), strict=True)


def test_weights_of_another_size_and_with_a_classifier(tmp_path) -> None:
    classifier = timm.create_model("vit_tiny_patch16_224", num_classes=13, **SMALL_VIT)
    save_file(classifier.state_dict(), tmp_path / "weights.safetensors")
    larger = SMALL_VIT | {"img_size": 72}
    encoder = TimmEncoder("vit_tiny_patch16_224", str(tmp_path), model_args=larger)
    assert_close(encoder.model.blocks[1].mlp.fc1.weight, classifier.blocks[1].mlp.fc1.weight)
    assert encoder.model.pos_embed.shape == (1, 82, 33)  # timm's own interpolation


def test_weights_that_do_not_fit_are_told_apart(tmp_path) -> None:
    path = tmp_path / "weights.pth"
    state = timm.create_model("vit_tiny_patch16_224", num_classes=0, **SMALL_VIT).state_dict()
    torch.save(state | {"norm.weight": torch.zeros(7), "surplus": torch.zeros(1)}, path)
    message = r"(?s)weights.pth: .*not in the model: surplus.*norm.weight: \(7,\) here, \(33,\) in"
    with pytest.raises(ValueError, match=message):
        TimmEncoder("vit_tiny_patch16_224", str(path), model_args=SMALL_VIT)
    with pytest.raises(ValueError, match=r"(?s)missing here: conv1.0.weight.*and \d+ more"):
        TimmEncoder("resnet10t", str(path))


def test_borders_are_masked_and_the_photo_lies_in_the_boxes() -> None:
    encoder = TimmEncoder("vit_tiny_patch16_224", model_args=SMALL_VIT, fit="pad").eval()
    photo = Image.new("RGB", (30, 10), (255, 0, 0))
    images = encoder.transform.stack([encoder.transform.open(photo)])
    assert images.shape == (1, 4, 56, 56)
    features = encoder(images)
    # The image covers 56 x 19 pixels from row 18: rows 2 to 4 of the seven rows of 8 x 8 cells.
    assert features.mask.view(7, 7).int()[:, 0].tolist() == [0, 0, 1, 1, 1, 0, 0]
    assert_close(features.pooled[0], features.tokens[0, 14:35].mean(0))
    # The borders count as the mean colour, whatever they contain.
    normalised = torch.zeros(1, 3, 56, 56)
    red = (torch.tensor([1.0, 0, 0]).view(3, 1, 1) - encoder.mean) / encoder.std
    normalised[:, :, 18:37] = red
    wanted = encoder.model.forward_features(normalised)[:, 1:]
    assert_close(features.tokens, wanted)


def test_a_photo_as_narrow_as_a_line_still_has_cells() -> None:
    encoder = TimmEncoder("vit_tiny_patch16_224", model_args=SMALL_VIT, fit="pad").eval()
    for size in ((1, 1), (5000, 1), (1, 5000)):
        features = encoder(encoder.transform.open(Image.new("RGB", size))[None])
        assert features.mask.any()
        assert features.pooled.isfinite().all()


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"name: got 'resnet_18'.*Did you mean .*resnet18"):
        TimmEncoder("resnet_18")
    with pytest.raises(
        ValueError, match=r"got 'hf-hub:someone/model'; expected one of timm\.list_m"
    ):
        TimmEncoder("hf-hub:someone/model")
    with pytest.raises(ValueError, match=r"resnet18\.nonsense.*resnet18\.a1_in1k"):
        TimmEncoder("resnet18.nonsense")


def test_wrong_sizes_and_models_without_a_grid() -> None:
    with pytest.raises(ValueError, match="image_size: got 64, but img_size=56"):
        TimmEncoder("vit_tiny_patch16_224", image_size=64, model_args=SMALL_VIT)
    with pytest.raises(ValueError, match=r"crossvit_9_240.*gives list"):
        TimmEncoder("crossvit_9_240")


def test_offline_fails_at_once_and_clearly(monkeypatch, tmp_path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    start = own_time()
    with pytest.raises(OSError, match=r"(?s)resnet10t: .*HF_HUB_OFFLINE is set.*pretrained=False"):
        TimmEncoder("resnet10t", pretrained=True)
    assert own_time() - start < 2


def test_an_unreachable_hub_is_found_out_at_once(monkeypatch) -> None:
    from huggingface_hub import constants

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there

    def load() -> None:
        with hub_access("some/model"):
            assert constants.HF_HUB_OFFLINE
            raise OSError("not cached")

    with pytest.raises(OSError, match=r"some/model: .*127\.0\.0\.1:9 does not answer"):
        load()
    assert not constants.HF_HUB_OFFLINE


def test_maximum_over_the_tokens() -> None:
    torch.manual_seed(0)
    encoder = TimmEncoder(model_args=SMALL_VIT, pool="max").eval()
    features = encoder(torch.rand(2, 3, 56, 56))
    assert_close(features.pooled, features.tokens.amax(1))
    with pytest.raises(ValueError, match="pool: got 'sum'; expected one of mean, max"):
        TimmEncoder(pool="sum")


def test_class_tokens_alone_are_refused() -> None:
    with pytest.raises(ValueError, match="pit_ti_224: its forward_features gives class tokens"):
        TimmEncoder("pit_ti_224")


def test_an_overlay_that_changes_the_preprocessing_is_refused() -> None:
    sizes = SMALL_VIT | {"pretrained_cfg_overlay": {"mean": (0, 0, 0)}}
    with pytest.raises(ValueError, match="pretrained_cfg_overlay with mean"):
        TimmEncoder("vit_tiny_patch16_224", model_args=sizes)
