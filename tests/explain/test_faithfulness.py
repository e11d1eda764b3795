"""Deletion curves on a model with a known answer, rank correlation, and random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from known_model import PATCH, QUESTION, WORD, TimesFusion, known_image, known_vqa

from vlm.explain import Explanation, IntegratedGradients, Occlusion, explain
from vlm.explain.explainer import explain_case, make_case
from vlm.explain.faithfulness import (
    patch_faithfulness,
    randomised,
    rank_correlation,
    word_faithfulness,
)


def changed(explanation: Explanation, **values: object) -> Explanation:
    return Explanation(**vars(explanation) | values)


def test_curves_by_hand() -> None:
    """The evidence is 1 with both patch and word, and 0 if either is missing."""
    vqa = known_vqa(TimesFusion())
    case = make_case(vqa.model, known_image(), QUESTION)
    true = explain_case(case, Occlusion())
    found = patch_faithfulness(case, true)
    assert found.shares.tolist() == pytest.approx(np.arange(16) / 15)
    assert found.deletion.tolist() == [1] + 15 * [0]
    assert found.insertion.tolist() == [0] + 15 * [1]
    assert found.deletion_area == pytest.approx(0.5 / 15)
    assert found.insertion_area == pytest.approx(1 - 0.5 / 15)
    assert (found.comprehensiveness, found.sufficiency) == (1, 0)

    # With relevance reversed, the patch is deleted last and inserted last.
    wrong = patch_faithfulness(case, changed(true, patches=-true.patches))
    assert wrong.deletion.tolist() == 15 * [1] + [0]
    assert wrong.insertion.tolist() == 15 * [0] + [1]
    assert (wrong.comprehensiveness, wrong.sufficiency) == (0, 1)

    words = word_faithfulness(case, true)
    assert words.deletion.tolist() == [1] + 5 * [0]
    assert words.insertion.tolist() == [0] + 5 * [1]
    last = word_faithfulness(case, changed(true, word_relevance=-np.eye(5)[WORD]))
    assert last.deletion.tolist() == 5 * [1] + [0]
    # 1, 5, 10 and 20 % of five words round up to one word; only 50 % is more.
    assert (last.comprehensiveness, last.sufficiency) == (0, 1)


def test_finer_cells_than_the_encoder_s() -> None:
    vqa = known_vqa(TimesFusion())
    case = make_case(vqa.model, known_image(), QUESTION)
    found = patch_faithfulness(case, explain_case(case, IntegratedGradients()))
    assert found.deletion[0] == 1
    assert found.deletion[-1] == 0
    # The patch's sixteen cells come first; the first step reveals fifteen of them (48 pixels).
    assert found.insertion.tolist() == pytest.approx([0, 48 / 49] + 15 * [1])


def test_another_model_s_grid_is_refused() -> None:
    vqa = known_vqa(TimesFusion())
    case = make_case(vqa.model, known_image(), QUESTION)
    other = changed(explain_case(case, Occlusion()), grid=(2, 2))
    with pytest.raises(ValueError, match=r"grid \(2, 2\) is not one of this model's"):
        patch_faithfulness(case, other)


def test_ranks() -> None:
    a = np.array([3.0, 1, 2, 2])
    assert rank_correlation(a, a**3) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)
    # The ranks minus their means: 1.5, -1.5, 0, 0 and -1.5, -0.5, 0.5, 1.5.
    assert rank_correlation(a, np.arange(4)) == pytest.approx(-1.5 / np.sqrt(4.5 * 5))
    assert np.isnan(rank_correlation(a, np.ones(4)))


def test_random_weights_are_new_and_repeatable(run) -> None:
    from vlm.inference import load

    vqa = load(run)
    first, again, other = randomised(vqa), randomised(vqa), randomised(vqa, seed=1)
    weights = [dict(v.model.named_parameters()) for v in (vqa, first, again, other)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], weights[2][name], rtol=0, atol=0)
        if value.ndim > 1:
            assert not torch.equal(value, weights[1][name])
            zeros_at_first = "positions.outer" in name
            assert torch.equal(weights[1][name], weights[3][name]) == zeros_at_first
    photo = known_image()
    answer = explain(vqa, photo, "what color is it?").answer
    assert explain(first, photo, "what color is it?", answer=answer).answer == answer
    assert PATCH
