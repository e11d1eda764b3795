"""The drawings of an explanation: contours, legends, the PNG and the page."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from known_model import COLUMNS, PATCH, QUESTION, ROWS, WORD, TimesFusion, known_image, known_vqa
from PIL import Image

import vlm
from vlm.explain import (
    Attention,
    Explanation,
    GradCAM,
    IntegratedGradients,
    agreement,
    draw,
    explain,
    heat_map,
    overlay,
    to_html,
)
from vlm.explain.contours import AGAINST, FOR, NEUTRAL
from vlm.explain.drawing import headline, notes, scales

SIZE = (500, 300)
"""Cells of 100 x 100 pixels."""


def changed(found: Explanation, **values: Any) -> Explanation:
    return Explanation(**vars(found) | values)


@pytest.fixture(scope="module")
def found() -> Explanation:
    return explain(known_vqa(TimesFusion()), known_image(2), QUESTION)


def cells_with(drawn: Image.Image, colour: tuple[int, int, int]) -> dict[int, int]:
    """How many pixels of a colour each cell has."""
    same = (np.asarray(drawn.convert("RGB")) == colour).all(-1)
    counts = same.reshape(ROWS, 100, COLUMNS, 100).sum((1, 3)).ravel()
    return {cell: int(count) for cell, count in enumerate(counts) if count}


def test_contours_surround_the_cells_that_matter_and_leave_the_image(found: Explanation) -> None:
    lines = overlay(found, SIZE)
    assert lines.mode == "RGBA"
    assert list(cells_with(lines, FOR)) == [PATCH]
    assert not cells_with(lines, AGAINST)
    row, column = divmod(PATCH, COLUMNS)
    assert lines.getpixel((100 * column + 50, 100 * row + 50)) == (0, 0, 0, 0), "not tinted"
    assert list(cells_with(overlay(found, SIZE, word=WORD), FOR)) == [PATCH]
    assert not cells_with(overlay(found, SIZE, word=0), FOR)


def test_stronger_cells_have_thicker_lines_and_weak_ones_none(found: Explanation) -> None:
    values = np.zeros(ROWS * COLUMNS, np.float32)
    values[[0, 2, 4, 10]] = 1.0, 0.6, 0.3, 0.2
    drawn = cells_with(overlay(changed(found, patches=values), SIZE), FOR)
    assert list(drawn) == [0, 2, 4]
    assert drawn[0] > 1.3 * drawn[2] > 1.3 * 1.3 * drawn[4]


def test_what_speaks_against_is_blue_and_dashed(found: Explanation) -> None:
    whole = sum(cells_with(overlay(found, SIZE), FOR).values())
    drawn = overlay(changed(found, patches=-found.patches), SIZE)
    assert not cells_with(drawn, FOR)
    assert 0.3 * whole < sum(cells_with(drawn, AGAINST).values()) < 0.7 * whole


def test_attention_has_no_sign_and_no_colour_of_one() -> None:
    vqa = vlm.load("scenes")
    image = ROOT / "vlm/bundled/scenes/example.png"
    seen = explain(vqa, image, "Is the gray object left of the brown object?", Attention())
    assert (seen.signed, seen.unit) == (False, "share of attention")
    assert (seen.words_signed, seen.word_unit) == (True, "evidence lost without it")
    drawn = np.asarray(overlay(seen, (200, 200)).convert("RGB")).reshape(-1, 3).tolist()
    assert list(NEUTRAL) in drawn
    assert list(FOR) not in drawn
    assert [row.means for row in scales(seen)] == ["where it looks"]


def test_the_middle_of_narrow_cells_stays_free(found: Explanation) -> None:
    lines = overlay(found, (50, 500))  # cells of 10 x 167 pixels
    row, column = divmod(PATCH, COLUMNS)
    assert lines.getpixel((10 * column + 5, 167 * row + 80))[3] == 0  # type: ignore[index]  # RGBA


def test_regions_that_overlap_are_drawn(found: Explanation) -> None:
    boxes = np.array([[0, 0, 0.5, 1], [0.25, 0, 1, 1]], np.float32)
    regions = changed(
        found, boxes=boxes, grid=None, patches=np.array([1.0, -1.0]), image_size=(1, 1)
    )
    drawn = overlay(regions, SIZE).convert("RGB").getcolors(1 << 20)
    assert {FOR, AGAINST} <= {colour for _, colour in drawn}
    assert draw(regions).width > 900


def test_mistakes(found: Explanation) -> None:
    without = explain(known_vqa(TimesFusion()), known_image(), QUESTION, per_word=False)
    with pytest.raises(ValueError, match="per_word=True"):
        heat_map(without, known_image(), word=1)
    with pytest.raises(ValueError, match="word: got 5; expected 0 to 4"):
        heat_map(found, known_image(), word=5)
    with pytest.raises(ValueError, match="explanations: got 1"):
        agreement([found])


def test_the_legend_has_the_scale_in_the_method_s_unit(found: Explanation) -> None:
    values = np.zeros(ROWS * COLUMNS, np.float32)
    values[:2] = 8, -4
    both = scales(changed(found, patches=values))
    assert [(row.means, row.least) for row in both] == [
        ("for the answer", ["2", "4", "6"]),
        ("against it", ["-2", "-4", "-6"]),
    ]
    assert scales(changed(found, patches=0 * values)) == []


def test_the_headline_has_the_calibrated_probability(found: Explanation) -> None:
    assert (
        headline(changed(found, probability=0.8214, calibrated=True)) == "yes (82.1 %, calibrated)"
    )
    assert headline(changed(found, probability=0.5)) == "yes (50.0 %, not calibrated)"
    assert "not among" in headline(changed(found, probability=None))
    other = changed(found, own_answer="no", probability=0.02, calibrated=True)
    assert headline(other) == "Why yes (2.0 %, calibrated)? The model says no."
    vqa, image = vlm.load("scenes"), ROOT / "vlm/bundled/scenes/example.png"
    asked = "Is the gray object left of the brown object?"
    answer = vqa.answer(image, asked)
    why = explain(vqa, image, asked, per_word=False)
    assert (why.answer, why.calibrated) == (answer.text, True)
    assert why.probability == pytest.approx(answer.probability)
    other = explain(vqa, image, asked, answer="no", per_word=False)
    assert other.probability is not None
    assert other.probability < 0.1


def test_a_question_beyond_the_model_is_drawn_with_its_doubts(found: Explanation) -> None:
    why = explain(known_vqa(TimesFusion()), known_image(), "Why?", per_word=False)
    assert "unknown to the model" in why.warnings[0]
    assert headline(why) == f"No answer: the question is beyond the model (its guess: {why.answer})"
    assert draw(why, known_image()).height > draw(changed(why, warnings=[]), known_image()).height
    assert "unknown to the model" in to_html(why, known_image())


def test_methods_that_name_the_same_cells_agree(found: Explanation) -> None:
    values = np.arange(ROWS * COLUMNS, dtype=np.float32)
    ours, same = changed(found, patches=values), changed(found, patches=2 * values)
    other = changed(found, patches=-values)
    assert agreement([ours, same]).correlations[0, 1] == pytest.approx(1)
    assert "the methods agree" in agreement([ours, same]).sentence
    assert agreement([ours, same]).cells == ROWS * COLUMNS - 1, "one matters to none"
    assert agreement([ours, other]).correlations[0, 1] == pytest.approx(-1)
    assert "disagree" in agreement([ours, other]).sentence
    unsigned = changed(other, signed=False)
    assert agreement([ours, unsigned]).correlations[0, 1] == pytest.approx(1)
    assert agreement([ours, unsigned]).same_peak == 2
    flat = changed(found, patches=0 * values)
    assert "cannot be compared" in agreement([flat, flat]).sentence
    assert len(notes([ours, same])) == 3


def test_finer_maps_are_compared_on_the_coarser_cells() -> None:
    vqa, image = known_vqa(TimesFusion()), known_image(2)
    coarse = explain(vqa, image, QUESTION, GradCAM(), per_word=False)
    fine = explain(vqa, image, QUESTION, IntegratedGradients(steps=2), per_word=False)
    assert len(fine.patches) == 16 * len(coarse.patches)
    assert agreement([coarse, fine]).same_peak == 2


def test_the_title_of_a_drawn_answer_has_no_image_in_it(found: Explanation) -> None:
    drawn = "data:image/png;base64,AAAA"
    page = to_html(changed(found, answer=drawn, own_answer=None), known_image(2))
    assert f"<title>{QUESTION} — a picture (" in page
    assert drawn not in page


def test_png_and_page_say_the_same(found: Explanation) -> None:
    two = [found, changed(found, method="<other>")]
    drawn = draw(two, known_image(2))
    assert drawn.width > 3 * 448
    page = to_html(two, known_image(2))
    assert page.count("data:image/png;base64,") == 3 + 2 * 3  # image, two maps, two legends
    assert "&lt;other&gt;" in page
    assert not re.search(r"<(other|script)|https?:|url\(", page)
    assert headline(found).replace(">", "&gt;") in page
    for word in found.words:
        assert f">{word}<small>" in page
