"""The four parts together: gradients reach everything, and nothing else affects the answers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import product
from pathlib import Path

import pytest
import torch
from conftest import rows_slow
from contract.encoder_parts import WORDS, clip_config, tiny_bert
from contract.test_parts import public
from torch import Tensor, nn
from torch.testing import assert_close

import vlm.fusion
import vlm.image
import vlm.text
from vlm.core.batch import Batch
from vlm.fusion import MLB, ConcatMLP, CrossAttention, Fusion, MuRel, Pooled, Product
from vlm.heads import Classification
from vlm.image import (
    ConvNet,
    ImageEncoder,
    NaFlexEncoder,
    OpenClipImageEncoder,
    PixelEncoder,
    SideBySide,
    StridedConvNet,
    Tiles,
    TimmEncoder,
    TorchvisionEncoder,
)
from vlm.inference import VQA
from vlm.model import VQAModel
from vlm.text import (
    BagOfWords,
    ClipTokenizer,
    HuggingFaceEncoder,
    OpenClipTextEncoder,
    Recurrent,
    TextEncoder,
    Transformer,
)
from vlm.training import VQATask

ANSWERS = ["yes", "no", "red"]
NAFLEX = {"patch_size": 5, "embed_dim": 14, "depth": 2, "num_heads": 2}
VIT = {"img_size": 20, "patch_size": 5, "embed_dim": 14, "depth": 2, "num_heads": 2}

IMAGES: dict[str, Callable[[], ImageEncoder]] = {
    "ConvNet": lambda: ConvNet(image_size=32, widths=(5, 7)),
    "StridedConvNet": lambda: StridedConvNet(image_size=32, widths=(5, 7)),
    "TimmEncoder": lambda: TimmEncoder("vit_tiny_patch16_224", model_args=VIT),
    "TorchvisionEncoder": lambda: TorchvisionEncoder("squeezenet1_1", image_size=48),
    "OpenClipImageEncoder": lambda: OpenClipImageEncoder(config=clip_config(patch_size=16)),
    "SideBySide": lambda: SideBySide([ConvNet(16, (5, 7)), ConvNet(32, (5, 7))]),
    "SideBySide-tokens": lambda: SideBySide(
        [ConvNet(16, (5, 7)), ConvNet(32, (5, 7))], along="tokens"
    ),
    "Tiles": lambda: Tiles(ConvNet(8, (5, 7)), tiles=3),
    "NaFlexEncoder": lambda: NaFlexEncoder(tokens=9, model_args=NAFLEX),
}
TEXTS: dict[str, Callable[[Path], TextEncoder]] = {
    "BagOfWords": lambda _: BagOfWords(WORDS, dim=13, hidden_dim=17),
    "Recurrent-gru": lambda _: Recurrent(WORDS, dim=13, embedding_dim=11),
    "Recurrent-lstm": lambda _: Recurrent(WORDS, 10, "lstm", embedding_dim=11, bidirectional=True),
    "Transformer": lambda _: Transformer(
        WORDS, dim=6, num_layers=2, num_heads=3, feedforward_dim=17
    ),
    "HuggingFaceEncoder": lambda folder: HuggingFaceEncoder(name=str(tiny_bert(folder))),
    "OpenClipTextEncoder": lambda _: OpenClipTextEncoder(
        config=clip_config(), tokenizer=ClipTokenizer(11)
    ),
}
FUSION = "CrossAttention"
SMALL = partial(MLB, hidden_dim=17)
FUSIONS: dict[str, Callable[[int, int], Fusion]] = {
    "Pooled-Product": partial(Pooled, merge=partial(Product, out_dim=19)),
    "Pooled-ConcatMLP": partial(Pooled, merge=partial(ConcatMLP, out_dim=19, hidden_dims=(23,))),
    "CrossAttention": partial(
        CrossAttention, out_dim=10, num_layers=2, num_heads=2, feedforward_dim=17
    ),
    "MuRel": partial(MuRel, out_dim=19, merge=SMALL, pairwise_merge=SMALL),
}
# Fusions added later take part with their defaults.
FUSIONS |= {
    cls.__name__: cls
    for cls in public(vlm.fusion, Fusion)
    if not any(name.startswith(cls.__name__) for name in FUSIONS)
}
# These encoders are paired with every encoder of the other side, but with one fusion only.
LARGER = {
    "SideBySide",
    "SideBySide-tokens",
    "Tiles",
    "NaFlexEncoder",
    "StridedConvNet",
    "TorchvisionEncoder",
    "OpenClipImageEncoder",
    "OpenClipTextEncoder",
}
GRID = [c for c in product(IMAGES, TEXTS, FUSIONS) if LARGER.isdisjoint(c) or c[2] == FUSION]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TextEncoder]:
    """A function that returns a fresh text encoder by name, reading each one's files only once."""
    made = cache(lambda name: TEXTS[name](tmp_path_factory.mktemp(name)))
    return lambda name: copy.deepcopy(made(name))


def build(image: ImageEncoder, words: TextEncoder, fusion: str) -> VQAModel:
    fused = FUSIONS[fusion](image.dim, words.dim)
    head = Classification(fused.out_dim, ANSWERS, hidden_dims=(29,))
    return VQAModel(image, words, fused, head)


QUESTIONS = ["what colour is the circle", "is the circle", "what is", "circle the", "colour"]
GIVEN = [["red"], ["yes"], ["no"], ["mauve"], ["yes", "no", "red"]]
IMAGE_INDEX = [2, 0, 0, 1, 2]


def make_batch(model: VQAModel) -> Batch:
    images = torch.randint(256, (3, *model.image_encoder.transform.shape), dtype=torch.uint8)
    images[:, 3:] = 255
    return model.processor.batch(images, IMAGE_INDEX, QUESTIONS, GIVEN)


def test_every_public_encoder_is_in_the_grid() -> None:
    for package, role, table in (
        (vlm.image, PixelEncoder, IMAGES),  # regions: tests/image/test_regions.py
        (vlm.text, TextEncoder, [*TEXTS, "Prompt"]),  # tests/heads/test_language_model.py
        (vlm.fusion, Fusion, FUSIONS),
    ):
        names = {name.partition("-")[0] for name in table}
        assert {cls.__name__ for cls in public(package, role)} <= names


@pytest.mark.parametrize(("image", "words", "fusion"), rows_slow(GRID, 4))
def test_the_loss_reaches_every_parameter(
    image: str, words: str, fusion: str, text: Callable[[str], TextEncoder]
) -> None:
    model = build(IMAGES[image](), text(words), fusion).train()
    for name, parameter in model.named_parameters():
        if "positions.outer" in name:  # zeros at first
            nn.init.normal_(parameter, std=0.1)
    batch = make_batch(model)
    model.head.loss(model(batch), batch).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            # The bias of a key or a score shifts all logits of a softmax equally.
            alike = "key" in name or ("score" in name and name.endswith("bias"))
            assert parameter.grad.any() or alike, f"{name} has no gradient but zeros"
    embedding = next(m for m in model.text_encoder.modules() if isinstance(m, nn.Embedding))
    assert_words_have_gradients(embedding, batch)
    for first in [m for m in model.image_encoder.modules() if isinstance(m, nn.Conv2d)][:1]:
        assert first.in_channels == 3
        assert (first.weight.grad.abs().sum((0, 2, 3)) > 0).all(), "all three colours"


def assert_words_have_gradients(embedding: nn.Embedding, batch: Batch) -> None:
    """Exactly the words that occur in the batch have gradients."""
    moved = embedding.weight.grad.any(1).nonzero().flatten().tolist()
    assert moved == sorted(set(batch.words[batch.words_mask].tolist()))


@pytest.mark.parametrize(("image", "words", "fusion"), rows_slow(GRID, 4))
def test_padding_batch_and_order_change_no_answer(
    image: str, words: str, fusion: str, text: Callable[[str], TextEncoder]
) -> None:
    model = build(IMAGES[image](), text(words), fusion).eval()
    batch = make_batch(model)
    with torch.no_grad():
        wanted = model(batch)
        assert wanted.shape == (5, 3)
        assert (wanted[1:] - wanted[:-1]).abs().amax(1).min() > 1e-4, "rows must differ"
        junk = torch.randint(1, 5, (5, 3))
        padded = batch._replace(
            words=torch.cat((batch.words.where(batch.words_mask, 3), junk), 1),
            words_mask=torch.cat((batch.words_mask, torch.zeros(5, 3, dtype=torch.bool)), 1),
        )
        require_close(model(padded), wanted)
        order = [3, 1, 4, 0, 2]
        turned = batch._replace(
            images=batch.images[[1, 2, 0]],
            image_index=torch.tensor([2, 0, 1])[batch.image_index[order]],
            words=batch.words[order],
            words_mask=batch.words_mask[order],
        )
        require_close(model(turned), wanted[order])
        for row, question in enumerate(QUESTIONS):
            shown = batch.images[[IMAGE_INDEX[row]]]
            alone = model.processor.batch(shown, [0], [question])
            assert alone.words.shape[1] == batch.words_mask[row].sum(), "nothing is padded"
            require_close(model(alone), wanted[[row]])


@pytest.mark.parametrize("words", TEXTS)
def test_equal_questions_are_encoded_once(words: str, text: Callable[[str], TextEncoder]) -> None:
    model = build(IMAGES["ConvNet"](), text(words), FUSION).eval()
    images = torch.randint(256, (3, 3, *model.image_encoder.transform.size), dtype=torch.uint8)
    asked, index = [QUESTIONS[row] for row in (1, 0, 1, 2, 0)], torch.tensor([1, 0, 1, 2, 0])
    shared = model.processor.batch(images, IMAGE_INDEX, asked, GIVEN)
    assert shared.text_index is not None
    assert shared.text_index.tolist() == [0, 1, 0, 2, 1]
    assert len(shared.words) == len(shared.words_mask) == 3
    apart = model.processor.batch(images, IMAGE_INDEX, QUESTIONS, GIVEN)
    assert apart.text_index is None
    apart = apart._replace(words=apart.words[index], words_mask=apart.words_mask[index])
    gradients = []
    for batch in (shared, apart):
        output = model(batch)
        found = torch.autograd.grad(
            model.head.loss(output, batch), tuple(model.text_encoder.parameters())
        )
        gradients.append((output, *found))
    for got, wanted in zip(*gradients, strict=True):
        require_close(got, wanted)


def require_close(got: Tensor, wanted: Tensor) -> None:
    assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("image", "words", "fusion"), GRID[:: len(FUSIONS) + 1])
def test_a_model_is_rebuilt_from_its_configuration(
    image: str, words: str, fusion: str, text: Callable[[str], TextEncoder]
) -> None:
    model = build(IMAGES[image](), text(words), fusion).eval()
    again = VQAModel.from_config(json.loads(json.dumps(model.config))).eval()
    batch = make_batch(model)
    assert not torch.equal(again(batch), model(batch)), "other random weights until they are loaded"
    again.load_state_dict(model.state_dict())
    assert_close(again(batch), model(batch), rtol=0, atol=0)
    assert again.config == model.config


def simple() -> VQAModel:
    return build(IMAGES["ConvNet"](), BagOfWords(WORDS, dim=13), "Pooled-Product")


def test_each_image_is_encoded_once() -> None:
    model = simple()
    rows: list[int] = []
    model.image_encoder.register_forward_hook(lambda m, given, out: rows.append(len(out.tokens)))
    model(make_batch(model))
    assert rows == [3]


def test_a_question_sees_its_own_image() -> None:
    model = simple().eval()
    batch = make_batch(model)
    with torch.no_grad():
        before = model(batch)
        images = batch.images.clone()
        images[0] = 255 - images[0]
        changed = (model(batch._replace(images=images)) - before).abs().amax(1) > 1e-6
    assert changed.tolist() == [index == 0 for index in IMAGE_INDEX]


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        (
            {"image": 11},
            "fusion.image_dim: Pooled was built for width 11, and ConvNet gives 12. Build it",
        ),
        (
            {"text": 7},
            "fusion.text_dim: Pooled was built for width 7, and BagOfWords gives 13. Build it",
        ),
        (
            {"head": 23},
            "head.in_dim: Classification was built for width 23, and Pooled gives 19. Build it",
        ),
    ],
)
def test_widths_that_differ_name_both_parts(widths: dict[str, int], message: str) -> None:
    given = {"image": 12, "text": 13, "head": 19} | widths
    with pytest.raises(ValueError, match=message):
        VQAModel(
            IMAGES["ConvNet"](),
            BagOfWords(WORDS, dim=13),
            FUSIONS["Pooled-Product"](given["image"], given["text"]),
            Classification(given["head"], ANSWERS),
        )


def test_reprs_are_one_line() -> None:
    image, text = ConvNet(image_size=32, widths=(5, 7)), BagOfWords(WORDS, dim=13)
    fusion = Pooled(image.dim, text.dim)
    head = Classification(fusion.out_dim, ANSWERS)
    model = VQAModel(image, text, fusion, head)
    sizes = {part: sum(p.numel() for p in part.parameters()) / 1e6 for part in (model, image)}
    frozen = copy.deepcopy(model)
    frozen.image_encoder.requires_grad_(False)
    parts = "ConvNet, BagOfWords, Pooled, Classification"
    whole, trained = f"{sizes[model]:.3g}", f"{sizes[model] - sizes[image]:.3g}"
    assert repr(model) == f"VQAModel({parts}; {whole} M parameters, {whole} M trained)"
    assert repr(frozen) == f"VQAModel({parts}; {whole} M parameters, {trained} M trained)"
    assert repr(VQA(frozen)) == f"VQA({frozen!r}, on cpu)"
    assert repr(VQATask(image, text, fusion, head)) == f"VQATask({model!r})"
