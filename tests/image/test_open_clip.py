"""OpenClipImageEncoder: open_clip's own tokens, one load for both towers, and no network."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from clip_folder import RESNET, TEXT, TIMM, VIT, save_clip
from PIL import Image
from torch.testing import assert_close

from vlm.core.part import build
from vlm.image import OpenClipImageEncoder
from vlm.pretrained import open_clip as clip_towers
from vlm.text import ClipTokenizer, OpenClipTextEncoder


def random_images(encoder: OpenClipImageEncoder) -> torch.Tensor:
    images = torch.randint(256, (3, *encoder.transform.shape), dtype=torch.uint8)
    images[:, 3:] = 255
    return images


def normalised(encoder: OpenClipImageEncoder, images: torch.Tensor) -> torch.Tensor:
    return (images[:, :3] / 255 - encoder.mean) / encoder.std


def test_patches_are_those_of_open_clip(tmp_path: Path) -> None:
    name, reference = save_clip(tmp_path, VIT | {"output_tokens": True})
    encoder = OpenClipImageEncoder(name, pretrained=True).eval()
    images = random_images(encoder)
    _, wanted = reference.visual(normalised(encoder, images))
    features = encoder(images)
    assert (encoder.dim, encoder.grid) == (14, (3, 3))
    assert_close(features.tokens, wanted)
    assert_close(features.pooled, wanted.mean(1))


def test_towers_that_are_no_transformers(tmp_path: Path) -> None:
    name, reference = save_clip(tmp_path / "resnet", RESNET)
    encoder = OpenClipImageEncoder(name, pretrained=True).eval()
    visual, images = reference.visual, random_images(encoder)
    x = visual.stem(normalised(encoder, images))
    wanted = visual.layer4(visual.layer3(visual.layer2(visual.layer1(x))))
    assert_close(encoder(images).tokens, wanted.flatten(2).mT)

    name, reference = save_clip(tmp_path / "timm", TIMM, custom_text=True)
    encoder = OpenClipImageEncoder(name, pretrained=True, stages=[3, 4]).eval()
    images = random_images(encoder)
    fine, coarse = reference.visual.trunk.forward_intermediates(
        normalised(encoder, images), indices=[3, 4], intermediates_only=True
    )
    wanted = torch.cat((torch.nn.functional.avg_pool2d(fine, 2), coarse), 1)
    assert_close(encoder(images).tokens, wanted.flatten(2).mT)


def test_coca_gives_its_patches_and_not_its_queries(tmp_path: Path) -> None:
    queries = {"attentional_pool": True, "attn_pooler_heads": 1}
    name, reference = save_clip(tmp_path, VIT | queries)
    encoder = OpenClipImageEncoder(name, pretrained=True).eval()
    images = random_images(encoder)
    visual = reference.visual
    wanted = visual.transformer(visual._embeds(normalised(encoder, images)))[:, 1:]
    assert_close(encoder(images).tokens, wanted)
    assert not [n for n, _ in encoder.named_parameters() if "attn_pool" in n or "ln_post" in n]


def test_layers_side_by_side(tmp_path: Path) -> None:
    name, reference = save_clip(tmp_path)
    encoder = OpenClipImageEncoder(name, pretrained=True, stages=[1, 0], pool="max").eval()
    images = random_images(encoder)
    outputs = reference.visual.forward_intermediates(
        normalised(encoder, images), output_fmt="NLC", normalize_intermediates=True
    )["image_intermediates"]
    features = encoder(images)
    assert_close(features.tokens, torch.cat((outputs[1], outputs[0]), -1))
    assert_close(features.pooled, features.tokens.amax(1))
    assert not [n for n, _ in encoder.named_parameters() if "resblocks.2" in n]
    with pytest.raises(ValueError, match=r"stages: got \[3\]; .* has 3"):
        OpenClipImageEncoder(name, stages=[3])


def test_preprocessing_is_the_models_own(tmp_path: Path) -> None:
    name, reference = save_clip(tmp_path)
    encoder = OpenClipImageEncoder(name)
    transform = encoder.transform
    assert (transform.size, transform.fit) == ((24, 24), "pad")
    assert transform.interpolation == "bilinear"
    own = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**reference.visual.preprocess_cfg), is_train=False
    )
    y, x = torch.meshgrid(torch.linspace(0, 1, 60), torch.linspace(0, 1, 91), indexing="ij")
    photo = Image.fromarray((torch.stack((x, y, x * y), -1) * 255).byte().numpy())
    pixels = transform(photo)
    inside = pixels[3] > 0
    ours = normalised(encoder, pixels[None])[0]
    assert_close(ours[:, inside], own(photo)[:, inside], rtol=0, atol=0.05)
    assert inside.sum(0)[0] == 16
    # A model without weights uses the preprocessing of its first pretrained weights.
    siglip = clip_towers.read_config("ViT-B-16-SigLIP", False)["preprocess_cfg"]
    assert (siglip["mean"], siglip["resize_mode"]) == ((0.5, 0.5, 0.5), "squash")


def test_both_towers_share_one_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, reference = save_clip(tmp_path)
    loads = []
    create = open_clip.create_model
    monkeypatch.setattr(
        open_clip, "create_model", lambda *a, **k: loads.append(a) or create(*a, **k)
    )
    image = OpenClipImageEncoder(name, pretrained=True)
    text = OpenClipTextEncoder((), name, pretrained=True)
    assert len(loads) == 1
    assert_close(image.model.conv1.weight, reference.visual.conv1.weight, rtol=0, atol=0)
    wanted = reference.token_embedding.weight
    assert_close(text.model.token_embedding.weight, wanted, rtol=0, atol=0)
    # Each tower is handed out once, so no two encoders share weights.
    again = OpenClipImageEncoder(name, pretrained=True)
    assert len(loads) == 2
    assert again.model.conv1.weight is not image.model.conv1.weight
    larger = OpenClipImageEncoder(name, pretrained=True, image_size=32)
    assert (len(loads), larger.grid) == (3, (4, 4))
    OpenClipTextEncoder((), name, pretrained=True)
    assert len(loads) == 3


def test_rebuilt_without_folder_or_network(tmp_path: Path, monkeypatch) -> None:
    for part, vision in {"vit": VIT, "timm": TIMM}.items():
        name, _ = save_clip(tmp_path / part, vision, custom_text=True)
        encoder = OpenClipImageEncoder(name, pretrained=True, image_size=96).eval()
        for file in (tmp_path / part).iterdir():
            file.unlink()
        again = build(encoder.config).eval()
        assert again.config == encoder.config
        assert again.transform == encoder.transform
        again.load_state_dict(encoder.state_dict(), strict=True)
        images = random_images(encoder)
        assert_close(again(images), encoder(images), rtol=0, atol=0)


def test_a_file_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of open_clip's own model names, with weights from a file."""
    _, reference = save_clip(tmp_path)
    config = {"embed_dim": 13, "vision_cfg": VIT, "text_cfg": TEXT}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny-8", config)
    path = tmp_path / "open_clip_model.safetensors"
    encoder = OpenClipImageEncoder("Tiny-8", pretrained=str(path))
    assert_close(encoder.model.conv1.weight, reference.visual.conv1.weight, rtol=0, atol=0)
    monkeypatch.setitem(config["vision_cfg"], "width", 21)
    with pytest.raises(
        ValueError, match=r"(?s)do not fit the model.*visual.*size mismatch|copying"
    ):
        OpenClipImageEncoder("Tiny-8", pretrained=str(path), pool="max")


def test_unknown_names_and_tags() -> None:
    with pytest.raises(ValueError, match=r"name: got 'vit-b32'.*Did you mean .*ViT-B-32"):
        OpenClipImageEncoder("vit-b32")
    with pytest.raises(ValueError, match=r"got 'laion2b' for ViT-B-32.*Did you mean laion2b_"):
        OpenClipImageEncoder("ViT-B-32", pretrained="laion2b")
    with pytest.raises(
        ValueError, match="got True for ViT-B-32; expected a file, or one of the tags"
    ):
        OpenClipImageEncoder("ViT-B-32", pretrained=True)
    with pytest.raises(ValueError, match="tokenizer: got None with a config"):
        OpenClipTextEncoder(config={"embed_dim": 13, "text_cfg": TEXT})
    with pytest.raises(ValueError, match=r"max_length=77; .* has 49408 and 11 positions"):
        OpenClipTextEncoder(config={"embed_dim": 13, "text_cfg": TEXT}, tokenizer=ClipTokenizer())


def test_offline_fails_at_once_and_clearly(monkeypatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    open_clip.get_model_config("RN50")  # open_clip itself is loaded
    for name, tag in {"RN50": "openai", "hf-hub:nobody/no-model": True}.items():
        with pytest.raises(OSError, match="HF_HUB_OFFLINE is set"):
            OpenClipImageEncoder(name, pretrained=tag)
