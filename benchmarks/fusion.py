"""One training step of every fusion beside its authors' definition, written as the formulas stand.

    python benchmarks/fusion.py                                   # all of it, some ten minutes
    python benchmarks/fusion.py --only MLB BAN-4 --dtype bf16     # two of them in one precision
    python benchmarks/fusion.py --repeats 3 --seconds 1           # a quick look, rough figures
    python benchmarks/fusion.py --output fusion.md                # keep the table

A step is forward and backward, to all parameters and to both inputs, without dropout. Both sides
have equal widths and the same inputs. The references are in benchmarks/references: the authors'
operations as their definitions name them, nn.Bilinear where that is the definition, the question
repeated for every region where they repeat it. tests/parity proves that they, and ours, give the
authors' own outputs.

How to read the table:
  ms            median of a step
  ours/ref      median of the ratios of neighbouring steps; below 1 we are faster. The two sides
                take turns, so that the machine's mood falls on both. In brackets the 95 % bootstrap
                interval of that median: over the steps of this run, not over machines
  MiB           most memory held during a step beyond parameters and inputs: activations, gradients,
                scratch space of the kernels. Counted from every allocation and release of PyTorch's
                CPU allocator in one step (torch.profiler), not from the process: what ran before
                does not matter, and it comes out the same on a busy machine
  GFLOP         matrix products of one step of ours (torch.utils.flop_counter)
  GFLOP/s       of ours, and their share of the fastest square matrix product in this precision,
                which is measured first. What is missing to 100 % is elementwise work and memory
bf16 is torch.autocast("cpu", torch.bfloat16). nn.Bilinear cannot run in it; there "bf16 weights" is
both sides with parameters and inputs in bf16, without autocast.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from fusion_cases import CASES, Case
from pairs import FEWEST_PAIRS, Pairs, machine, markdown, peak_memory, take_turns
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vlm.core.features import Features, as_features
from vlm.fusion import Fusion

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
BF16_WEIGHTS = "bf16 weights"
HEADINGS = (
    "operator | precision | ours ms | ref ms | ours/ref | ours MiB | ref MiB | GFLOP | "
    "GFLOP/s (of peak)"
)


class Side:
    """One of the two modules of a case, with its inputs."""

    def __init__(
        self, case: Case, ours: bool, precision: str = "fp32", compiled: bool = False
    ) -> None:
        torch.manual_seed(0)
        self.autocast = precision == "bf16"
        dtype = torch.bfloat16 if precision == BF16_WEIGHTS else torch.float32
        image = torch.randn(case.image).to(dtype).requires_grad_()
        question = torch.randn(case.question).to(dtype).requires_grad_()
        self.leaves = [image, question]
        self.module = (case.ours if ours else case.theirs)().eval().to(dtype)
        if compiled:
            self.module.compile()
        self.inputs: tuple[Tensor | Features, ...]
        if isinstance(self.module, Fusion):  # with masks, as encoders give them
            self.inputs = as_features(image, "image"), as_features(question, "text")
        else:
            self.inputs = (image, question) if ours else (question, image)

    def step(self) -> float:
        """Seconds of one forward and backward pass. No gradient is there before or after."""
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            made = self.module(*self.inputs)
        made = made.pooled if isinstance(made, Features) else made
        made = made[0] if isinstance(made, tuple) else made
        made.backward(torch.ones_like(made))
        seconds = time.perf_counter() - started
        for leaf in (*self.leaves, *self.module.parameters()):
            leaf.grad = None
        return seconds

    def runs(self) -> bool:
        """Whether a step can be made in this precision."""
        try:
            self.step()
        except RuntimeError:  # layers that autocast does not know
            return False
        return True


def gflop(case: Case, ours: bool) -> float:
    """Matrix products of one step; nothing is computed, shapes are enough."""
    with torch.device("meta"):
        side = Side(case, ours)
        with FlopCounterMode(display=False) as counter:
            side.step()
    return counter.get_total_flops() / 1e9


def peak(precision: str) -> float:
    """GFLOP/s of the fastest square matrix product."""
    rates = []
    for size in (1024, 2048, 4096):
        a, b = (torch.randn(size, size, dtype=DTYPES[precision]) for _ in range(2))
        for _ in range(6):
            started = time.perf_counter()
            a @ b
            rates.append(2e-9 * size**3 / (time.perf_counter() - started))
    return max(rates)


def compare(
    name: str, precision: str, peak: float, repeats: int, seconds: float, compiled: bool
) -> str:
    """One row of the table."""
    case = CASES[name]
    theirs = Side(case, False, precision)
    if not theirs.runs():  # the first step is slower, so it is not counted
        precision = BF16_WEIGHTS
        theirs = Side(case, False, precision)
        theirs.step()
    ours = Side(case, True, precision, compiled)
    ours.step()
    pairs = Pairs(name, *take_turns([ours.step, theirs.step], repeats, seconds))
    work = gflop(case, ours=True)
    cells = [f"{name} compiled" if compiled else name, precision]
    cells += [*(f"{1e3 * seconds:.1f}" for seconds in pairs.medians), pairs.interval]
    cells += [f"{peak_memory(side.step):.0f}" for side in (ours, theirs)]
    rate = work / pairs.medians[0]
    return " | ".join([*cells, f"{work:.1f}", f"{rate:.0f} ({100 * rate / peak:.0f} %)"])


def compare_all(pairs: int) -> list[Pairs]:
    found = []
    for name in ("Tucker", "Block", "Block-attention", "BAN-4", "MCAN-36"):
        sides = [Side(CASES[name], ours) for ours in (True, False)]
        for side in sides:
            side.step()
        title = f"a training step of {name} on random features: ours / its authors' definition"
        found.append(Pairs(title, *take_turns([side.step for side in sides], pairs)))
    return found


def table(rows: list[str], peaks: dict[str, float]) -> str:
    """Markdown."""
    limits = ", ".join(f"{name} {rate:,.0f} GFLOP/s" for name, rate in peaks.items())
    return f"{machine()}; fastest matrix product: {limits}.\n\n{markdown(HEADINGS, rows)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"operators: {', '.join(CASES)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", nargs="+", choices=CASES, default=list(CASES), metavar="OPERATOR", help="of these"
    )
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--threads", type=int, help="default: PyTorch's own choice")
    parser.add_argument("--repeats", type=int, default=30, help="most steps of a side (30)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=6.0,
        help=f"time for the steps of one row, after the first {FEWEST_PAIRS} pairs (6)",
    )
    parser.add_argument(
        "--compile", action="store_true", help="ours through torch.compile, the reference not"
    )
    parser.add_argument("--output", type=Path, help="Markdown file, written after every row")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    rows: list[str] = []
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("peak", total=len(given.only) * len(given.dtype))
        peaks = {precision: peak(precision) for precision in given.dtype}
        for name in given.only:
            for precision in given.dtype:
                progress.update(task, description=f"{name} {precision}")
                budget = given.repeats, given.seconds, given.compile
                rows.append(compare(name, precision, peaks[precision], *budget))
                progress.advance(task)
                if given.output:
                    given.output.write_text(table(rows, peaks))
    print(table(rows, peaks), end="")


if __name__ == "__main__":
    main()
