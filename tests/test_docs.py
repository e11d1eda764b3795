"""The examples in the documentation run and print the output shown."""

from __future__ import annotations

import doctest
import json
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


def test_pages_and_plot_have_the_figures_of_the_fusions_that_learn() -> None:
    results = json.loads((DOCS / "benchmarks/learning/scenes.json").read_text())
    assert runpy.run_path(str(DOCS / "images/make.py"))["NAMED"].keys() <= results.keys()
    for page in ("choosing_a_fusion.md", "benchmarks/learning.md"):
        text = (DOCS / page).read_text()
        for fusion, seeds in results.items():
            accuracy, low, high = seeds["0"]["test"]["attribute"]
            (line,) = [
                line
                for line in text.splitlines()
                if line.startswith(f"| `{fusion}` | {seeds['0']['parameters']:,} |")
                and f"{accuracy:.2f} ({low:.2f} - {high:.2f})" in line
            ]
            assert low <= accuracy <= high, line


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
