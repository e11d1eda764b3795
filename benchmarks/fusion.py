"""One training step of every merge and fusion beside the same function in plain PyTorch.

    python benchmarks/fusion.py                                   # every operator
    python benchmarks/fusion.py --only MLB BAN-4 --dtype bf16     # two of them in one precision
    python benchmarks/fusion.py --threads 1 2 --tokens 36 196     # on one core and on two
    python benchmarks/fusion.py --compile                         # and what torch.compile gains
    python benchmarks/fusion.py --repeats 3 --seconds 1           # a quick look, rough figures
    python benchmarks/fusion.py --output fusion.md                # keep the table

A step is forward and backward, to all parameters and to both inputs, without dropout. Both sides
have equal widths and the same inputs. The references are in benchmarks/references, written with
the same care as ours: nothing is repeated, and what can be one matrix product is one.
tests/parity proves that both give the same numbers.

How to read the table:
  tokens        for each image; their number in all is about the same, so there are fewer images
                where each has more. Merges take one vector
  ms            median of a step, in time of the processor: what all threads took together. Other
                programs on the machine disturb it less than the time on the clock
  ours/ref      median of the ratios of neighbouring steps; below 1 we are faster. The two sides
                take turns, so that the machine's mood falls on both. In brackets the 95 % bootstrap
                interval of that median: over the steps of this run, not over machines
  compiled/ours the same ratio for ours through torch.compile and ours without (--compile)
  MiB           most memory held during a step beyond parameters and inputs: activations, gradients,
                scratch space of the kernels. Counted from every allocation and release of PyTorch's
                CPU allocator in one step (torch.profiler), not from the process: what ran before
                does not matter, and it comes out the same on a busy machine
  GFLOP         matrix products of one step of ours (torch.utils.flop_counter)
  GFLOP/s       of ours, for each thread, and their share of the fastest square matrix product in
                this precision, which is measured first. What is missing to 100 % is elementwise
                work and memory
bf16 is torch.autocast("cpu", torch.bfloat16).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from fusion_cases import CASES, Case
from pairs import FEWEST_PAIRS, Pairs, machine, markdown, peak_memory, take_turns
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vlm.core.features import Features, as_features
from vlm.fusion import Fusion

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
HEADINGS = (
    "operator | tokens | precision | threads | ours ms | ref ms | ours/ref | compiled/ours | "
    "ours MiB | ref MiB | GFLOP | GFLOP/s (of peak)"
)


class Side:
    """One of the two modules of a case, with its inputs."""

    def __init__(
        self, case: Case, ours: bool, precision: str = "fp32", compiled: bool = False
    ) -> None:
        torch.manual_seed(0)
        self.autocast = precision == "bf16"
        image = torch.randn(case.image).requires_grad_()
        question = torch.randn(case.question).requires_grad_()
        self.leaves = [image, question]
        self.module = (case.ours if ours else case.theirs)().eval()
        if compiled:
            self.module.compile()
        features = given(image, "image"), given(question, "text")
        if isinstance(self.module, Fusion):  # with masks, as encoders give them
            self.inputs: tuple[object, ...] = features
        elif ours:
            self.inputs = (image, question)
        else:
            masks = (features[1].mask, features[0].mask) if case.masks else ()
            self.inputs = (question, image, *masks)

    def run(self) -> Tensor:
        """The pooled result of a forward pass."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            made = self.module(*self.inputs)
        made = made.pooled if isinstance(made, Features) else made
        return made[0] if isinstance(made, tuple) else made

    def step(self) -> float:
        """Processor seconds of a forward and a backward pass; gradients are gone afterwards."""
        started = time.process_time()
        made = self.run()
        made.backward(torch.ones_like(made))
        seconds = time.process_time() - started
        for leaf in (*self.leaves, *self.module.parameters()):
            leaf.grad = None
        return seconds


def given(leaf: Tensor, name: str) -> Features:
    """As encoders give it. The mean of tokens is theirs too, so no gradient goes through it."""
    features = as_features(leaf, name)
    return features if leaf.ndim == 2 else features._replace(pooled=features.pooled.detach())


def gflop(case: Case, ours: bool) -> float:
    """Matrix products of one step; nothing is computed, shapes are enough."""
    with torch.device("meta"):
        side = Side(case, ours)
        with FlopCounterMode(display=False) as counter:
            side.step()
    return counter.get_total_flops() / 1e9


def peak(precision: str) -> float:
    """GFLOP/s of a thread in the fastest square matrix product."""
    rates = []
    for size in (1024, 2048):
        a, b = (torch.randn(size, size, dtype=DTYPES[precision]) for _ in range(2))
        for _ in range(6):
            started = time.process_time()
            a @ b
            rates.append(2e-9 * size**3 / (time.process_time() - started))
    return max(rates)


def compare(
    name: str, tokens: int, precision: str, peak: float, budget: tuple[int, float], compiled: bool
) -> str:
    """One row of the table."""
    case = CASES[name].at(tokens)
    sides = [Side(case, ours, precision) for ours in (True, False)]
    sides += [Side(case, True, precision, compiled=True)] if compiled else []
    for side in sides:
        side.step()  # the first step is slower, so it is not counted
    ours, theirs, *third = take_turns([side.step for side in sides], *budget)
    pairs = Pairs(name, ours, theirs)
    cells = [name, "" if len(case.image) == 2 else str(tokens), precision]
    cells += [str(torch.get_num_threads()), *(f"{1e3 * median:.1f}" for median in pairs.medians)]
    cells += [pairs.interval, Pairs(name, third[0], ours).interval if third else ""]
    cells += [f"{peak_memory(side.step):.0f}" for side in sides[:2]]
    work = gflop(case, ours=True)
    rate = work / pairs.medians[0]
    return " | ".join([*cells, f"{work:.1f}", f"{rate:.0f} ({100 * rate / peak:.0f} %)"])


def compare_all(pairs: int) -> list[Pairs]:
    found = []
    for name in ("Tucker", "Block", "Block-attention", "BAN-4", "MCAN"):
        sides = [Side(CASES[name], ours) for ours in (True, False)]
        for side in sides:
            side.step()
        title = f"a training step of {name} on random features: ours / plain PyTorch"
        found.append(Pairs(title, *take_turns([side.step for side in sides], pairs)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"operators: {', '.join(CASES)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", nargs="+", choices=CASES, default=list(CASES), metavar="OPERATOR", help="of these"
    )
    parser.add_argument("--tokens", nargs="+", type=int, default=[36], help="of an image (36)")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument(
        "--threads", nargs="+", type=int, default=[torch.get_num_threads()], help="of PyTorch"
    )
    parser.add_argument("--repeats", type=int, default=30, help="most steps of a side (30)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=6.0,
        help=f"time for the steps of one row, after the first {FEWEST_PAIRS} pairs (6)",
    )
    parser.add_argument(
        "--compile", action="store_true", help="ours through torch.compile too, a third side"
    )
    parser.add_argument("--output", type=Path, help="Markdown file, written after every row")
    given = parser.parse_args()
    rows: list[str] = []
    limits = []
    print(HEADINGS)
    for threads in given.threads:
        torch.set_num_threads(threads)
        for precision in given.dtype:
            limit = peak(precision)
            limits.append(f"{precision} {limit:,.0f} GFLOP/s on {threads}")
            for name in given.only:
                takes_tokens = len(CASES[name].image) == 3
                for tokens in given.tokens if takes_tokens else given.tokens[:1]:
                    budget = given.repeats, given.seconds
                    rows.append(compare(name, tokens, precision, limit, budget, given.compile))
                    print(rows[-1], flush=True)
                    if given.output:
                        about = f"{machine()}; fastest matrix product: {', '.join(limits)}."
                        given.output.write_text(f"{about}\n\n{markdown(HEADINGS, rows)}\n")


if __name__ == "__main__":
    main()
