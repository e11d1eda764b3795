"""The width at which a fusion comes nearest to a number of parameters."""

from __future__ import annotations

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
    """The width whose number of parameters is nearest to the budget; the smaller of two.

    The number must not fall as the width grows. Doubling finds an upper end and halving the
    place, so that some forty counts are enough where all widths are valid.

    Args:
        count: parameters at a width (1, 2, ...), None where the width is not valid.
        budget: number of parameters expected, at least 1.

    Raises:
        BudgetError: no valid width, a width that does not change the number, or one whose
            smallest or largest value is too far from the budget.
    """
    known = cache(count)

    def valid_from(width: int) -> Sized | None:
        for candidate in range(width, min(width + GAP, LARGEST + 1)):
            if (parameters := known(candidate)) is not None:
                return Sized(candidate, parameters)
        return None

    below = first = valid_from(1)
    if below is None or first is None:
        raise BudgetError(f"no width from 1 to {GAP} is valid")
    if below.parameters >= budget:
        return _within_reach(below, budget)
    above: Sized | None = None
    end = below.width  # the answer lies below it
    while above is None and end < LARGEST:
        end = min(2 * end, LARGEST)
        found = valid_from(end)
        if found is None:
            break  # invalid from somewhere on
        if found.parameters >= budget:
            above = found
        else:
            below = found
    while end - below.width > 1:
        middle = (below.width + end) // 2
        found = valid_from(middle)
        if found is None or found.width >= end:
            end = middle
        elif found.parameters >= budget:
            above, end = found, middle
        else:
            below = found
    if above is None:
        if below.parameters == first.parameters:
            raise BudgetError(
                f"the width does not change the number of parameters ({below.parameters:,})"
            )
        return _within_reach(below, budget)
    return min(below, above, key=lambda sized: abs(sized.parameters - budget))


def _within_reach(sized: Sized, budget: int) -> Sized:
    """At either end of the widths: near enough to pass for the budget, or an error."""
    if abs(sized.parameters - budget) > REACH * budget:
        raise BudgetError(
            f"the nearest to {budget:,} is {sized.parameters:,} parameters, at width {sized.width}"
        )
    return sized
