"""What many GPUs would cost, on paper, and what two processes measure here.

    python benchmarks/processes.py plan
    python benchmarks/processes.py weak --seconds 20

`plan` counts the parameters and the floating-point operations of three models (on torch's meta
device, so nothing is computed) and puts them into the formulas of docs/scaling.md. `weak` trains
the default model on made-up images with one process and with two, one thread each, turn by turn,
and prints how much of one process's speed each of two keeps.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from functools import partial
from typing import NamedTuple

import torch
import torch.distributed as dist
from pairs import Pairs, machine, take_turns
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from vlm.core.batch import Batch
from vlm.fusion import MCAN, Fusion, Pooled, Product
from vlm.heads import Classification
from vlm.heads.losses import AnswerCounts
from vlm.image import ConvNet, TimmEncoder
from vlm.model import VQAModel
from vlm.text import BagOfWords, Transformer

# VQA v2, training split (arXiv 1612.00837): questions, and the images they are about.
QUESTIONS, IMAGES = 443_757, 82_783
WORDS, ANSWERS = 14, 3_129
GPUS = (1, 8, 64, 512)
# A GPU's rate: the A100's dense bf16 peak by its data sheet, of which we assume 40 % is reached.
FLOPS = 0.4 * 312e12
# Bytes a second and direction of one GPU: an assumed 240e9 within a machine of 8 by NVLink, and
# 25e9 between machines by a network of 200 Gbit/s for each GPU.
NVLINK, NETWORK, PER_MACHINE = 240e9, 25e9, 8
IMAGES_PER_GPU = 32


class Model(NamedTuple):
    name: str
    build: partial[VQAModel]


class Unmasked(Transformer):
    """Hugging Face looks into a mask, and on torch's meta device there is nothing to see."""

    def encode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.model(ids).last_hidden_state
        return tokens, tokens.mean(1)


def model(image: partial, text: partial, fusion: partial[Fusion], answers: int) -> VQAModel:
    words = [str(i) for i in range(13_000)]
    image_encoder, text_encoder = image(), text(words)
    joined = fusion(image_encoder.dim, text_encoder.dim)
    head = Classification(joined.out_dim, [str(i) for i in range(answers)])
    return VQAModel(image_encoder, text_encoder, joined, head)


def vit(name: str) -> partial[TimmEncoder]:
    return partial(TimmEncoder, name=name, pretrained=False)


def bert(dim: int, layers: int) -> partial[Transformer]:
    return partial(
        Unmasked, dim=dim, num_layers=layers, num_heads=dim // 64, feedforward_dim=4 * dim
    )


MODELS = (
    Model(
        "small: CNN x bag of words x product",
        partial(model, ConvNet, BagOfWords, partial(Pooled, merge=Product), ANSWERS),
    ),
    Model(
        "base: ViT-B/16, BERT base, MCAN",
        partial(model, vit("vit_base_patch16_224"), bert(768, 12), partial(MCAN, dim=768), ANSWERS),
    ),
    Model(
        "large: ViT-L/16, BERT large, MCAN",
        partial(
            model, vit("vit_large_patch16_224"), bert(1024, 24), partial(MCAN, dim=1024), ANSWERS
        ),
    ),
)


def made_up(model: VQAModel, images: int, questions: int, answers: int, device: str) -> Batch:
    size = model.image_encoder.transform.size
    return Batch(
        images=torch.zeros(images, 3, *size, dtype=torch.uint8, device=device),
        image_index=torch.arange(questions, device=device) % images,
        words=torch.ones(questions, WORDS, dtype=torch.long, device=device),
        words_mask=torch.ones(questions, WORDS, dtype=torch.bool, device=device),
        targets=AnswerCounts(
            torch.ones(questions, answers, device=device),
            torch.full((questions,), 10.0, device=device),
        ),
        ids=[str(i) for i in range(questions)],
        total=questions,
    )


def plan() -> None:
    questions = round(IMAGES_PER_GPU * QUESTIONS / IMAGES)
    print(f"{IMAGES_PER_GPU} images, {questions} questions a GPU and step\n")
    for entry in MODELS:
        with torch.device("meta"):
            made = entry.build()
            batch = made_up(made, IMAGES_PER_GPU, questions, ANSWERS, "meta")
        count = sum(p.numel() for p in made.parameters())
        with FlopCounterMode(display=False) as counter, torch.device("meta"):
            made.head.loss(made(batch), batch).backward()
        compute = counter.get_total_flops() / FLOPS
        largest = max(sum(p.numel() for p in part.parameters()) for part in made.children())
        print(f"{entry.name}: {count / 1e6:,.1f} M parameters,", end=" ")
        print(
            f"{counter.get_total_flops() / questions / 1e9:,.2f} GFLOP a question forward+backward"
        )
        print(
            "| GPUs | way | GB moved a step | weights etc. GiB | step ms | efficiency % | epoch s |"
        )
        print("|---|---|---|---|---|---|---|")
        for gpus in GPUS:
            bandwidth = NVLINK if gpus <= PER_MACHINE else NETWORK
            ring = (gpus - 1) / gpus
            for way, moved, held in (
                # All-reduce of the gradients: each value is sent twice round the ring.
                ("DDP", 2 * ring * 4 * count, 20 * count),
                # Weights gathered twice, gradients scattered once.
                ("FSDP2", 3 * ring * 4 * count, 16 * count / gpus + 8 * largest),
            ):
                transfer = moved / bandwidth
                # Between hidden under the computation, and not at all.
                best, worst = max(compute, transfer), compute + transfer
                steps = IMAGES / IMAGES_PER_GPU / gpus
                print(
                    f"| {gpus} | {way} | {moved / 1e9:.3g} | {held / 2**30:.3g} | "
                    f"{1e3 * best:.3g} - {1e3 * worst:.3g} | {100 * compute / worst:.0f} - "
                    f"{100 * compute / best:.0f} | {steps * best:.3g} - {steps * worst:.3g} |"
                )
        print()


def work(seconds: float) -> None:
    """One process of the measurement: prints its steps a second."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    answers = 13
    made = model(ConvNet, BagOfWords, partial(Pooled, merge=Product), answers)
    batch = made_up(made, 16, 154, answers, "cpu")
    parallel = DistributedDataParallel(made)
    optimizer = torch.optim.AdamW(made.parameters())

    def step() -> None:
        made.head.loss(parallel(batch), batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(5):
        step()
    started, steps = time.perf_counter(), 0
    # All processes must take the same number of steps, so they agree on when it is over.
    going = torch.ones(1)
    while going.item():
        step()
        steps += 1
        going = torch.tensor([float(time.perf_counter() - started < seconds)])
        dist.all_reduce(going, op=dist.ReduceOp.MIN)
    if dist.get_rank() == 0:
        print(f"rate {steps / (time.perf_counter() - started)}")
    dist.destroy_process_group()


def weak(seconds: float, pairs: int) -> Pairs:
    """Seconds of a step; their ratio is the weak-scaling efficiency of two processes."""

    def step(processes: int) -> float:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={processes}", __file__, "work", f"--seconds={seconds}"]
        said = subprocess.run(
            command,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return 1 / float(said.split("rate ")[1].split()[0])

    title = "a training step on made-up images: alone / with a second process"
    return Pairs(title, *take_turns([partial(step, 1), partial(step, 2)], pairs))


def compare_all(pairs: int) -> list[Pairs]:
    return [weak(10, pairs)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["plan", "weak", "work"])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--pairs", type=int, default=5)
    given = parser.parse_args()
    if given.what == "plan":
        plan()
    elif given.what == "weak":
        found = weak(given.seconds, given.pairs)
        one, two = (1 / seconds for seconds in found.medians)
        print(
            f"1 process {one:.2f} steps/s, 2 processes {two:.2f} steps/s each (medians); "
            f"weak-scaling efficiency of 2 processes {found.ratio}; {machine()}"
        )
    else:
        work(given.seconds)


if __name__ == "__main__":
    main()
