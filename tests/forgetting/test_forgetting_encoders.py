"""Layers and original classifiers of encoders from every library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import get_model

from vlm.core.part import Part
from vlm.image import ConvNet, OpenClipImageEncoder, TimmEncoder, TorchvisionEncoder
from vlm.image.base import PixelEncoder
from vlm.studies.forgetting.heads import HeadError, original_head
from vlm.studies.forgetting.images import ImageMeasure, Images
from vlm.studies.forgetting.layers import layer_grams, layer_modules
from vlm.studies.forgetting.original import Original, WordVectors
from vlm.studies.forgetting.texts import TextMeasure, read_sentences
from vlm.text import BagOfWords, HuggingFaceEncoder, Recurrent, Transformer, WordTokenizer
from vlm.text.subword import SubwordTokenizer

WORDS = read_sentences(None).words
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}
BERT = {
    "model_type": "bert",
    "vocab_size": 31,
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 7,
}


def tiny_vit() -> TimmEncoder:
    return TimmEncoder("vit_tiny_patch16_224", model_args=VIT)


def bert() -> HuggingFaceEncoder:
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", *WORDS[:29]])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.enable_padding(pad_id=0, pad_token="[PAD]")
    tokenizer = SubwordTokenizer(json=backend.to_str(), max_length=37)
    return HuggingFaceEncoder(config=BERT, tokenizer=tokenizer)


IMAGES: list[tuple[Callable[[], PixelEncoder], int]] = [
    (tiny_vit, 4),  # patches and three blocks; not the last normalisation
    (lambda: TimmEncoder("resnet18", image_size=64), 9),
    (lambda: TimmEncoder("tf_efficientnet_lite0", image_size=32), 17),
    (lambda: TorchvisionEncoder("resnet18", image_size=64), 5),
    (lambda: OpenClipImageEncoder("RN50", image_size=64), 5),
    (lambda: ConvNet(32, (3, 5, 7)), 3),
]
TEXTS: list[tuple[Callable[[], Part], int]] = [
    (lambda: BagOfWords(WORDS, 7, 5), 3),
    (lambda: Recurrent(WORDS, 7, embedding_dim=5, num_layers=2), 3),
    (lambda: Transformer(WORDS, 12, 2, 2, 7), 3),
    (bert, 4),
    (lambda: WordVectors(WordTokenizer(WORDS), torch.randn(len(WORDS) + 2, 7)), 1),
]


@pytest.mark.parametrize(("make", "least"), IMAGES, ids=[str(n) for n in range(len(IMAGES))])
def test_layers_of_images(make: Callable[[], PixelEncoder], least: int) -> None:
    """Each layer gets one module, in order of use, and no hooks are left behind."""
    encoder = make().eval()
    images = torch.rand(4, *encoder.transform.shape)
    called: list[str] = []
    names = layer_modules(encoder, lambda: encoder(images))
    assert least <= len(names) <= len(encoder.layer_names())
    assert len(set(names)) == len(names)
    for name in names:
        encoder.get_submodule(name).register_forward_hook(lambda *_, name=name: called.append(name))
    grams, features = layer_grams(encoder, names, lambda: encoder(images), lambda x: x)
    assert sorted(called, key=called.index) == names
    assert all(g.shape == (4, 4) and g.isfinite().all() for g in grams)
    assert features.tokens.shape[0] == 4


def test_a_block_counts_as_a_whole() -> None:
    encoder = tiny_vit().eval()
    names = layer_modules(encoder, lambda: encoder(torch.rand(1, 3, 32, 32)))
    # timm counts the last normalisation as part of the last block.
    assert names == ["model.patch_embed", "model.blocks.0", "model.blocks.1", "model.norm"]


@pytest.mark.parametrize(("make", "least"), TEXTS, ids=[str(n) for n in range(len(TEXTS))])
def test_an_untouched_text_encoder_keeps_everything(make: Callable[[], Part], least: int) -> None:
    encoder = make()
    measure = TextMeasure(encoder, read_sentences(None), 5, 16)
    assert len(measure.layers) == least
    found = measure.retention(encoder, "itself")
    assert list(found.cka.values()) == pytest.approx([1] * least)
    assert found.neighbours == 1
    assert found.similarity == pytest.approx(1)
    assert found.paraphrases is not None
    assert found.paraphrases[0] == found.paraphrases[1]


def test_batches_of_sentences_do_not_change_what_is_measured() -> None:
    """The batch size changes nothing but CKA, which is an estimate."""
    before, after = BagOfWords(WORDS, 7, 5).eval(), BagOfWords(WORDS, 7, 5).eval()
    found = [
        TextMeasure(before, read_sentences(None), 5, size).retention(after, "other")
        for size in (9, 128)
    ]
    assert found[0].changes == found[1].changes
    assert found[0].similarity == pytest.approx(found[1].similarity, abs=1e-4)
    assert found[0].neighbours < 0.2
    assert all(abs(value) < 0.5 for value in found[1].cka.values())


def save(model: torch.nn.Module, path: Path) -> str:
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return str(path)


def photos() -> tuple[Images, Tensor]:
    import io

    from PIL import Image

    pictures = torch.randint(256, (11, 32, 32, 3), dtype=torch.uint8)
    content = {}
    for number, picture in enumerate(pictures):
        file = io.BytesIO()
        Image.fromarray(picture.numpy()).save(file, "png")
        content[str(number)] = file.getvalue()
    return Images(list(content), "made here", content.__getitem__), pictures.permute(0, 3, 1, 2)


def test_the_classifier_of_timm_weights(tmp_path: Path) -> None:
    """The classifier matches the whole model on the untouched encoder, but not on another one."""
    whole = timm.create_model("vit_tiny_patch16_224", **VIT).eval()
    arguments = {
        "name": "vit_tiny_patch16_224",
        "pretrained": save(whole, tmp_path / "w.safetensors"),
        "image_size": None,
        "model_args": VIT,
    }
    encoder = TimmEncoder(**arguments, fit="squash").eval()
    head = original_head(Original("here", encoder, arguments))
    shown, pictures = photos()
    images = (pictures.float() / 255 - encoder.mean) / encoder.std
    with torch.inference_mode():
        torch.testing.assert_close(head.logits(encoder, pictures), whole(images))
    measure = ImageMeasure(encoder, shown, head, 8)
    kept = measure.retention(encoder, "itself")
    assert kept.agreement is not None
    assert (kept.agreement.share, kept.agreement.top, kept.agreement.divergence) == (1, 1, 0)
    assert list(kept.cka.values()) == pytest.approx([1] * len(kept.cka))
    before = {name: value.clone() for name, value in head.model.state_dict().items()}
    other = TimmEncoder("vit_tiny_patch16_224", model_args=VIT, fit="squash")
    lost = measure.retention(other, "other")
    assert lost.agreement is not None
    assert lost.agreement.share < 0.5
    assert lost.agreement.divergence > 0
    assert min(lost.cka.values()) < 0.9
    assert all(torch.equal(value, before[n]) for n, value in head.model.state_dict().items())


def test_the_classifier_of_torchvision_weights(tmp_path: Path) -> None:
    whole = get_model("shufflenet_v2_x0_5", weights=None).eval()
    arguments = {
        "name": "shufflenet_v2_x0_5",
        "pretrained": save(whole, tmp_path / "w.safetensors"),
        "image_size": 64,
        "model_args": None,
    }
    encoder = TorchvisionEncoder(**arguments).eval()
    head = original_head(Original("here", encoder, arguments))
    pictures = torch.randint(256, (3, 3, 64, 64), dtype=torch.uint8)
    images = (pictures.float() / 255 - encoder.mean) / encoder.std
    with torch.inference_mode():
        torch.testing.assert_close(head.logits(encoder, pictures), whole(images))


def test_weights_without_a_classifier(tmp_path: Path) -> None:
    bare = timm.create_model("vit_tiny_patch16_224", num_classes=0, **VIT)
    arguments = {
        "name": "vit_tiny_patch16_224",
        "pretrained": save(bare, tmp_path / "w.safetensors"),
        "image_size": None,
        "model_args": VIT,
    }
    encoder = TimmEncoder(**arguments)
    with pytest.raises(HeadError, match=r"holds no classifier of vit_tiny(?s:.*)give --probe"):
        original_head(Original("here", encoder, arguments))
    with pytest.raises(HeadError, match=r"ConvNet from here has no classifier; give --probe"):
        original_head(Original("here", ConvNet(16, (3,)), {"name": "x"}))
