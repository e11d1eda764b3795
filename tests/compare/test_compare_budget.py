"""Solving for the width whose parameter count is closest to a budget."""

from __future__ import annotations

import pytest

from vlm.studies.comparison.budget import BudgetError, Sized, solve_width


@pytest.mark.parametrize("budget", [4000, 4001, 12_345, 10**6, 3 * 10**9])
@pytest.mark.parametrize("step", [1, 2, 12, 60])
def test_no_other_valid_width_is_nearer(budget: int, step: int) -> None:
    def count(width: int) -> int | None:
        return None if width % step else width * width + 3 * width + 7

    solved = solve_width(count, budget)
    assert solved.width % step == 0
    assert solved.parameters == count(solved.width)
    for other in (solved.width - step, solved.width + step):
        if other > 0:
            assert abs(solved.parameters - budget) <= abs((count(other) or 0) - budget)


def test_a_tie_goes_to_the_smaller() -> None:
    assert solve_width(lambda width: 10 * width, 45) == Sized(4, 40)


def test_few_counts_are_enough() -> None:
    asked = []

    def count(width: int) -> int:
        asked.append(width)
        return 1000 * width

    assert solve_width(count, 123_456_789).width == 123_457
    assert len(asked) < 45
    assert len(set(asked)) == len(asked)


def test_widths_that_end_somewhere() -> None:

    def ended(width: int) -> int | None:
        return 10 * width if 7 <= width <= 30 else None

    assert solve_width(ended, 305) == Sized(30, 300)
    assert solve_width(ended, 66) == Sized(7, 70)
    for budget, nearest in ((1000, "300 parameters, at width 30"), (20, "70 .*, at width 7")):
        with pytest.raises(BudgetError, match=f"the nearest to {budget:,} is {nearest}"):
            solve_width(ended, budget)
    assert solve_width(lambda width: 5 if width < 9 else 5 + width, 12) == Sized(9, 14)


def test_a_width_that_changes_nothing() -> None:
    with pytest.raises(BudgetError, match="does not change the number of parameters \\(5\\)"):
        solve_width(lambda width: 5, 100)
    with pytest.raises(BudgetError, match="no width from 1 to 64 is valid"):
        solve_width(lambda width: None, 100)
