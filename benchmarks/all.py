"""One page of results: what each benchmark compares, as ratios of paired runs with their range.

    python benchmarks/all.py --quick                  # 3 pairs of each
    python benchmarks/all.py --output all.md          # 9 pairs
    python benchmarks/all.py --only training fusion   # two benchmarks

Each row is `work: ours / theirs`; the seconds are medians. The two sides take turns, so that the
machine's mood falls on both, and the ratio is the median of those of neighbouring runs, below 1
where ours is faster. What cannot run here, as its data or its device is missing, says so.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

from pairs import machine, markdown

from vlm.cli.training_cli import READABLE

MODULES = (
    "startup",
    "training",
    "ask",
    "feature_cache",
    "data",
    "images",
    "fusion",
    "shared_images",
    "generation",
    "processes",
)
"""Each has `compare_all(pairs)`."""


def rows(name: str, pairs: int) -> list[str]:
    try:
        found = import_module(name).compare_all(pairs)
    except READABLE as error:
        return [f"{name} | left out: {str(error).splitlines()[0][:80]} | | | "]
    lines = []
    for compared in found:
        ours, theirs = compared.medians
        lines.append(f"{name} | {compared.name} | {ours:.3g} | {theirs:.3g} | {compared.ratio}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="3 pairs of each in place of 9")
    parser.add_argument("--only", nargs="+", choices=MODULES, default=MODULES)
    parser.add_argument("--output", type=Path, help="write the page to this file too")
    given = parser.parse_args()
    lines: list[str] = []
    for name in given.only:
        lines += rows(name, 3 if given.quick else 9)
        headings = "benchmark | work: ours / theirs | ours s | theirs s | ours / theirs"
        page = f"{machine()}\n\n{markdown(headings, lines)}\n"
        if given.output:
            given.output.write_text(page, encoding="utf-8")
    print(f"\n{page}", end="")


if __name__ == "__main__":
    main()
