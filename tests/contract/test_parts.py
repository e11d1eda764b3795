"""Every public class keeps the promises of its role."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import vlm.fusion
import vlm.heads
import vlm.image
import vlm.text
from vlm.fusion import (
    BAN,
    DFAF,
    GMU,
    MCAN,
    MCB,
    MFB,
    MFH,
    MLB,
    Block,
    BlockTucker,
    ConcatMLP,
    CrossAttention,
    CrossModalityEncoder,
    DeepSets,
    FiLM,
    Fusion,
    GatedCrossAttention,
    GlimpseAttention,
    Merge,
    MergedAttention,
    MFBCoAttention,
    ModalityAttention,
    MuRel,
    Mutan,
    ObjectCounter,
    ParallelCoAttention,
    Pooled,
    Product,
    Projector,
    QFormer,
    SingleStream,
    StackedAttention,
    Sum,
    Tucker,
)
from vlm.heads import (
    AnswerHead,
    Classification,
    Generation,
    MultipleChoice,
    MultiTask,
    TransformerDecoder,
)
from vlm.image import (
    ConvNet,
    ImageEncoder,
    OpenClipImageEncoder,
    RegionFeatures,
    TimmEncoder,
    TorchvisionEncoder,
)
from vlm.testing import (
    check_fusion,
    check_head,
    check_image_encoder,
    check_merge,
    check_text_encoder,
)
from vlm.text import (
    BagOfWords,
    ClipTokenizer,
    HuggingFaceEncoder,
    OpenClipTextEncoder,
    Recurrent,
    TextEncoder,
    Transformer,
    VectorTokenizer,
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
    GMU: [lambda: GMU(13, 11, out_dim=17)],
    Sum: [
        lambda: Sum(13, 11, out_dim=17, hidden_dim=19),
        lambda: Sum(13, 11, 17, 19, "tanh", "relu", normalize=True, dropout=0.3),
    ],
    MLB: [
        lambda: MLB(13, 11, out_dim=17, hidden_dim=19),
        lambda: MLB(13, 11, 17, 19, "relu", "gelu", normalize=True, dropout=0.3),
    ],
    MFB: [
        lambda: MFB(13, 11, out_dim=17, hidden_dim=7, factor=3),
        lambda: MFB(13, 11, 17, 7, 3, "tanh", "relu", normalize=False, dropout=0.3),
    ],
    MFH: [
        lambda: MFH(13, 11, out_dim=17, hidden_dim=7, factor=3),
        lambda: MFH(13, 11, 17, 7, 3, 3, "tanh", "relu", normalize=False, dropout=0.3),
    ],
    MCB: [
        lambda: MCB(13, 11, out_dim=17, sketch_dim=23),
        lambda: MCB(13, 11, 17, 22, "relu", normalize=False, dropout=0.3),
    ],
    Tucker: [
        lambda: Tucker(13, 11, out_dim=17, hidden_dim=7),
        lambda: Tucker(13, 11, out_dim=17, hidden_dim=7, normalize=True, dropout=0.3),
    ],
    Mutan: [
        lambda: Mutan(13, 11, out_dim=17, hidden_dim=7, rank=3),
        lambda: Mutan(13, 13, 17, 7, rank=3, shared=True, normalize=True, dropout=0.3),
    ],
    BlockTucker: [
        lambda: BlockTucker(13, 11, out_dim=17, hidden_dim=19, chunks=4),
        lambda: BlockTucker(13, 11, 17, 19, 7, normalize="after_cat", dropout=0.3),
    ],
    Block: [
        lambda: Block(13, 11, out_dim=17, hidden_dim=19, chunks=4, rank=3),
        lambda: Block(13, 13, 17, 18, 6, 3, shared=True, normalize="after_cat", dropout=0.3),
    ],
}
FUSIONS: dict[type, list[Callable[[], Fusion]]] = {
    Pooled: [
        lambda: Pooled(13, 11, partial(Product, out_dim=17)),
        lambda: Pooled(13, 11, partial(ConcatMLP, out_dim=17, hidden_dims=(19,))),
    ],
    MuRel: [
        lambda: MuRel(13, 11, 7, 2, merge=partial(Block, hidden_dim=17, chunks=4, rank=3)),
        lambda: MuRel(
            7, 11, 7, 1, partial(MLB, hidden_dim=17), partial(MLB, hidden_dim=19), "mean"
        ),
    ],
    ModalityAttention: [lambda: ModalityAttention(13, 11, out_dim=17)],
    DeepSets: [
        lambda: DeepSets(13, 11, out_dim=17, element_dim=7, hidden_dims=(19, 23)),
        lambda: DeepSets(13, 11, 17, 7, hidden_dims=(), pooling="mean", attention_dim=5),
        lambda: DeepSets(13, 11, 17, 7, (19,), pooling="sum", attention_dim=5, dropout=0.3),
    ],
    GlimpseAttention: [
        lambda: GlimpseAttention(
            13, 11, partial(Block, hidden_dim=19, chunks=4, rank=3), partial(MLB, out_dim=17)
        ),
        lambda: GlimpseAttention(
            13, 11, partial(Mutan, out_dim=7, hidden_dim=5), partial(Sum, out_dim=17), 3, mlp_dim=23
        ),
        lambda: GlimpseAttention(13, 11, merge=partial(Sum, out_dim=17), counter=ObjectCounter(7)),
    ],
    StackedAttention: [
        lambda: StackedAttention(13, 11, out_dim=17),
        lambda: StackedAttention(13, 11, 17, hops=3, score=partial(MFB, hidden_dim=7)),
    ],
    CrossAttention: [
        lambda: CrossAttention(13, 11, out_dim=6, layers=2, heads=3, feedforward_dim=17),
        lambda: CrossAttention(13, 11, out_dim=10, heads=2, feedforward_dim=17, dropout=0.3),
    ],
    MCAN: [
        lambda: MCAN(13, 11, out_dim=17, dim=6, layers=2, heads=3),
        lambda: MCAN(13, 11, out_dim=7, dim=10, layers=2, heads=2, cascade="stacking"),
    ],
    CrossModalityEncoder: [
        lambda: CrossModalityEncoder(13, 11, out_dim=6, layers=2, heads=3, feedforward_dim=17),
        lambda: CrossModalityEncoder(13, 11, out_dim=10, layers=1, heads=2, feedforward_dim=19),
    ],
    MergedAttention: [
        lambda: MergedAttention(13, 11, out_dim=6, layers=2, heads=3, feedforward_dim=17),
    ],
    SingleStream: [
        lambda: SingleStream(13, 11, out_dim=6, layers=2, heads=3, feedforward_dim=17),
    ],
    BAN: [
        lambda: BAN(13, 11, out_dim=17, glimpses=2, rank_factor=3),
        lambda: BAN(13, 11, out_dim=7, glimpses=1, rank_factor=1, dropout=0.3),
        lambda: BAN(13, 11, out_dim=17, glimpses=2, counter=ObjectCounter(objects=13, pieces=5)),
    ],
    ParallelCoAttention: [
        lambda: ParallelCoAttention(13, 11, out_dim=17, hidden_dim=19),
        lambda: ParallelCoAttention(13, 11, out_dim=17, hidden_dim=19, dropout=0.3),
    ],
    MFBCoAttention: [
        lambda: MFBCoAttention(13, 11, out_dim=17, hidden_dim=7, factor=3, glimpses=2),
        lambda: MFBCoAttention(
            13, 11, out_dim=17, hidden_dim=7, factor=3, order=2, glimpses=1, dropout=0.3
        ),
    ],
    DFAF: [
        lambda: DFAF(13, 11, out_dim=6, layers=2, heads=3),
        lambda: DFAF(13, 11, out_dim=10, layers=1, heads=2, dropout=0.3),
    ],
    QFormer: [
        lambda: QFormer(13, 11, out_dim=6, queries=5, layers=3, heads=3),
        lambda: QFormer(13, 11, out_dim=10, queries=3, heads=2, cross_every=1, dropout=0.3),
    ],
    GatedCrossAttention: [
        lambda: GatedCrossAttention(13, 11, out_dim=6, latents=5, resampler_layers=2, heads=3),
        lambda: GatedCrossAttention(13, 11, out_dim=10, latents=3, layers=1, heads=2, dropout=0.3),
    ],
    Projector: [
        lambda: Projector(13, 11, out_dim=17),
        lambda: Projector(13, 11, out_dim=17, layers=1),
    ],
    FiLM: [lambda: FiLM(13, 11, out_dim=17, layers=3)],
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
    RegionFeatures: [lambda: RegionFeatures(dim=13)],
}
TEXT_ENCODERS: dict[type, list[Callable[[Path], TextEncoder]]] = {
    BagOfWords: [
        lambda folder: BagOfWords(WORDS, dim=13, hidden_dim=17),
        lambda folder: BagOfWords((), 13, 17, 0.3, tokenizer=WordTokenizer(WORDS, max_length=11)),
        lambda folder: BagOfWords((), 3, 17, tokenizer=VectorTokenizer(word_vectors(folder))),
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
    OpenClipTextEncoder: [
        lambda folder: OpenClipTextEncoder(config=clip_config(), tokenizer=ClipTokenizer(11)),
        # Looks both ways, as SigLIP does.
        lambda folder: OpenClipTextEncoder(
            config=clip_config(no_causal_mask=True), tokenizer=ClipTokenizer(7)
        ),
    ],
}
ANSWERS = ("no", "yes", "two cats", "red")
HEADS: dict[type, list[Callable[[], AnswerHead]]] = {
    Classification: [
        lambda: Classification(13, ANSWERS, hidden_dims=(17,)),
        lambda: Classification(13, ("mauve", *ANSWERS), hidden_dims=(), loss="kl"),
        lambda: Classification(13, ANSWERS, hidden_dims=(17, 19), dropout=0.3, loss="ce"),
    ],
    MultipleChoice: [
        lambda: MultipleChoice(13, 11, partial(Product, out_dim=17)),
        lambda: MultipleChoice(13, 11, partial(MCB, out_dim=17, sketch_dim=23)),
    ],
    Generation: [
        lambda: Generation(13, partial(TransformerDecoder, dim=14, heads=2, layers=1)),
        lambda: Generation(13, partial(TransformerDecoder, dim=14, heads=2, layers=1), choose=True),
    ],
    MultiTask: [
        lambda: MultiTask(
            13,
            {"classify": Classification, "choose": partial(MultipleChoice, merge=GMU)},
            answers_by="choose",
            weights={"classify": 0.5},
            text_dim=11,
            answers=ANSWERS,
        ),
        lambda: MultiTask(
            13,
            {
                "classify": partial(Classification, hidden_dims=(17,), loss="ce"),
                "soft": partial(Classification, loss="bce"),
            },
            answers=ANSWERS,
        ),
    ],
}


def clip_config(**sizes: Any) -> dict[str, Any]:
    """Two tiny towers of open_clip: `sizes` of either."""
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


def public(package: Any, role: type) -> list[type]:
    """The concrete classes of a role that a package offers."""
    values = [getattr(package, name) for name in package.__all__]
    classes = [v for v in values if isinstance(v, type) and issubclass(v, role)]
    return [cls for cls in classes if not inspect.isabstract(cls)]


@pytest.mark.parametrize(
    ("package", "role", "table"),
    [
        (vlm.fusion, Merge, MERGES),
        (vlm.fusion, Fusion, FUSIONS),
        (vlm.image, ImageEncoder, IMAGE_ENCODERS),
        (vlm.text, TextEncoder, TEXT_ENCODERS),
        (vlm.heads, AnswerHead, HEADS),
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


@pytest.mark.parametrize("make", cases(HEADS))
def test_head(make: Callable[[], AnswerHead]) -> None:
    check_head(make(), ANSWERS)


@pytest.mark.parametrize("make", cases(IMAGE_ENCODERS))
def test_image_encoder(make: Callable[[], ImageEncoder]) -> None:
    check_image_encoder(make())


@pytest.mark.parametrize("make", cases(TEXT_ENCODERS))
def test_text_encoder(make: Callable[[Path], TextEncoder], tmp_path: Path) -> None:
    check_text_encoder(make(tmp_path))
