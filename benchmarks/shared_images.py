"""What sharing saves: one training step of a fusion with `image_index`, and without.

    python benchmarks/shared_images.py                              # all fusions, some minutes
    python benchmarks/shared_images.py --only Projector --threads 1
    python benchmarks/shared_images.py --only "gated cross-attention" --profile
    python benchmarks/shared_images.py --questions                  # of a text encoder

VQA v2 has 5.4 questions an image: 16 images and 86 questions here. Both sides run forward and
backward to the images' features and all parameters, without dropout, and give the same numbers.
"shared" hands the fusion the images and the index; "gathered" hands it an image for each question,
which is how a fusion is called elsewhere, and what a fusion without `prepare` does.

    shared/gathered   median of the ratios of neighbouring steps and its 95 % bootstrap interval
    MiB               most memory held during a step, beyond parameters and inputs

`--questions` times encoders of text on a batch of easy-VQA: 154 questions about 16 images, 85 of
them different, each encoded once or all of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pairs import Pairs, machine, markdown, peak_memory, take_turns, timed
from rich.console import Console
from rich.progress import track

from vlm.core.features import Features
from vlm.fusion import (
    BAN,
    DFAF,
    LXMERT,
    MCAN,
    MCB,
    MLB,
    Block,
    CrossAttention,
    FiLM,
    Fusion,
    GatedCrossAttention,
    GlimpseAttention,
    MergedAttention,
    MFBCoAttention,
    MuRel,
    ParallelCoAttention,
    PerceiverResampler,
    Pooled,
    Projector,
    QFormer,
    StackedAttention,
)
from vlm.fusion.glimpse import TANH_PERCEPTRON
from vlm.text import Recurrent, TextEncoder, Transformer

IMAGES, QUESTIONS_PER_IMAGE = 16, 5.4
REGIONS, PATCHES = (36, 2048), (196, 768)  # bottom-up regions, tokens of a ViT-B/16
WORDS = (14, 512)
EASY_VQA, DIFFERENT = 154, 85  # questions of a batch of the default configuration
HEADINGS = (
    "fusion | tokens x width | shared ms | gathered ms | shared/gathered | gain | shared MiB | "
    "gathered MiB"
)


class Resampled(Fusion):
    """A `PerceiverResampler` alone, called as by the fusion that holds it."""

    def __init__(self, image_dim: int, text_dim: int) -> None:
        super().__init__(image_dim, text_dim, image_dim)
        self.resampler = PerceiverResampler(image_dim, num_layers=1)

    def prepare(self, image: Features) -> Any:
        return self.resampler(image.tokens, image.mask)

    def fuse(self, image: Any, text: Features) -> Features:
        return Features(image)


class QueriesAlone(QFormer):
    """A Q-Former asked nothing: what BLIP-2 makes of an image alone."""

    def prepare(self, image: Features) -> Any:
        nothing = image.tokens.new_zeros(image.tokens.shape[0], 1, self.text_dim)
        alone = Features(nothing, torch.zeros_like(image.mask[:, :1]))
        return super().fuse(super().prepare(image), alone)

    def fuse(self, prepared: Any, text: Features) -> Features:
        return prepared


bottom_up = partial(GlimpseAttention, score=TANH_PERCEPTRON, glimpses=1)
block = partial(Block, hidden_dim=128)
CASES: dict[str, tuple[tuple[int, int], Callable[[int, int], Fusion]]] = {
    "product": (PATCHES, Pooled),
    "MCB": (PATCHES, partial(Pooled, merge=MCB)),
    "projector": (PATCHES, partial(Projector, out_dim=768)),
    "Perceiver resampler": (PATCHES, Resampled),
    "gated cross-attention": (PATCHES, partial(GatedCrossAttention, out_dim=512)),
    "Q-Former": (PATCHES, partial(QFormer, out_dim=512, queries=32)),
    "Q-Former, image alone": (PATCHES, partial(QueriesAlone, out_dim=512, queries=32)),
    "cross-attention": (PATCHES, CrossAttention),
    "LXMERT": (PATCHES, LXMERT),
    "MCAN": (PATCHES, MCAN),
    "merged attention": (PATCHES, MergedAttention),
    "FiLM": (PATCHES, FiLM),
    "bottom-up top-down": (REGIONS, bottom_up),
    "glimpse attention (MLB)": (REGIONS, partial(GlimpseAttention, score=MLB, merge=MLB)),
    "stacked attention": (REGIONS, partial(StackedAttention, out_dim=512)),
    "parallel co-attention": (REGIONS, ParallelCoAttention),
    "MFB co-attention": (REGIONS, MFBCoAttention),
    "BAN-4": (REGIONS, partial(BAN, out_dim=512)),
    "DFAF": (REGIONS, partial(DFAF, out_dim=512)),
    "MuRel": (REGIONS, partial(MuRel, merge=block, pairwise_merge=block)),
}


class Step:
    """Forward and backward pass of a fusion, with shared images or gathered ones."""

    def __init__(self, name: str, shared: bool, autocast: bool) -> None:
        torch.manual_seed(0)
        (number, width), make = CASES[name]
        self.fusion, self.shared, self.autocast = make(width, WORDS[1]).eval(), shared, autocast
        self.index = torch.arange(round(QUESTIONS_PER_IMAGE * IMAGES)) % IMAGES
        self.tokens = torch.randn(IMAGES, number, width, requires_grad=True)
        self.boxes = torch.rand(IMAGES, number, 2, 2).sort(2).values.flatten(2)
        self.text = Features(torch.randn(len(self.index), *WORDS))

    def __call__(self) -> None:
        image = Features(self.tokens, boxes=self.boxes)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            if self.shared:
                fused = self.fusion(image, self.text, image_index=self.index)
            else:
                fused = self.fusion(image.take(self.index), self.text)
        fused.pooled.backward(torch.ones_like(fused.pooled))
        for leaf in (self.tokens, *self.fusion.parameters()):
            leaf.grad = None


def compare(name: str, pairs: int, seconds: float, autocast: bool = False) -> tuple[Pairs, str]:
    """The times, and the row of the table."""
    sides = [Step(name, shared, autocast) for shared in (True, False)]
    memory = [peak_memory(side) for side in sides]  # this step is slower and not timed
    found = Pairs(
        f"{name}: shared / gathered",
        *take_turns([partial(timed, side) for side in sides], pairs, seconds),
    )
    shared, gathered = found.medians
    return found, " | ".join(
        [
            name,
            "x".join(map(str, CASES[name][0])),
            *(f"{1e3 * median:.1f}" for median in (shared, gathered)),
            found.interval,
            f"{gathered / shared:.1f} x",
            *(f"{size:.0f}" for size in memory),
        ]
    )


def compare_questions(make: Callable[[list[str]], TextEncoder], pairs: int) -> Pairs:
    """An encoder's step on different questions, gathered, and on all of them."""
    torch.manual_seed(0)
    encoder = make([str(number) for number in range(40)]).eval()
    ids, index = torch.randint(2, 42, (DIFFERENT, 8)), torch.arange(EASY_VQA) % DIFFERENT

    def step(words: torch.Tensor, gathered: bool) -> None:
        features = encoder(words, torch.ones_like(words, dtype=torch.bool))
        features = features.take(index) if gathered else features
        (features.tokens.sum() + features.pooled.sum()).backward()

    sides = [partial(timed, partial(step, *side)) for side in ((ids, True), (ids[index], False))]
    for side in sides:
        side()
    return Pairs(f"{type(encoder).__name__}: once / all", *take_turns(sides, pairs))


def compare_all(pairs: int) -> list[Pairs]:
    names = ("product", "projector", "gated cross-attention", "stacked attention")
    fusions = [compare(name, pairs, seconds=20)[0] for name in names]
    return fusions + [compare_questions(make, pairs) for make in (Recurrent, Transformer)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="FUSION")
    parser.add_argument("--bf16", action="store_true", help="under torch.autocast")
    parser.add_argument("--threads", type=int, help="default: PyTorch's own choice")
    parser.add_argument("--pairs", type=int, default=15, help="most steps of a side (15)")
    parser.add_argument("--seconds", type=float, default=30, help="for one fusion (30)")
    parser.add_argument("--questions", action="store_true", help="text encoders, not fusions")
    parser.add_argument("--profile", action="store_true", help="where the time of a step goes")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    if given.questions:
        print(machine())
        for make in (Recurrent, Transformer):
            found = compare_questions(make, given.pairs)
            print(f"{found.name}: {found.interval}")
        return
    if given.profile:
        for name in given.only:
            step = Step(name, True, given.bf16)
            step()
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
                step()
            print(name, found.key_averages().table(sort_by="self_cpu_time_total", row_limit=12))
        return
    print(f"{machine()}; {IMAGES} images, {QUESTIONS_PER_IMAGE} questions an image.\n")
    print(markdown(HEADINGS, []))
    for name in track(given.only, console=Console(stderr=True)):
        row = compare(name, given.pairs, given.seconds, given.bf16)[1]
        print(f"| {row} |", flush=True)


if __name__ == "__main__":
    main()
