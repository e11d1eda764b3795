"""Encoders to check: one for each configuration in which a class can work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlm.image import (
    ConvNet,
    ImageEncoder,
    NaFlexEncoder,
    OpenClipImageEncoder,
    RegionFeatures,
    SideBySide,
    StridedConvNet,
    Tiles,
    TimmEncoder,
    TorchvisionEncoder,
)
from vlm.text import (
    BagOfWords,
    ClipTokenizer,
    HuggingFaceEncoder,
    OpenClipTextEncoder,
    Prompt,
    PromptTokenizer,
    Recurrent,
    TextEncoder,
    Transformer,
    VectorTokenizer,
    WordTokenizer,
)

NAFLEX = {"patch_size": 5, "embed_dim": 14, "depth": 2, "num_heads": 2}
WORDS = ["what", "colour", "is", "the", "circle"]


IMAGE_ENCODERS: dict[type, list[Callable[[], ImageEncoder]]] = {
    ConvNet: [
        lambda: ConvNet(24, widths=(5, 7, 11)),
        lambda: ConvNet(12, (5, 7), dropout=0.3, positions="learned"),
        lambda: ConvNet(12, (5, 7), positions="none"),
    ],
    StridedConvNet: [
        lambda: StridedConvNet(20, (5, 7, 11)),
        lambda: StridedConvNet(24, (5, 7), kernel_size=4, positions="coordinates"),
    ],
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
        lambda: TimmEncoder("resnet10t", image_size=64, pool="max", fit="pad", stages=[3, 2]),
    ],
    TorchvisionEncoder: [
        lambda: TorchvisionEncoder("mnasnet0_5", image_size=64),
        lambda: TorchvisionEncoder("squeezenet1_1", image_size=64, fit="pad", stages=[-2, -1]),
    ],
    OpenClipImageEncoder: [
        lambda: OpenClipImageEncoder(config=clip_config(layers=2, patch_size=8)),
        lambda: OpenClipImageEncoder(config=clip_config(layers=[1, 1, 1, 1]), pool="max"),
    ],
    SideBySide: [
        lambda: SideBySide([ConvNet(24, (5, 7)), ConvNet(12, (3, 4), positions="none")]),
        lambda: SideBySide(
            [ConvNet(24, (5, 7, 11)), ConvNet(20, (5, 7))], fit="pad", pool="max", positions="none"
        ),
        lambda: SideBySide([ConvNet(24, (5, 7)), ConvNet(12, (3, 4))], along="tokens", dim=9),
        lambda: SideBySide(
            [ConvNet(24, (5, 7, 11)), ConvNet(20, (5, 7))], along="tokens", fit="pad"
        ),
    ],
    Tiles: [
        lambda: Tiles(ConvNet(8, (5, 7)), tiles=4),
        lambda: Tiles(ConvNet(12, (3, 4)), 2, pool="max", positions="none"),
    ],
    NaFlexEncoder: [
        lambda: NaFlexEncoder(tokens=13, model_args=NAFLEX),
        lambda: NaFlexEncoder("naflexvit_base_patch16_map", False, 16, NAFLEX, "max"),
        lambda: NaFlexEncoder(
            "naflexvit_so150m2_patch16_reg1_gap", tokens=9, model_args=NAFLEX, positions="sine"
        ),
    ],
    RegionFeatures: [
        lambda: RegionFeatures(dim=13),
        lambda: RegionFeatures(dim=13, positions="coordinates"),
        lambda: RegionFeatures(dim=13, positions="none"),
    ],
}


TEXT_ENCODERS: dict[type, list[Callable[[Path], TextEncoder]]] = {
    BagOfWords: [
        lambda folder: BagOfWords(WORDS, dim=13, hidden_dim=17),
        lambda folder: BagOfWords((), 13, 17, 0.3, tokenizer=WordTokenizer(WORDS, max_length=11)),
        lambda folder: BagOfWords((), 3, 17, tokenizer=VectorTokenizer(word_vectors(folder))),
        lambda folder: BagOfWords(WORDS, dim=13, hidden_dim=17, standardize=True),
    ],
    Recurrent: [
        lambda folder: Recurrent(WORDS, dim=13, embedding_dim=11),
        lambda folder: Recurrent(
            WORDS, 14, "lstm", embedding_dim=11, num_layers=2, bidirectional=True, dropout=0.3
        ),
        lambda folder: Recurrent(WORDS, dim=13, embedding_dim=11, standardize=True),
    ],
    Transformer: [
        lambda folder: Transformer(
            WORDS, dim=6, num_layers=2, num_heads=3, feedforward_dim=17, dropout=0.3, max_length=19
        )
    ],
    Prompt: [
        lambda _: Prompt(
            tokenizer=PromptTokenizer(pieces(), "<image> {question} what", max_length=9)
        )
    ],
    HuggingFaceEncoder: [
        lambda folder: HuggingFaceEncoder(name=str(tiny_bert(folder))),
        lambda folder: HuggingFaceEncoder(name=str(tiny_t5(folder)), pretrained=False),
    ],
    OpenClipTextEncoder: [
        lambda folder: OpenClipTextEncoder(config=clip_config(), tokenizer=ClipTokenizer(11)),
        # Attends in both directions, as SigLIP does.
        lambda folder: OpenClipTextEncoder(
            config=clip_config(no_causal_mask=True), tokenizer=ClipTokenizer(7)
        ),
    ],
}


def clip_config(**sizes: Any) -> dict[str, Any]:
    """Two tiny open_clip towers; `sizes` apply to both."""
    vision = {"image_size": 64, "width": 8, "head_width": 4, "layers": 2}
    text = {"context_length": 11, "vocab_size": 49408, "width": 14, "heads": 2, "layers": 2}
    preprocess = {"interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}
    return {
        "embed_dim": 13,
        "vision_cfg": vision | {k: v for k, v in sizes.items() if k in ("layers", "patch_size")},
        "text_cfg": text | {k: v for k, v in sizes.items() if k == "no_causal_mask"},
        "preprocess_cfg": preprocess | {"resize_mode": "shortest"},
    }


def word_vectors(folder: Path) -> str:
    lines = [f"{word} {i} {i + 0.5} -{i}" for i, word in enumerate(WORDS)]
    (folder / "vectors.txt").write_text("\n".join(lines))
    return str(folder / "vectors.txt")


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


def pieces() -> str:
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: i for i, word in enumerate(["[UNK]", *WORDS, "?"])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made.to_str()
