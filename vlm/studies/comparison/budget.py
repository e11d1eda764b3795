"""Solve for the width at which a fusion's parameter count is closest to a budget."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from functools import cache
from typing import Final, NamedTuple

LARGEST: Final = 2**20
"""Widths above are not tried."""
GAP: Final = 64
"""So many widths in a row may be invalid (heads that must divide the width, say)."""

REACH: Final = 0.1
"""How far from the budget the smallest and the largest width may be."""


class BudgetError(ValueError):
    """A budget that no width can meet."""


class Sized(NamedTuple):
    """A width and the number of parameters it gives."""

    width: int
    parameters: int


def solve_width(count: Callable[[int], int | None], budget: int) -> Sized:
    """Find the width whose parameter count is closest to the budget; the smaller one in a tie.

    The count must not decrease as the width grows. Doubling finds an upper bound and bisection
    the width, so about forty counts are enough if all widths are valid.

    Args:
        count: returns the parameter count at a width (1, 2, ...), or None if it is invalid.
        budget: target number of parameters, at least 1.

    Raises:
        BudgetError: no width is valid, the width does not change the count, or even the smallest
            or largest width is too far from the budget.
    """
    known = cache(count)

    def valid_from(width: int) -> Sized | None:
        for candidate in range(width, min(width + GAP, LARGEST + 1)):
            if (parameters := known(candidate)) is not None:
                return Sized(candidate, parameters)
        return None

    def passes(width: int) -> bool:
        found = valid_from(width)
        return found is None or found.parameters >= budget  # None: invalid beyond some point

    first = valid_from(1)
    if first is None:
        raise BudgetError(f"no width from 1 to {GAP} is valid")
    end = 1  # found by doubling: the largest widths might not fit in memory
    while end < LARGEST and not passes(end):
        end = min(2 * end, LARGEST)
    place = bisect_left(range(end + 1), True, lo=max(1, end // 2), key=passes)
    if place == 1:
        return _within_reach(first, budget)
    below, above = valid_from(place - 1), valid_from(place)
    assert below is not None
    if above is not None:
        return min(below, above, key=lambda sized: abs(sized.parameters - budget))
    if below.parameters == first.parameters:
        raise BudgetError(
            f"the width does not change the number of parameters ({below.parameters:,})"
        )
    return _within_reach(below, budget)


def _within_reach(sized: Sized, budget: int) -> Sized:
    """Accept the smallest or largest width if it is close enough to the budget, else raise."""
    if abs(sized.parameters - budget) > REACH * budget:
        raise BudgetError(
            f"the nearest to {budget:,} is {sized.parameters:,} parameters, at width {sized.width}"
        )
    return sized
