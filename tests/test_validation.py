"""Words for what is wrong with an argument."""

from __future__ import annotations

import doctest

from vlm.core import validation


def test_the_examples_print_what_they_say() -> None:
    results = doctest.testmod(validation)
    assert results.attempted >= 4
    assert not results.failed
