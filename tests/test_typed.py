"""The types of calls, as shown in an editor."""

from __future__ import annotations

from pathlib import Path

import pytest
from mypy import api

CALLS = Path(__file__).parent / "typed_calls.py"


@pytest.mark.slow
def test_a_call_has_the_type_of_forward() -> None:
    found, mistakes, status = api.run([str(CALLS)])
    assert status == 0, found + mistakes
