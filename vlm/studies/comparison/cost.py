"""The cost of a fusion: FLOPs, time and memory of a training step on one fixed batch."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities import move_data_to_device
from rich.console import Console
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from vlm.core.batch import Batch
from vlm.core.features import Features, Seen
from vlm.core.files import write_whole
from vlm.core.terminal import new_progress
from vlm.core.validation import counted
from vlm.core.version import __version__
from vlm.data.batches import VQADataset
from vlm.data.features.frozen import kept_images
from vlm.data.sampler import ImageGroupSampler
from vlm.datasets.table import image_groups
from vlm.image.base import PixelEncoder
from vlm.model import VQAModel
from vlm.studies.comparison.build import Builder, Variant
from vlm.studies.comparison.plan import PlanError
from vlm.training.finetuning.plan import set_modes

ROUNDS, STEPS, WARM_UP = 5, 5, 2
"""The models take turns: in each round each makes WARM_UP steps and then STEPS that are timed."""


@dataclass(frozen=True)
class Cost:
    """Cost of one training step: forward, loss, backward, optimiser.

    Attributes:
        questions, images: numbers of questions and of images in the batch.
        flops: forward and backward FLOPs of the whole model; a multiply-add counts as two.
            Includes matrix products, convolutions and attention, but no elementwise operations
            or FFTs.
        fusion_flops: FLOPs of the fusion alone.
        ms: median milliseconds; low and high are the medians of the fastest and slowest round.
        memory: bytes of weights and optimiser state plus the peak memory of the step; None if the
            device does not report it.
        device: name of the device, with the number of threads.
    """

    questions: int
    images: int
    flops: int
    fusion_flops: int
    ms: float
    ms_low: float
    ms_high: float
    memory: int | None
    device: str


def measure(
    builder: Builder, variants: Sequence[Variant], path: Path, console: Console
) -> dict[str, Cost]:
    """Measure the cost of each variant, by name; one whose step fails is left out, and its run
    reports the error.

    The file at `path` is reused for the same variants and data on the same machine, unless one of
    them was left out.
    """
    bench = Bench(builder)
    about = [__version__, builder.digest, bench.device_name]
    asked = json.loads(json.dumps([[variant.config for variant in variants], about]))
    if path.is_file():
        known = json.loads(path.read_text())
        if known["asked"] == asked and len(known["costs"]) == len(variants):
            return read_costs(path)
    counts: dict[str, dict[str, Any]] = {}
    times: defaultdict[str, list[list[float]]] = defaultdict(list)
    with new_progress(console) as progress:
        task = progress.add_task("measuring cost", total=(ROUNDS + 1) * len(variants))
        for variant in variants:
            try:
                counts[variant.name] = bench.counts(builder.model_of(variant.fusion))
            except Exception as error:  # whatever the error, measure and train the others
                console.print(f"{variant.name}: cost not measured: {error}", markup=False)
            progress.advance(task)
        for _ in range(ROUNDS):
            for variant in variants:
                if variant.name in counts:
                    times[variant.name].append(bench.seconds(builder.model_of(variant.fusion)))
                progress.advance(task)
    costs = {name: _cost(count, times[name], bench) for name, count in counts.items()}
    content = {"asked": asked, "costs": {name: asdict(cost) for name, cost in costs.items()}}
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())
    return costs


def read_costs(path: Path, variants: Sequence[Variant] | None = None) -> dict[str, Cost]:
    """What `measure` wrote.

    Raises:
        PlanError: it was measured for others than these variants.
    """
    known = json.loads(path.read_text())
    asked = None if variants is None else [variant.config for variant in variants]
    if asked is not None and known["asked"][0] != json.loads(json.dumps(asked)):
        raise PlanError(
            f"{path}: has costs of other settings, since the plan was changed meanwhile; expected "
            f"one plan until the end. Run the same command again."
        )
    return {name: Cost(**row) for name, row in known["costs"].items()}


def _cost(count: dict[str, Any], rounds: list[list[float]], bench: Bench) -> Cost:
    medians = [1000 * statistics.median(steps) for steps in rounds]
    return Cost(
        questions=len(bench.batch.ids),
        images=bench.images,
        ms=1000 * statistics.median(second for steps in rounds for second in steps),
        ms_low=min(medians),
        ms_high=max(medians),
        device=bench.device_name,
        **count,
    )


class Step(NamedTuple):
    """A callable that runs one training step of a model on the batch."""

    model: VQAModel
    batch: Batch
    optimizer: torch.optim.Optimizer
    context: Any

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        with self.context():
            loss = self.model.head.loss(self.model(self.batch), self.batch)
        loss.backward()
        self.optimizer.step()


class _Given(NamedTuple):
    """The images of the one batch, or features of them."""

    images: Any

    def read(self, paths: Sequence[str], questions: Sequence[str]) -> Seen:
        return self.images


class Bench:
    """The first batch of training questions, on the base's device and in its precision."""

    def __init__(self, builder: Builder) -> None:
        trainer = builder.base.trainer
        self.device = trainer.strategy.root_device
        self.precision, self.optimizer = trainer.precision_plugin, builder.base.task.optimizer
        table = builder.data.table("train")
        sampler = ImageGroupSampler(
            image_groups(table),
            builder.data.images_per_batch,
            builder.data.questions_per_image,
            seed=None,
        )
        processor = builder.model.processor
        images = builder.data.open_images.store(processor.transform)
        batch = VQADataset(table, processor, images)[next(iter(sampler))]
        lists = batch.image_lists
        seen_rows = batch.image_index if lists is None else lists[lists >= 0]
        self.images = len(seen_rows.unique())
        self.batch: Batch = move_data_to_device(batch, self.device)
        encoder = builder.model.image_encoder
        if builder.data.images.features is not None and isinstance(encoder, PixelEncoder):
            encoder.to(self.device).eval()  # as in the runs
            with torch.no_grad(), self.precision.forward_context():
                seen, layers = _Given(self.batch.images), builder.base.task.layers
                kept = kept_images(
                    encoder, layers, lambda part: _Given(part.look(seen.images)), lambda: seen
                )
                self.batch = self.batch._replace(images=kept.read([], []))

    @property
    def device_name(self) -> str:
        """The device's name; for a CPU with the number of threads, which affects its speed."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        threads = counted(torch.get_num_threads(), "thread")
        return f"{self.device.type} ({platform.machine()}), {threads}"

    def _step(self, model: VQAModel) -> Step:
        self.precision.convert_module(model.to(self.device)).train()  # in place
        trained = [p for p in model.parameters() if p.requires_grad]
        set_modes(model, set(trained))
        optimizer = self.optimizer(trained)
        return Step(model, self.batch, optimizer, self.precision.forward_context)

    def counts(self, model: VQAModel) -> dict[str, Any]:
        """FLOPs and memory of a new model's step."""
        step = self._step(model)
        with count_flops() as whole, step.context():
            step.model.head.loss(step.model(self.batch), self.batch).backward()
        with step.context():
            image = step.model.image_encoder(self.batch.images)
            text = step.model.read(self.batch)
        image, text = _leaves(image), _leaves(text)
        with count_flops() as fusion, step.context():
            fused = step.model.fusion(
                image,
                text,
                image_index=self.batch.image_index,
                image_lists=self.batch.image_lists,
            )
            fused.pooled.float().sum().backward()
        del image, text
        step()  # creates the optimiser's state
        step.optimizer.zero_grad()
        return {
            "flops": whole.get_total_flops(),
            "fusion_flops": fusion.get_total_flops(),
            "memory": peak_memory(step, self.device),
        }

    def seconds(self, model: VQAModel) -> list[float]:
        """Seconds taken by each of `STEPS` steps."""
        step = self._step(model)
        taken = []
        for _ in range(WARM_UP + STEPS):
            self._wait()
            started = time.perf_counter()
            step()
            self._wait()
            taken.append(time.perf_counter() - started)
        return taken[WARM_UP:]

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@contextmanager
def count_flops() -> Iterator[FlopCounterMode]:
    """Count the FLOPs inside the block."""
    # The counter ignores fused attention on the CPU.
    plain: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, plain:
        yield counter


def peak_memory(step: Step, device: torch.device) -> int | None:
    """Bytes of weights and optimiser state plus the peak of what a step allocates."""
    resting = [*step.model.parameters(), *step.model.buffers()]
    for state in step.optimizer.state.values():
        resting += [value for value in state.values() if isinstance(value, Tensor)]
    held = sum(value.numel() * value.element_size() for value in resting)
    if device.type == "cuda":
        # Beside what is held the device has the batch, and workspaces of the libraries.
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return held + torch.cuda.max_memory_allocated(device) - before
    return held + _most_allocated(step) if device.type == "cpu" else None


def _most_allocated(step: Step) -> int:
    """The peak of what a step on the CPU allocates, in bytes."""
    # The peak of the process may come from an earlier, larger model, but the profiler sees each
    # allocation. Its warnings about missing GPUs are kept off the terminal.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    held = most = 0
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def _leaves(features: Features) -> Features:
    """Detach the features, so that a backward pass ends there.

    Those of a frozen encoder still need no gradient.
    """
    tokens, pooled = features.tokens, features.pooled
    return features._replace(
        tokens=tokens.detach().requires_grad_(tokens.requires_grad),
        pooled=pooled.detach().requires_grad_(pooled.requires_grad),
    )
