"""Which layers of each part train, from which epoch and at what rate, by hand-worked examples."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
import torch
from torch import nn

from vlm.core.layers import numbered_layers
from vlm.core.lora import LoRA
from vlm.core.part import Part
from vlm.fusion import BAN, MCAN, FiLM, Pooled, QFormer
from vlm.heads import Classification
from vlm.image import (
    ConvNet,
    OpenClipImageEncoder,
    RegionFeatures,
    SideBySide,
    TimmEncoder,
    TorchvisionEncoder,
)
from vlm.image.positions import PREFIX
from vlm.model import VQAModel
from vlm.text import BagOfWords, OpenClipTextEncoder, Recurrent, Transformer
from vlm.training.finetuning.groups import is_decayed, make_optimizer, parameter_groups
from vlm.training.finetuning.plan import (
    Layer,
    PartTuning,
    Tuning,
    check_plan,
    keep_statistics,
    plan,
    prepare,
    set_modes,
)

WORDS = ["what", "color", "is", "it"]


def model(image: Any = None, text: Any = None) -> VQAModel:
    image = image or ConvNet(image_size=8, widths=(3, 5, 7))
    text = text or BagOfWords(WORDS, dim=11, hidden_dim=13)
    fusion = Pooled(image.dim, text.dim)
    return VQAModel(image, text, fusion, Classification(fusion.out_dim, ["red", "blue"]))


def timm(name: str, **arguments: Any) -> TimmEncoder:
    return TimmEncoder(name, model_args=arguments)


VIT = {"img_size": 32, "patch_size": 16, "embed_dim": 6, "depth": 3, "num_heads": 2}
TOWER = {
    "embed_dim": 4,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 3},
    "text_cfg": {"context_length": 7, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 2},
}
# Each part's number of layers, and how the first and last parameter names of some begin.
LAYERS: dict[str, tuple[Callable[[], Part], int, dict[int, tuple[str, str]]]] = {
    "ConvNet": (lambda: ConvNet(8, (3, 5, 7)), 3, {0: ("stages.0.0.", "stages.0.2.")}),
    "vit": (
        lambda: timm("vit_tiny_patch16_224", **VIT),
        4,
        {0: ("model.cls_token", "model.patch_embed."), 3: ("model.blocks.2.", "model.norm.")},
    ),
    "timm resnet": (
        lambda: timm("resnet10t"),
        5,
        {0: ("model.conv1.0.", "model.bn1."), 4: ("model.layer4.0.", "model.layer4.0.")},
    ),
    "torchvision resnet": (
        lambda: TorchvisionEncoder("resnet18", image_size=64),
        5,
        {0: ("model.conv1.", "model.bn1."), 4: ("model.layer4.0.", "model.layer4.1.")},
    ),
    "torchvision googlenet": (
        lambda: TorchvisionEncoder("googlenet", image_size=64),
        12,
        {3: ("model.inception3a.branch1.", "model.inception3a.branch4.")},
    ),
    "regions": (lambda: RegionFeatures(3), 1, {}),
    "regions without positions": (lambda: RegionFeatures(3, positions="none"), 0, {}),
    "bag": (
        lambda: BagOfWords(WORDS),
        3,
        {0: ("embedding.", "embedding."), 2: ("mlp.2.weight", "mlp.2.bias")},
    ),
    "recurrent, both ways": (
        lambda: Recurrent(WORDS, dim=6, num_layers=2, bidirectional=True),
        3,
        {1: ("forwards.0.", "backwards.0."), 2: ("forwards.1.", "backwards.1.")},
    ),
    "transformer": (
        lambda: Transformer(WORDS, dim=6, num_layers=3, num_heads=2),
        4,
        {
            0: ("model.embeddings.word_embeddings.", "model.embeddings.LayerNorm."),
            3: ("model.encoder.layer.2.", "model.encoder.layer.2."),
        },
    ),
    "open_clip image": (
        lambda: OpenClipImageEncoder(config=TOWER | {"preprocess_cfg": PREPROCESS}),
        4,
        {
            0: ("model.class_embedding", "model.ln_pre."),
            3: ("model.transformer.resblocks.2.", "model.ln_post."),
        },
    ),
    "fusion": (lambda: QFormer(5, 7), 1, {}),
    "head": (lambda: Classification(5, ["red"]), 1, {}),
}
PREPROCESS = {
    "mode": "RGB",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
    "size": 32,
}


def is_placing(name: str) -> bool:
    return name.startswith(PREFIX)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_each_part(name: str) -> None:
    make, count, ends = LAYERS[name]
    part = make()
    layers = part.layer_names()
    assert len(layers) == count
    assert sorted(chain(*layers)) == sorted(n for n, _ in part.named_parameters())
    for number, (first, last) in ends.items():
        own = [name for name in layers[number] if not name.startswith(PREFIX)]
        assert own[0].startswith(first)
        assert own[-1].startswith(last)
    placed = [number for number, names in enumerate(layers) if any(map(is_placing, names))]
    assert placed in ([], [count - 1])  # positions are trained with the last layer


def test_open_clip_text_has_its_blocks() -> None:
    from vlm.text import ClipTokenizer

    encoder = OpenClipTextEncoder(config=TOWER, tokenizer=ClipTokenizer(7))
    layers = encoder.layer_names()
    assert len(layers) == 3
    assert "model.token_embedding.weight" in layers[0]
    assert "model.ln_final.bias" in layers[2]


def test_lora_changes_no_layer_s_number() -> None:
    from vlm.core.lora import add_lora

    for part in (ConvNet(8, (3, 5, 7)), timm("vit_tiny_patch16_224", **VIT)):
        before = len(part.layer_names())
        add_lora(part, LoRA(rank=2))
        assert len(part.layer_names()) == before
        assert sorted(chain(*part.layer_names())) == sorted(n for n, _ in part.named_parameters())


def test_a_norm_of_its_own_number_joins_the_layer_before() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.ReLU(), nn.Linear(3, 5))
    assert numbered_layers(module) == [
        ["0.weight", "0.bias", "1.weight", "1.bias"],
        ["3.weight", "3.bias"],
    ]


def starts(layers: list[Layer], part: str) -> list[int]:
    return [layer.start for layer in layers if layer.part == part]


def scales(layers: list[Layer], part: str) -> list[float]:
    return [layer.lr_scale for layer in layers if layer.part == part]


def test_layers_join_from_the_output_to_the_input() -> None:
    how = PartTuning(from_epoch=1, layers_per_epoch=2, lr_scale=3.0, layer_decay=0.5)
    tuning = Tuning(image_encoder=how, text_encoder=PartTuning(from_epoch=4))
    layers = plan(model(), tuning)
    # Three stages: the last two begin in epoch 1, the first in epoch 2.
    assert starts(layers, "image_encoder") == [2, 1, 1]
    assert scales(layers, "image_encoder") == [0.75, 1.5, 3.0]
    assert starts(layers, "text_encoder") == [4, 4, 4]
    assert starts(layers, "fusion") == [0]
    assert scales(layers, "head") == [1.0]
    assert layers[0].names[0] == "image_encoder.stages.0.0.weight"


def test_a_fusion_brings_a_factor_unless_another_is_asked_for() -> None:
    made = model()
    made.fusion = MCAN(made.image_encoder.dim, made.text_encoder.dim, dim=8, num_heads=2)
    assert scales(plan(made, Tuning()), "fusion") == [MCAN.lr_factor] == [0.3]
    assert scales(plan(made, Tuning()), "head") == [1.0]
    assert scales(plan(made, Tuning(fusion=PartTuning(lr_scale=1))), "fusion") == [1.0]


def test_nothing_of_a_frozen_part_is_planned() -> None:
    made = model()
    made.image_encoder = ConvNet(8, (3, 5, 7), positions="none")
    tuning = Tuning(image_encoder=PartTuning(frozen=True))
    prepare(made, tuning)
    assert {layer.part for layer in plan(made, tuning)} == {"text_encoder", "fusion", "head"}
    assert not any(p.requires_grad for p in made.image_encoder.parameters())


def test_groups_by_rate_and_decay() -> None:
    made = model()
    tuning = Tuning(head=PartTuning(lr_scale=10))
    layers = plan(made, tuning)
    groups = parameter_groups(made, layers)
    assert sorted(groups) == [1.0, 10]
    head = set(made.head.parameters())
    assert {p for group in groups[10] for p in group["params"]} == head
    every = [p for rows in groups.values() for group in rows for p in group["params"]]
    assert len(every) == len(set(every)) == len(list(made.parameters()))
    optimizer = make_optimizer(
        lambda g: torch.optim.AdamW(g, lr=0.5, weight_decay=0.25), made, layers
    )
    for group in optimizer.param_groups:
        kept = all(
            p.ndim > 1 and p is not made.text_encoder.embedding.weight for p in group["params"]
        )
        assert group["weight_decay"] == (0.25 if kept else 0)
        assert group["lr"] == (5.0 if set(group["params"]) <= head else 0.5)


def test_where_weight_decay_belongs() -> None:
    made = model(
        timm("vit_tiny_patch16_224", **VIT), Transformer(WORDS, dim=6, num_layers=1, num_heads=2)
    )
    image, text = "image_encoder.model.", "text_encoder.model."
    decayed = {name for name, _ in made.named_parameters() if is_decayed(made, name)}
    assert {
        image + "patch_embed.proj.weight",
        image + "blocks.0.attn.qkv.weight",
        text + "encoder.layer.0.output.dense.weight",
        "head.layers.0.weight",
    } <= decayed
    assert not decayed & {
        image + "cls_token",
        image + "pos_embed",
        image + "blocks.0.norm1.weight",
        image + "blocks.0.attn.qkv.bias",
        text + "embeddings.word_embeddings.weight",
        text + "embeddings.position_embeddings.weight",
        text + "embeddings.LayerNorm.weight",
    }


def test_a_frozen_encoder_s_positions_are_trained_without_its_dropout() -> None:
    made = model()
    made.image_encoder = ConvNet(8, (3, 5, 7), dropout=0.5)
    tuning = Tuning(image_encoder=PartTuning(frozen=True))
    prepare(made, tuning)
    names = [n for layer in plan(made, tuning) for n in layer.names if "image_encoder" in n]
    assert names
    assert all(name.startswith(f"image_encoder.{PREFIX}") for name in names)
    made.train()
    set_modes(made, {parameter for parameter in made.parameters() if parameter.requires_grad})
    assert not made.image_encoder.dropout.training
    assert made.fusion.training


def test_a_frozen_fusion_s_image_numbers_are_trained_without_its_dropout() -> None:
    made = model()
    made.fusion = BAN(made.image_encoder.dim, 11, out_dim=6, dropout=0.5)
    made.fusion.take_images(2)
    tuning = Tuning(fusion=PartTuning(frozen=True))
    prepare(made, tuning)
    names = [n for layer in plan(made, tuning) for n in layer.names if n.startswith("fusion.")]
    assert names == ["fusion.image_numbers"]
    made.train()
    set_modes(made, {parameter for parameter in made.parameters() if parameter.requires_grad})
    assert not made.fusion.dropout.training
    assert made.image_encoder.training


def test_lora_leaves_positions_trained() -> None:
    made = model()
    prepare(made, Tuning(image_encoder=PartTuning(lora=LoRA(rank=2))))
    trained = {n for n, p in made.image_encoder.named_parameters() if p.requires_grad}
    assert {n for n in trained if "lora" not in n} == {
        f"{PREFIX}{layer}.{kind}" for layer in ("inner", "outer") for kind in ("weight", "bias")
    }


def test_only_what_is_trained_is_in_training_mode() -> None:
    encoder = ConvNet(8, (3, 5), dropout=0.5)
    encoder.train()
    set_modes(encoder, set(encoder.stages[1].parameters()))
    assert not encoder.stages[0].training
    assert not encoder.stages[0][2].training, "its batch normalisation"
    assert encoder.stages[1][2].training
    assert encoder.dropout.training, "lies in the encoder, of which something is trained"
    set_modes(encoder, set())
    assert not encoder.dropout.training


def two() -> SideBySide:
    return SideBySide([ConvNet(8, (3, 5, 7)), ConvNet(16, (4, 6))], along="tokens", dim=9)


def test_each_encoder_of_several_has_its_own_tuning() -> None:
    made = model(two())
    tuning = Tuning(encoders=[PartTuning(frozen=True), PartTuning(from_epoch=2, layer_decay=0.5)])
    prepare(made, tuning)
    layers = [layer for layer in plan(made, tuning) if layer.part == "image_encoder"]
    assert [layer.start for layer in layers] == [2, 2, 0]
    assert [layer.lr_scale for layer in layers] == [0.5, 1, 1]
    second, rest = {*chain(*(each.names for each in layers[:2]))}, {*layers[2].names}
    assert second == {n for n, _ in made.named_parameters() if ".views.1." in n}
    assert {name.split(".")[1] for name in rest} == {"positions", "projections", "marks"}


def test_a_frozen_encoder_of_several_is_in_evaluation_mode() -> None:
    made = model(two())
    tuning = Tuning(encoders=[PartTuning(frozen=True), PartTuning(keep_statistics=True)])
    prepare(made, tuning)
    set_modes(made.train(), {p for p in made.parameters() if p.requires_grad})
    keep_statistics(made, tuning)
    first, second = made.image_encoder.encoders().values()
    assert not any(module.training for module in first.modules())
    normal = [m.training for m in second.modules() if isinstance(m, nn.BatchNorm2d)]
    assert second.training
    assert not any(normal)


MISTAKES = {
    "encoders: got tuning of each encoder beside image_encoder": lambda: Tuning(
        image_encoder=PartTuning(lr_scale=0.1), encoders=[PartTuning()] * 2
    ),
    "encoders: got lora for one": lambda: Tuning(encoders=[PartTuning(lora=LoRA())]),
    "encoders: got 1 for SideBySide, which has 2": lambda: prepare(
        model(two()), Tuning(encoders=[PartTuning()])
    ),
    "encoders: got 2 for ConvNet, which has 0": lambda: prepare(
        model(), Tuning(encoders=[PartTuning()] * 2)
    ),
    "encoders.1.from_epoch: got 3 with trainer.max_epochs=3": lambda: check_plan(
        [Layer("fusion", ["a"], 0, 1.0)],
        Tuning(encoders=[PartTuning(), PartTuning(from_epoch=3)]),
        3,
    ),
    "layer_decay: got 1.5": lambda: PartTuning(layer_decay=1.5),
    "layer_decay: got 0": lambda: PartTuning(layer_decay=0),
    "lr_scale: got 0": lambda: PartTuning(lr_scale=0),
    "from_epoch: got -1": lambda: PartTuning(from_epoch=-1),
    "layers_per_epoch: got 0": lambda: PartTuning(layers_per_epoch=0),
    "frozen: got true, with lr_scale of the same part": lambda: PartTuning(frozen=True, lr_scale=2),
    "lora: got rank=0": lambda: LoRA(rank=0),
    "init_parts: got parts without init_from": lambda: Tuning(init_parts=["head"]),
    r"init_parts: got \['haed'\]; expected some of image_encoder": lambda: Tuning(
        init_from="x", init_parts=["haed"]
    ),
    "tuning.fusion: got layer_decay .*Pooled has no stack of layers": lambda: plan(
        model(), Tuning(fusion=PartTuning(layer_decay=0.5))
    ),
    "tuning.text_encoder.lora: Recurrent has .*it has none": lambda: prepare(
        model(text=Recurrent(WORDS, dim=6)), Tuning(text_encoder=PartTuning(lora=LoRA()))
    ),
    "tuning.text_encoder.lora: BagOfWords has .*it has mlp.0, mlp.2": lambda: prepare(
        model(), Tuning(text_encoder=PartTuning(lora=LoRA()))
    ),
    "tuning.head.keep_statistics: got true, but Classification has no": lambda: prepare(
        model(), Tuning(head=PartTuning(keep_statistics=True))
    ),
    "every part is frozen": lambda: check_plan([], Tuning(), 3),
    "nothing would be trained before epoch 2": lambda: check_plan(
        [Layer("head", ["a"], 2, 1.0)], Tuning(), 3
    ),
    "head.from_epoch: got 3 with trainer.max_epochs=3": lambda: check_plan(
        [Layer("fusion", ["a"], 0, 1.0)], Tuning(head=PartTuning(from_epoch=3)), 3
    ),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_named(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MISTAKES[message]()


def test_epochs_that_nobody_counts_are_not_checked() -> None:
    layers = [Layer("fusion", ["a"], 0, 1.0)]
    check_plan(layers, Tuning(head=PartTuning(from_epoch=3)), -1)
    check_plan(layers, Tuning(head=PartTuning(from_epoch=3)), 4)


def test_film_has_statistics_to_keep() -> None:
    made = model()
    made.fusion = FiLM(made.image_encoder.dim, made.text_encoder.dim)
    made.train()
    keep_statistics(made, Tuning(fusion=PartTuning(keep_statistics=True)))
    assert not any(part.training for part in made.fusion.modules() if "Norm" in type(part).__name__)
    assert made.fusion.training
