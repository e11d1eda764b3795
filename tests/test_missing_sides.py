"""Questions without an image, and images without a question."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

import vlm
from vlm.cli.main import main
from vlm.core.batch import Batch
from vlm.export import export
from vlm.export.load import load
from vlm.fusion import BAN, CrossAttention, Fusion, GlimpseAttention, Pooled
from vlm.heads import AuxiliaryClassification, Classification, MultiTask
from vlm.heads.losses import cross_entropy

WORDS = ["what", "color", "is", "it"]
ANSWERS = ["red", "blue", "green"]
ASKED = ["what color is it", "is it", "what is it", "what color"]


def model(fusion: type[Fusion] = CrossAttention, auxiliary: bool = False) -> vlm.VQAModel:
    torch.manual_seed(2)
    image, text = vlm.image.ConvNet(image_size=32), vlm.text.Recurrent(WORDS)
    made = fusion(image.dim, text.dim)
    head = Classification(made.out_dim, ANSWERS, loss="ce")
    if auxiliary:
        head = AuxiliaryClassification(
            made.out_dim, image.dim, text.dim, ANSWERS, loss="ce", auxiliary=0.5
        )
    return vlm.VQAModel(image, text, made, head).eval()


def pixels(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)


def batch(made: vlm.VQAModel) -> Batch:
    answers = [["red"], ["blue"], ["green"], ["red"]]
    return made.processor.batch(pixels(2), [0, 1, 1, 0], ASKED, answers)


@pytest.mark.parametrize("fusion", [Pooled, CrossAttention, GlimpseAttention, BAN])
def test_a_missing_side_is_an_empty_mask_and_leaves_the_others_alone(fusion: type[Fusion]) -> None:
    made = model(fusion)
    full = made(batch(made))
    gone = torch.tensor([False, True, False, True])
    image = made.image_encoder(pixels(2)).take(torch.tensor([0, 1, 1, 0]))
    text = made.read(batch(made))
    for name, sides in (
        ("no_image", (image.without(gone), text)),
        ("no_question", (image, text.without(gone))),
    ):
        output = made(batch(made)._replace(**{name: gone}))
        expected = made.head(made.fusion(*sides), batch(made))
        torch.testing.assert_close(output, expected)
        torch.testing.assert_close(output[~gone], full[~gone])
        assert not torch.allclose(output[gone], full[gone])
    # Nothing of what is missing can be seen in the answer.
    other = batch(made)._replace(images=255 - pixels(2), no_image=torch.ones(4, dtype=torch.bool))
    torch.testing.assert_close(
        made(other), made(other._replace(images=pixels(2))), rtol=0, atol=1e-6
    )


def test_each_image_is_still_encoded_once() -> None:
    made = model()
    seen: list[int] = []
    made.image_encoder.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    made(batch(made)._replace(no_image=torch.tensor([True, True, False, True])))
    assert seen == [2]


def test_features_that_are_prepared_cannot_be_missing() -> None:
    made = model()
    kept = made.fusion.keep(made.image_encoder(pixels(2)))
    gone = batch(made)._replace(no_image=torch.tensor([True, False, False, False]))
    with pytest.raises(ValueError, match="no_image: got questions without an image"):
        made(gone, kept)


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "photo.png"
    Image.new("RGB", (40, 40), (200, 30, 40)).save(path)
    return str(path)


def test_an_answer_says_which_side_was_missing(photo: str) -> None:
    vqa = vlm.VQA(model())
    one, two, three = vqa.answer([None, photo, photo], [ASKED[0], None, ASKED[0]])
    assert one.warnings == (
        "No image was given: the answer is from the question alone, and the model never learned to "
        "do without an image.",
    )
    assert two.warnings == (
        "No question was given: the answer is from the image alone, and the model never learned to "
        "do without a question.",
    )
    assert three.warnings == ()
    assert not one.is_guess
    assert not two.is_guess
    for batched, alone in (
        (one, vqa.answer(None, ASKED[0])),
        (two, vqa.answer(photo, None)),
        (two, vqa.answer(vqa.see(photo), None)),
        (three, vqa.answer(photo, ASKED[0])),
    ):
        assert dict(batched.top) == pytest.approx(dict(alone.top), abs=1e-5)
    assert one.top != three.top != two.top


def test_a_model_that_learned_without_says_only_what_is_missing(photo: str) -> None:
    about = {"training": {"data.augment": {"no_image": 0.2, "no_question": 0.0}}}
    vqa = vlm.VQA(model(), about)
    assert vqa.answer(None, ASKED[0]).warnings == (
        "No image was given: the answer is from the question alone.",
    )
    assert "never learned" in vqa.answer(photo, None).warnings[0]


def test_both_sides_cannot_be_missing(photo: str) -> None:
    vqa = vlm.VQA(model())
    with pytest.raises(ValueError, match="image and question 1: got neither"):
        vqa.answer(None, None)
    with pytest.raises(ValueError, match="image and question 2: got neither"):
        vqa.answer([photo, None], ["is it", None])
    with pytest.raises(TypeError):
        vqa.see(None)  # type: ignore[call-overload]


def test_regions_may_be_missing_too() -> None:
    image, text = vlm.image.RegionFeatures(dim=8), vlm.text.Recurrent(WORDS)
    fusion = GlimpseAttention(image.dim, text.dim)
    made = vlm.VQAModel(image, text, fusion, Classification(fusion.out_dim, ANSWERS))
    assert vlm.VQA(made).answer(None, "what is it").warnings[0].startswith("No image was given")


@pytest.mark.slow
def test_an_export_needs_both(tmp_path: Path, photo: str) -> None:
    exported = load(export(vlm.VQA(model()), tmp_path / "export", graphs="torch"), trust=True)
    for image, question, side in ((None, ASKED[0], "image"), (photo, None, "question")):
        with pytest.raises(ValueError, match=f"{side} 1: got None, and this model needs both"):
            exported.answer(image, question)


def test_the_command_asks_with_a_dash(
    tmp_path: Path, photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(vlm.VQA(model()).save(tmp_path / "model"))
    main(["ask", folder, "-", ASKED[0]])
    assert "warning: No image was given" in capsys.readouterr().err
    main(["ask", folder, photo, "-"])
    assert "warning: No question was given" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="got neither"):
        main(["ask", folder, "-", "-"])


def test_a_question_may_be_longer_than_the_name_of_a_file(
    tmp_path: Path, photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(vlm.VQA(model()).save(tmp_path / "model"))
    main(["ask", folder, photo, f"{ASKED[0]} {'really' * 60}"])
    assert "%" in capsys.readouterr().out


def test_auxiliary_classifiers_add_the_mean_of_their_losses() -> None:
    made = model(auxiliary=True)
    head = made.head
    assert isinstance(head, AuxiliaryClassification)
    given = batch(made)
    joint = made(given)
    assert joint.shape == (4, 3)
    head.train()
    output = made(given)
    image = made.image_encoder(pixels(2)).take(torch.tensor([0, 1, 1, 0])).pooled
    torch.testing.assert_close(output.image, head.of_image(image))
    torch.testing.assert_close(output.question, head.of_question(made.read(given).pooled))
    terms = [cross_entropy(each, given.targets) for each in (joint, *output[1:])]
    expected = (terms[0] + 0.25 * terms[1] + 0.25 * terms[2]).sum() / 4
    torch.testing.assert_close(head.loss(output, given), expected)
    gone = torch.tensor([True, False, False, False])
    without = given._replace(no_image=gone)
    output = made(without)
    terms = [cross_entropy(each, given.targets) for each in output]
    terms[1] = terms[1].masked_fill(gone, 0)
    expected = (terms[0] + 0.25 * terms[1] + 0.25 * terms[2]).sum() / 4
    torch.testing.assert_close(head.loss(output, without), expected)


def test_auxiliary_classifiers_work_among_several_heads() -> None:
    made = model()
    heads = {"answer": Classification, "sides": AuxiliaryClassification}
    dims = {"image_dim": made.image_encoder.dim, "text_dim": made.text_encoder.dim}
    head = MultiTask(made.fusion.out_dim, heads, answers=ANSWERS, **dims)
    made = vlm.VQAModel(made.image_encoder, made.text_encoder, made.fusion, head).train()
    loss = head.loss(made(batch(made)), batch(made))
    loss.backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_an_auxiliary_width_that_does_not_fit_is_refused() -> None:
    made = model()
    head = AuxiliaryClassification(made.fusion.out_dim, 7, made.text_encoder.dim, ANSWERS)
    with pytest.raises(ValueError, match=r"head.image_dim: .* width 7"):
        vlm.VQAModel(made.image_encoder, made.text_encoder, made.fusion, head)
