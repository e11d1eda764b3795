"""Changes of a question's wording leave its words as they are."""

from __future__ import annotations

import pytest

from vlm.trust.perturb import WORDINGS


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("Is it red?", "Is it red"),
        ("How much is 3.5 or 4-5?", "How much is 3.5 or 4-5"),
        ("क्या यह लाल है?", "क्या यह लाल है"),
        ("สีอะไรอยู่ที่นี่", "สีอะไรอยู่ที่นี่"),
        ("???", "???"),
    ],
)
def test_only_punctuation_goes(given: str, kept: str) -> None:
    assert WORDINGS["no punctuation"](given) == kept
