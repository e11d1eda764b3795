"""Every public class keeps the promises of its role."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import vlm.fusion
import vlm.image
import vlm.text
from vlm.fusion import ConcatMLP, CrossAttention, Fusion, Merge, Pooled, Product
from vlm.image import ConvNet, ImageEncoder, TimmEncoder
from vlm.testing import check_fusion, check_image_encoder, check_merge, check_text_encoder
from vlm.text import (
    BagOfWords,
    HuggingFaceEncoder,
    Recurrent,
    TextEncoder,
    Transformer,
    WordTokenizer,
)

WORDS = ["what", "colour", "is", "the", "circle"]

# Sizes are different primes, so that no two can be mixed up unseen. One line per way in which a
# class can work; a new public class must come with at least one.
MERGES: dict[type, list[Callable[[], Merge]]] = {
    Product: [
        lambda: Product(13, 11, out_dim=17),
        lambda: Product(13, 11, out_dim=17, activation="tanh", dropout=0.3),
    ],
    ConcatMLP: [
        lambda: ConcatMLP(13, 11, out_dim=17, hidden_dims=(19, 23)),
        lambda: ConcatMLP(13, 11, out_dim=17, hidden_dims=(), dropout=0.3),
        lambda: ConcatMLP(13, 11, out_dim=17, hidden_dims=(19,), activation="gelu", dropout=0.3),
    ],
}
FUSIONS: dict[type, list[Callable[[], Fusion]]] = {
    Pooled: [
        lambda: Pooled(13, 11, partial(Product, out_dim=17)),
        lambda: Pooled(13, 11, partial(ConcatMLP, out_dim=17, hidden_dims=(19,))),
    ],
    CrossAttention: [
        lambda: CrossAttention(13, 11, out_dim=6, layers=2, heads=3, feedforward_dim=17),
        lambda: CrossAttention(13, 11, out_dim=10, heads=2, feedforward_dim=17, dropout=0.3),
    ],
}
IMAGE_ENCODERS: dict[type, list[Callable[[], ImageEncoder]]] = {
    ConvNet: [lambda: ConvNet(24, widths=(5, 7, 11)), lambda: ConvNet(12, (5, 7), dropout=0.3)],
    TimmEncoder: [
        lambda: TimmEncoder(
            "vit_tiny_patch16_224",
            model_args={
                "img_size": (15, 25),
                "patch_size": 5,
                "embed_dim": 14,
                "depth": 2,
                "num_heads": 2,
            },
        ),
        lambda: TimmEncoder("resnet10t", image_size=64, pool="max"),
    ],
}
TEXT_ENCODERS: dict[type, list[Callable[[Path], TextEncoder]]] = {
    BagOfWords: [
        lambda folder: BagOfWords(WORDS, dim=13, hidden_dim=17),
        lambda folder: BagOfWords((), 13, 17, 0.3, tokenizer=WordTokenizer(WORDS, max_length=11)),
    ],
    Recurrent: [
        lambda folder: Recurrent(WORDS, dim=13, embedding_dim=11),
        lambda folder: Recurrent(
            WORDS, 14, "lstm", embedding_dim=11, layers=2, bidirectional=True, dropout=0.3
        ),
    ],
    Transformer: [
        lambda folder: Transformer(
            WORDS, dim=6, layers=2, heads=3, feedforward_dim=17, dropout=0.3, max_length=19
        )
    ],
    HuggingFaceEncoder: [
        lambda folder: HuggingFaceEncoder(name=str(tiny_bert(folder))),
        lambda folder: HuggingFaceEncoder(name=str(tiny_t5(folder)), pretrained=False),
    ],
}


def save_tokenizer(folder: Path) -> None:
    from transformers import BertTokenizerFast

    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [*marks, *WORDS, "##s", "?"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)


def tiny_bert(folder: Path) -> Path:
    from transformers import BertConfig, BertModel

    save_tokenizer(folder)
    sizes = {"hidden_size": 14, "num_attention_heads": 2, "intermediate_size": 17}
    BertModel(
        BertConfig(vocab_size=12, num_hidden_layers=2, max_position_embeddings=67, **sizes)
    ).save_pretrained(folder)
    return folder


def tiny_t5(folder: Path) -> Path:
    from transformers import T5Config

    save_tokenizer(folder)
    T5Config(vocab_size=12, d_model=14, d_kv=7, d_ff=17, num_layers=2, num_heads=2).save_pretrained(
        folder
    )
    return folder


def public(package: Any, role: type) -> list[type]:
    """The concrete classes of a role that a package offers."""
    values = [getattr(package, name) for name in package.__all__]
    return [v for v in values if isinstance(v, type) and issubclass(v, role) and v is not role]


@pytest.mark.parametrize(
    ("package", "role", "table"),
    [
        (vlm.fusion, Merge, MERGES),
        (vlm.fusion, Fusion, FUSIONS),
        (vlm.image, ImageEncoder, IMAGE_ENCODERS),
        (vlm.text, TextEncoder, TEXT_ENCODERS),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_public_class_is_checked(package: Any, role: type, table: dict[type, list]) -> None:
    without = [cls.__name__ for cls in public(package, role) if not table.get(cls)]
    assert not without, f"{without} have no construction in the tables of {Path(__file__).name}."
    hidden = [cls.__name__ for cls in table if cls not in public(package, role)]
    assert not hidden, f"{hidden} are not in {package.__name__}.__all__."


def cases(table: dict[type, list]) -> list:
    return [
        pytest.param(make, id=f"{cls.__name__}-{number}")
        for cls, makes in table.items()
        for number, make in enumerate(makes)
    ]


@pytest.mark.parametrize("make", cases(MERGES))
def test_merge(make: Callable[[], Merge]) -> None:
    check_merge(make())


@pytest.mark.parametrize("make", cases(FUSIONS))
def test_fusion(make: Callable[[], Fusion]) -> None:
    check_fusion(make())


@pytest.mark.parametrize("make", cases(IMAGE_ENCODERS))
def test_image_encoder(make: Callable[[], ImageEncoder]) -> None:
    check_image_encoder(make())


@pytest.mark.parametrize("make", cases(TEXT_ENCODERS))
def test_text_encoder(make: Callable[[Path], TextEncoder], tmp_path: Path) -> None:
    check_text_encoder(make(tmp_path))
