"""Every method explains models of every kind; padding and batches change nothing."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from vlm.core.features import Features
from vlm.explain import METHODS, GradCAM, IntegratedGradients, Occlusion, explain, methods_for
from vlm.explain.explainer import explain_case, make_case
from vlm.fusion import (
    BAN,
    DFAF,
    LXMERT,
    MCAN,
    MLB,
    CrossAttention,
    FiLM,
    Fusion,
    GatedCrossAttention,
    GlimpseAttention,
    MergedAttention,
    MuRel,
    ParallelCoAttention,
    Pooled,
    Product,
    Projector,
    QFormer,
    SingleStream,
    StackedAttention,
    trace_attention,
)
from vlm.heads import AnswerHead, Classification, Generation, MultipleChoice, TransformerDecoder
from vlm.image import (
    ConvNet,
    ImageEncoder,
    NaFlexEncoder,
    RegionFeatures,
    SideBySide,
    Tiles,
    TimmEncoder,
)
from vlm.inference import VQA
from vlm.model import VQAModel
from vlm.text import BagOfWords, Recurrent, TextEncoder, Transformer

WORDS = ["what", "colour", "is", "the", "circle"]
QUESTION = "what colour is the circle"
ANSWERS = ["red", "blue", "yes"]
FUSIONS = {
    "pooled": lambda i, t: Pooled(i, t, partial(Product, out_dim=17)),
    "glimpse": lambda i, t: GlimpseAttention(
        i, t, partial(MLB, hidden_dim=13), partial(MLB, out_dim=17)
    ),
    "stacked": lambda i, t: StackedAttention(i, t, out_dim=17),
    "cross": lambda i, t: CrossAttention(
        i, t, out_dim=6, num_layers=2, num_heads=3, feedforward_dim=17
    ),
    "lxmert": lambda i, t: LXMERT(i, t, out_dim=6, num_heads=3, feedforward_dim=17),
    "merged": lambda i, t: MergedAttention(i, t, out_dim=6, num_heads=3, feedforward_dim=17),
    "single": lambda i, t: SingleStream(i, t, out_dim=6, num_heads=3, feedforward_dim=17),
    "mcan": lambda i, t: MCAN(i, t, out_dim=17, dim=6, num_heads=3),
    "ban": lambda i, t: BAN(i, t, out_dim=17, glimpses=2),
    "dfaf": lambda i, t: DFAF(i, t, out_dim=6, num_heads=3),
    "film": lambda i, t: FiLM(i, t, out_dim=17, num_layers=2),
    "murel": lambda i, t: MuRel(i, t, 7, 2, partial(MLB, hidden_dim=5), partial(MLB, hidden_dim=5)),
    "co_attention": lambda i, t: ParallelCoAttention(i, t, out_dim=17),
    "qformer": lambda i, t: QFormer(i, t, out_dim=6, queries=3, num_heads=3),
    "perceiver": lambda i, t: GatedCrossAttention(i, t, out_dim=6, latents=3, num_heads=3),
    "projector": lambda i, t: Projector(i, t, out_dim=17),
}
IMAGES = {
    "cnn": lambda: ConvNet(16, widths=(5, 7)),
    "vit": lambda: TimmEncoder(
        "vit_tiny_patch16_224",
        pretrained=False,
        image_size=32,
        model_args={"patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 3},
    ),
    "tiles": lambda: Tiles(ConvNet(8, widths=(5, 7)), tiles=3),
    "naflex": lambda: NaFlexEncoder(
        tokens=9, model_args={"patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 3}
    ),
    "two": lambda: SideBySide([ConvNet(16, (5, 7)), ConvNet(8, (5, 7))], along="tokens"),
}
TEXTS = {
    "bag": lambda: BagOfWords(WORDS, dim=11, hidden_dim=7),
    "gru": lambda: Recurrent(WORDS, dim=11, embedding_dim=7),
    "bert": lambda: Transformer(WORDS, dim=10, num_layers=1, num_heads=2, feedforward_dim=7),
}
HEADS = {
    "classes": lambda f, t: Classification(f.out_dim, ANSWERS, hidden_dims=()),
    "choices": lambda f, t: MultipleChoice(f.out_dim, t.dim),
    "text": lambda f, t: Generation(
        f.out_dim,
        partial(TransformerDecoder, dim=6, num_heads=3, feedforward_dim=7),
    ),
}


# Patches attend to each other, or learned queries to patches, before any word is read.
MAY_BE_ZERO = {
    ("MuRel", "attention", "both"),
    ("GatedCrossAttention", "attention", "both"),
}


def made(fusion: str, image: str = "cnn", text: str = "bag", head: str = "classes") -> VQA:
    encoders: tuple[ImageEncoder, TextEncoder] = IMAGES[image](), TEXTS[text]()
    joint: Fusion = FUSIONS[fusion](encoders[0].dim, encoders[1].dim)
    answers: AnswerHead = HEADS[head](joint, encoders[1])
    vqa = VQA(VQAModel(*encoders, joint, answers))
    for parameter in vqa.model.parameters():  # closed gates and zero biases would hide the flow
        torch.nn.init.normal_(parameter, std=0.3)
    return vqa


def photo(width: int = 41, height: int = 29) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def check(vqa: VQA, name: str, **given: object) -> None:
    method = METHODS[name]()
    found = explain(vqa, photo(), QUESTION, method, **given)
    cells = found.patches.shape[0]
    assert found.word_relevance.shape == (5,)
    assert found.word_patch.shape == (5, cells)
    assert found.boxes.shape == (cells, 4)
    kinds = {"patches": found.patches, "words": found.word_relevance, "both": found.word_patch}
    for kind, values in kinds.items():
        assert np.isfinite(values).all()
        case = (type(vqa.model.fusion).__name__, name, kind)
        assert values.any() or case in MAY_BE_ZERO, case
    x0, y0, x1, y1 = found.boxes.T
    box = vqa.model.image_encoder.transform.box((41, 29))
    np.testing.assert_allclose((x0.min(), y0.min(), x1.max(), y1.max()), box, rtol=1e-5)
    area = (box[2] - box[0]) * (box[3] - box[1])
    np.testing.assert_allclose(((x1 - x0) * (y1 - y0)).sum(), area, rtol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_method_that_fits(fusion: str) -> None:
    vqa = made(fusion)
    names = methods_for(vqa.model)
    assert names[:3] == ["occlusion", "integrated_gradients", "grad_cam"]
    assert ("attention" in names) == (fusion not in ("pooled", "film", "projector"))
    assert ("attention_gradient" in names) == ("attention" in names and fusion != "murel")
    layers = ("cross", "lxmert", "merged", "single", "mcan", "dfaf")
    assert ("rollout" in names) == (fusion in layers)
    for name in names:
        check(vqa, name)


# Pairs of the other encoders, each with a different kind of fusion.
PARTS = [
    ("single", "vit", "bert", "choices"),
    ("cross", "vit", "gru", "text"),
    ("pooled", "cnn", "bert", "text"),
    ("glimpse", "cnn", "gru", "choices"),
    ("pooled", "vit", "bag", "choices"),
    ("glimpse", "vit", "bert", "classes"),
    ("glimpse", "tiles", "bag", "classes"),
    ("cross", "naflex", "bag", "classes"),
    ("single", "two", "bag", "classes"),
]


@pytest.mark.parametrize("parts", PARTS, ids="-".join)
def test_every_encoder_and_head(parts: tuple[str, str, str, str]) -> None:
    vqa = made(*parts)
    given = {"choices": ["red", "blue"]} if parts[3] == "choices" else {}
    for name in methods_for(vqa.model):
        check(vqa, name, answer="red", **given)


@pytest.mark.parametrize("image", ["tiles", "naflex", "two"])
def test_tokens_that_are_no_cells_are_divided_over_the_cells_of_their_boxes(image: str) -> None:
    case = make_case(made("pooled", image).model, photo(), QUESTION)
    encoder = case.model.image_encoder
    found = encoder(case.images)
    ones = found.mask[0].float()
    rows, columns = encoder.grid
    on_cells = case.on_cells(ones).view(rows, columns)
    torch.testing.assert_close(on_cells.sum(), ones.sum())
    width, height = (41, 29) if image == "two" else encoder.transform.fitted((41, 29))
    full = (41, 29) if image == "two" else encoder.transform.size[::-1]
    y = torch.arange(rows) >= height / full[1] * rows
    x = torch.arange(columns) >= width / full[0] * columns
    assert not on_cells[y].any()
    assert not on_cells[:, x].any()
    assert (on_cells[~y][:, ~x] > 0).all()


def test_region_features(tmp_path) -> None:
    np.savez(
        tmp_path / "regions.npz",
        x=np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32),
        bbox=np.array([[0, 0, 10, 20], [10, 0, 40, 20], [0, 20, 40, 30]], np.float32),
        image_w=40,
        image_h=30,
    )
    encoder, text = RegionFeatures(7), TEXTS["bag"]()
    for fusion in ("glimpse", "cross"):
        joint = FUSIONS[fusion](7, 11)
        vqa = VQA(VQAModel(encoder, text, joint, Classification(joint.out_dim, ANSWERS)))
        for name in methods_for(vqa.model):
            found = explain(vqa, str(tmp_path / "regions.npz"), QUESTION, METHODS[name]())
            assert found.patches.shape == (3,)
            assert found.patches.any()
            assert found.grid is None
            assert found.image_size == (1, 1)
            np.testing.assert_allclose(found.boxes[1], [0.25, 0, 1, 2 / 3], rtol=1e-6)


@pytest.mark.parametrize("fusion", ["pooled", "glimpse", "cross", "single"])
def test_padding_and_batches_change_nothing(fusion: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluating variants one by one or in one padded batch gives the same explanation."""
    vqa = made(fusion, text="gru")
    case = make_case(vqa.model, photo(), QUESTION)
    for method in (Occlusion(), GradCAM(), IntegratedGradients(), METHODS["attention"]()):
        if not method.fits(vqa.model):
            continue
        kept = case.without_each_word()
        together = method.relevance(case, kept).patches
        if len(together) == 1:  # a method with a map for each word
            continue
        for row, variant in enumerate(kept):
            if not row:
                alone = method.relevance(case, variant[None]).patches[0]
                torch.testing.assert_close(together[row], alone, rtol=1e-4, atol=1e-5)
                continue
            shorter = " ".join(w for w, k in zip(case.tokens, variant, strict=True) if k)
            other = make_case(vqa.model, photo(), shorter, case.answer)
            alone = method.relevance(other, other.without_each_word()[:1]).patches[0]
            torch.testing.assert_close(together[row], alone, rtol=1e-4, atol=1e-5)
    before = explain_case(case, Occlusion())
    monkeypatch.setattr("vlm.explain.case.IMAGES_AT_ONCE", 3)
    monkeypatch.setattr("vlm.explain.case.PAIRS_AT_ONCE", 7)
    after = explain_case(case, Occlusion())
    np.testing.assert_allclose(before.word_patch, after.word_patch, atol=1e-5)


def test_padding_of_a_transform_has_no_relevance() -> None:
    """The empty cells above and below a wide photo in a square input have no relevance."""
    encoder = TimmEncoder("resnet10t", pretrained=False, image_size=96, fit="pad")
    text = TEXTS["bag"]()
    fusion = FUSIONS["glimpse"](encoder.dim, text.dim)
    vqa = VQA(VQAModel(encoder, text, fusion, Classification(fusion.out_dim, ANSWERS)))
    for name in methods_for(vqa.model):
        found = explain(vqa, photo(90, 30), QUESTION, METHODS[name](), per_word=False)
        outside = (found.boxes[:, 3] <= 0) | (found.boxes[:, 1] >= 30)
        assert outside.any()
        assert np.abs(found.patches[outside]).max() < 1e-7, name
        assert found.patches[~outside].any(), name


def test_gradients_need_no_trainable_parameter() -> None:
    vqa = made("single")
    before = explain(vqa, photo(), QUESTION, METHODS["attention_gradient"]())
    vqa.model.requires_grad_(False)
    for name in methods_for(vqa.model):
        check(vqa, name)
    after = explain(vqa, photo(), QUESTION, METHODS["attention_gradient"]())
    np.testing.assert_allclose(before.patches, after.patches, rtol=1e-4)


def test_rollout_through_layers_with_a_class_token() -> None:
    """Rollout is the product of both layers' (I + A) / 2, read at the class token's row."""
    vqa = made("single")
    case = make_case(vqa.model, photo(), QUESTION)
    found = explain_case(case, METHODS["rollout"]())
    with torch.inference_mode(), trace_attention(vqa.model.fusion) as traced:
        case.evidence()
    assert len(traced) == 2
    first, second = ((torch.eye(22) + weights[0].mean(0)) / 2 for _, weights in traced)
    wanted = second @ first  # class token, 5 words, 16 patches
    torch.testing.assert_close(torch.from_numpy(found.patches), wanted[0, 6:])
    torch.testing.assert_close(torch.from_numpy(found.word_relevance), wanted[0, 1:6])
    each = wanted[1:6, 6:] + wanted[6:, 1:6].T
    torch.testing.assert_close(torch.from_numpy(found.word_patch), each)


def test_as_many_words_as_patches() -> None:
    """Self-attention of words and of patches is distinguished even when both have four tokens."""
    vqa = made("lxmert", image="cnn")
    vqa.model.image_encoder = ConvNet(8, widths=(5, 7))  # 2 x 2 patches
    question = "what colour is the"
    case = make_case(vqa.model, photo(), question)
    found = explain_case(case, METHODS["rollout"]())
    assert found.word_patch.shape == (4, 4)
    assert np.isfinite(found.word_patch).all()
    assert isinstance(case.model.image_encoder(case.images), Features)


def test_an_answer_that_never_ended_is_not_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    vqa = made("pooled", head="text")
    monkeypatch.setattr(Generation, "decode", lambda *_: [[("ooo…", 0.5)]])
    with pytest.raises(ValueError, match=r"the model's own never ended \('ooo…'\)"):
        explain(vqa, photo(), QUESTION)
    assert explain(vqa, photo(), QUESTION, answer="o").answer == "o"
