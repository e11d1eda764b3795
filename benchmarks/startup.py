"""CPU time of a start: imports, help, refusals, and a question on the command line.

    python benchmarks/startup.py

Each pair is a process of one kind and then of the other; times are user and system time of the
process, and the figure is the median of the ratios. A question goes to the bundled easy-VQA model.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from pairs import Pairs, take_turns


def seconds(*arguments: str) -> float:
    """CPU time of a Python process, with what it writes thrown away."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def measure(name: str, ours: list[str], base: list[str], pairs: int) -> Pairs:
    sides = [partial(seconds, *ours), partial(seconds, *base)]
    for side in sides:
        side()  # files into the cache
    return Pairs(name, *take_turns(sides, pairs))


def compare(name: str, ours: list[str], base: list[str], pairs: int, target: float) -> None:
    found = measure(name, ours, base, pairs)
    mine, theirs = found.medians
    print(f"{name}: {mine:.2f} s against {theirs:.2f} s, {found.ratio}; to reach: {target}")


def asking() -> list[str]:
    """The bundled model's answer to a question about an image of the `easy_vqa` package."""
    spec = find_spec("easy_vqa")
    assert spec is not None
    assert spec.origin is not None
    image = str(Path(spec.origin).parent / "data/test/images/0.png")
    return ["-m", "vlm", "ask", "easy_vqa", image, "what color is the shape?"]


def compare_all(pairs: int) -> list[Pairs]:
    torch = ["-c", "import torch"]
    return [
        measure(f"CPU time of `{name}` / of `import torch`", command, torch, pairs)
        for name, command in {
            "import vlm.fusion": ["-c", "import vlm.fusion"],
            "vlm fit --help": ["-m", "vlm", "fit", "--help"],
            "vlm ask easy_vqa": asking(),
        }.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=11)
    given = parser.parse_args()
    both = ["-c", "import torch, einops"]
    compare("import vlm.fusion", ["-c", "import vlm.fusion"], both, given.pairs, 1.15)
    torch = ["-c", "import torch"]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "misspelt.yaml"
        config.write_text("trainer:\n  max_epoch: 3\n")
        for name, command in {
            "vlm fit --help": ["--help"],
            "vlm fit -c nosuch.yaml": ["-c", "nosuch.yaml"],
            "vlm fit with a misspelt key": ["-c", str(config)],
            "vlm fit with an unknown option": ["--trainer.max_epoch=3"],
        }.items():
            compare(name, ["-m", "vlm", "fit", *command], torch, given.pairs, 1.5)
    compare("vlm ask easy_vqa", asking(), torch, given.pairs, 1.15)


if __name__ == "__main__":
    main()
