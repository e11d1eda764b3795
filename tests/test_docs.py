"""The examples in the documentation run and print the output shown."""

from __future__ import annotations

import doctest
import runpy
from pathlib import Path
from types import ModuleType

import pytest

import vlm

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if ">>>" in page.read_text()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples(page: Path) -> None:
    result = doctest.testfile(str(page), module_relative=False)
    assert result.attempted
    assert not result.failed


def test_every_public_subpackage_has_a_reference_page() -> None:
    packages = {name for name in vlm.__all__ if isinstance(getattr(vlm, name), ModuleType)}
    listed = (DOCS / "reference/index.md").read_text().split("```{toctree}")[1].split()
    assert packages <= {page.stem for page in (DOCS / "reference").glob("*.md")} & set(listed)


def test_the_plot_of_fusions_shows_every_one_of_the_report() -> None:
    drawn = runpy.run_path(str(DOCS / "images/make.py"))["read_report"]()
    assert len({fusion.name for fusion in drawn}) == 30
    assert all(fusion.low <= fusion.accuracy <= fusion.high for fusion in drawn)
    assert (drawn[0].name, drawn[0].milliseconds) == ("product", 18.9)


def test_every_merge_and_fusion_is_documented() -> None:
    from vlm.fusion import Fusion, Merge

    text = "\n".join(page.read_text() for page in (DOCS / "fusions").glob("*.md"))
    headings = {
        word.strip(",")
        for line in text.splitlines()
        if line.startswith("#")
        for word in line.split()
    }
    public = [getattr(vlm.fusion, name) for name in vlm.fusion.__all__]
    operators = [c for c in public if isinstance(c, type) and issubclass(c, (Merge, Fusion))]
    missing = [
        c.__name__ for c in operators if c not in (Merge, Fusion) and c.__name__ not in headings
    ]
    assert not missing
