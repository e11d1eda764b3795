"""Every method finds the one patch and the one word that the answer depends on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from known_model import (
    COLUMNS,
    PATCH,
    QUESTION,
    ROWS,
    SIDE,
    WORD,
    LookingFusion,
    TimesFusion,
    known_image,
    known_vqa,
)

from vlm.explain import METHODS, IntegratedGradients, Occlusion, explain, methods_for
from vlm.explain.explainer import explain_case, make_case
from vlm.fusion import Fusion

FUSIONS = [TimesFusion, LookingFusion]
CASES = [(fusion, name) for fusion in FUSIONS for name in methods_for(known_vqa(fusion()).model)]


def at(boxes: np.ndarray, scale: int) -> np.ndarray:
    """The index of the patch that contains each box."""
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2 // (SIDE * scale)
    return (middle[:, 1] * COLUMNS + middle[:, 0]).astype(int)


def test_which_methods_fit() -> None:
    without = methods_for(known_vqa(TimesFusion()).model)
    assert without == ["occlusion", "integrated_gradients", "grad_cam"]
    assert methods_for(known_vqa(LookingFusion()).model) == list(METHODS)


@pytest.mark.parametrize(("fusion", "name"), CASES)
def test_the_peaks(fusion: type[Fusion], name: str) -> None:
    found = explain(known_vqa(fusion()), known_image(3), QUESTION, METHODS[name]())
    assert found.answer == "yes"
    assert found.words == ["what", "colour", "is", "the", "circle"]
    assert [QUESTION[start:end] for start, end in found.spans] == QUESTION[:-1].split()
    assert at(found.boxes, 3)[found.patches.argmax()] == PATCH
    x, y = found.peak
    assert SIDE * 3 * (PATCH % COLUMNS) < x < SIDE * 3 * (PATCH % COLUMNS + 1)
    assert SIDE * 3 * (PATCH // COLUMNS) < y < SIDE * 3 * (PATCH // COLUMNS + 1)
    # With a single bright patch, all other cells and words score zero or far lower.
    assert found.word_relevance.argmax() == WORD
    word, cell = np.unravel_index(found.word_patch.argmax(), found.word_patch.shape)
    assert (word, at(found.boxes, 3)[cell]) == (WORD, PATCH)
    assert found.words_at(x, y).argmax() == WORD
    assert found.words_at(-1, y) is None
    assert json.loads(json.dumps(found.as_dict()))["patches"] == found.patches.tolist()


def test_occlusion_by_hand() -> None:
    """Occluding the patch, the word or both loses the product 1 x 1, and loses it only once."""
    found = explain(known_vqa(TimesFusion()), known_image(), QUESTION, Occlusion())
    wanted = np.zeros(ROWS * COLUMNS, np.float32)
    wanted[PATCH] = 1
    assert found.evidence == 1
    np.testing.assert_allclose(found.patches, wanted, atol=1e-6)
    np.testing.assert_allclose(found.word_relevance, np.eye(5)[WORD], atol=1e-6)
    np.testing.assert_allclose(found.word_patch, np.eye(5)[WORD][:, None] * wanted, atol=1e-6)
    assert found.grid == (ROWS, COLUMNS)
    np.testing.assert_allclose(found.boxes[PATCH], [21, 7, 28, 14])


def test_integrated_gradients_sum_to_what_the_answer_owes() -> None:
    """Patch and word each get half: the integral of the gradient of xy from 0 to 1."""
    found = explain(known_vqa(TimesFusion()), known_image(), QUESTION, IntegratedGradients())
    assert found.patches.sum() == pytest.approx(0.5, abs=1e-4)
    assert found.word_relevance.sum() == pytest.approx(0.5, abs=1e-4)
    assert found.grid == (4 * ROWS, 4 * COLUMNS)


def test_attention_by_hand() -> None:
    """One layer of word-to-patch attention; its output is multiplied by the word and maximised."""
    vqa = known_vqa(LookingFusion())
    case = make_case(vqa.model, known_image(), QUESTION)
    tokens, patches = torch.eye(5)[WORD], torch.eye(ROWS * COLUMNS)[PATCH]
    looks = torch.softmax(10 * tokens[:, None] * patches, 1)  # (L, P)
    found = explain_case(case, METHODS["attention"]())
    np.testing.assert_allclose(found.word_patch, looks, atol=1e-6)
    np.testing.assert_allclose(found.patches, looks.mean(0), atol=1e-6)

    # Half of each word is residual, half comes from the patches it attends to; patches stay as is.
    found = explain_case(case, METHODS["rollout"]())
    np.testing.assert_allclose(found.word_patch, looks / 2, atol=1e-6)
    rows = 5 + ROWS * COLUMNS
    np.testing.assert_allclose(found.patches, looks.sum(0) / 2 / rows, atol=1e-6)

    # d evidence / d attention is the patch's value for the word that counts, else zero.
    found = explain_case(case, METHODS["attention_gradient"]())
    wanted = tokens[:, None] * patches * looks
    np.testing.assert_allclose(found.word_patch, wanted, atol=1e-6)
    np.testing.assert_allclose(found.patches, wanted.sum(0) / rows, atol=1e-6)


def test_another_answer_has_another_explanation() -> None:
    found = explain(known_vqa(TimesFusion()), known_image(), QUESTION, answer="no")
    assert found.answer == "no"
    assert not found.patches.any()


def test_without_words_maps() -> None:
    found = explain(known_vqa(TimesFusion()), known_image(), QUESTION, per_word=False)
    assert found.word_patch is None
    assert found.word_relevance.argmax() == WORD
    with pytest.raises(ValueError, match="per_word=True"):
        found.words_at(1, 1)


def test_a_question_without_words_of_its_own() -> None:
    found = explain(known_vqa(TimesFusion()), known_image(), "?")
    assert found.words == []
    assert found.word_relevance.shape == (0,)
    assert found.word_patch.shape == (0, ROWS * COLUMNS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"question": " "}, "question: got ' '; expected text"),
        ({"answer": "maybe"}, "maybe"),
        ({"choices": ["a", "b"]}, "choices: got some"),
        ({"choices": "ab"}, "choices: got 'ab'; expected a list"),
        ({"method": METHODS["rollout"]()}, "rollout follows layers .* TimesFusion"),
        ({"method": METHODS["attention"]()}, "TimesFusion has no attention"),
        ({"method": METHODS["attention_gradient"]()}, "TimesFusion has no attention"),
    ],
)
def test_mistakes(arguments: dict, message: str) -> None:
    given = {"question": QUESTION} | arguments
    with pytest.raises(ValueError, match=message):
        explain(known_vqa(TimesFusion()), known_image(), **given)
