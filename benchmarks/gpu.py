"""Does everything work on a GPU, and what does it gain? Every check has a reference.

    python benchmarks/gpu.py --out gpu.json                  # under ten minutes on one GPU
    python benchmarks/gpu.py --only attention parts          # some of the checks
    python benchmarks/gpu.py --device cpu --quick            # the script itself, on small things

Each check gives figures, and fails if they are not what they should be: numbers on the GPU beside
those of the CPU, attention beside an explicit softmax in float64, accuracies beside the published
ones, compiled fusions with plain ones. The file is rewritten after each check, so one that
hangs loses no other. A check does not start once the budget of seconds is used up. `--quick` trains
for a few steps and checks no accuracy.

Without a GPU nothing here says anything about one: the twin shows that the script runs.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import vlm
from vlm.cli.main import main as command
from vlm.core.compat import tree_leaves, tree_map_only
from vlm.core.features import Features, masked_softmax
from vlm.core.host import HostCopy
from vlm.data.features.frozen import encode
from vlm.fusion import CrossAttention, Fusion
from vlm.fusion.attention import attend
from vlm.testing.fusions import some_features

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("VLM_DATA", ROOT.parent / "shared/data"))
# The contract's parts, and callbacks that strike in mid-training.
sys.path += [str(ROOT / "tests"), str(ROOT / "tests/training")]
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
LARGEST = {"fp32": 1e-4, "bf16": 0.1, "fp16": 0.1}
"""Largest error of a part's result beside the CPU's in fp32, relative to the largest entry."""
PUBLISHED = 0.995
"""Test accuracy of `configs/easy_vqa.yaml`, at least."""


@dataclass
class Bench:
    """What the checks run on.

    Attributes:
        device: GPU, or CPU for the twin.
        quick: small sizes, and no accuracies.
        folder: for runs and other files.
    """

    device: torch.device
    quick: bool
    folder: Path

    @property
    def gpu(self) -> bool:
        return self.device.type == "cuda"

    def wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()

    def seconds(self, run: Callable[[], object], times: int) -> float:
        """Median seconds of one call, after two that do not count."""
        taken = []
        for _ in range(times + 2):
            self.wait()
            started = time.perf_counter()
            run()
            self.wait()
            taken.append(time.perf_counter() - started)
        return statistics.median(taken[2:])


Figures = dict[str, Any]
CHECKS: dict[str, Callable[[Bench], Figures]] = {}
"""In order of value."""


class Skipped(Exception):
    """A check that has no meaning here, and why."""


def check(run: Callable[[Bench], Figures]) -> Callable[[Bench], Figures]:
    CHECKS[run.__name__] = run
    return run


def require(condition: object, said: object) -> None:
    if not condition:
        raise AssertionError(said)


def error(got: Any, expected: Any) -> float:
    """The largest error of any tensor, relative to its largest entry."""
    worst = 0.0
    for one, other in zip(tensors(got), tensors(expected), strict=True):
        one, other = one.detach().double().cpu(), other.detach().double().cpu()
        require(one.isfinite().all(), "values that are not finite")
        if one.numel():
            worst = max(worst, ((one - other).abs().max() / other.abs().max().clamp(min=1)).item())
    return worst


def tensors(value: Any) -> list[Tensor]:
    return [x for x in tree_leaves(value) if isinstance(x, Tensor) and x.is_floating_point()]


def moved(value: Any, device: torch.device) -> Any:
    return tree_map_only(Tensor, lambda tensor: tensor.to(device), value)


@check
def attention(bench: Bench) -> Figures:
    """`attend` by every kernel, empty rows too, beside a softmax in float64."""
    kernels: dict[str, Callable[[], Any]] = {"default": nullcontext}
    for backend in ("MATH", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "FLASH_ATTENTION"):
        kernels[backend] = partial(sdpa_kernel, getattr(SDPBackend, backend))
    figures: Figures = {}
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(4, 4, n, 32, generator=generator) for n in (20, 50, 50))
    allowed = torch.rand(4, 1, 20, 50, generator=generator) < 0.7
    allowed[:, :, 3], allowed[2] = False, False
    logits = query.double() @ key.double().mT * 32**-0.5
    expected = masked_softmax(logits, allowed) @ value.double()
    for name, kernel in kernels.items():
        for kind, dtype in {"fp32": torch.float32, **HALVES}.items():
            given = [x.to(bench.device, dtype, copy=True) for x in (query, key, value)]
            given = [x.requires_grad_() for x in given]
            try:
                with kernel():
                    mixed, _ = attend(*given, allowed.to(bench.device))
                    mixed.float().square().sum().backward()
            except RuntimeError as refused:
                require(name != "default", refused)
                figures[f"{name} {kind}"] = "no such kernel for a mask"
                continue
            require(all(x.grad.isfinite().all() for x in given), f"{name} {kind}: gradients")
            require(not mixed[2].any() and not mixed[:, :, 3].any(), f"{name} {kind}: empty rows")
            figures[f"{name} {kind}"] = worst = error(mixed, expected)
            require(worst <= LARGEST[kind], f"{name} {kind}: off by {worst:.2g}")
    return figures


@check
def parts(bench: Bench) -> Figures:
    """Every part of the contract beside the CPU; no fusion waits for the device."""
    from contract.encoder_parts import IMAGE_ENCODERS, TEXT_ENCODERS
    from contract.fusion_parts import FUSIONS, MERGES

    tables: tuple[dict[type, list[Any]], ...] = (MERGES, FUSIONS, IMAGE_ENCODERS, TEXT_ENCODERS)
    worst = dict.fromkeys(LARGEST, (0.0, ""))
    failed, count = [], 0
    for table in tables:
        for cls, makes in table.items():
            for number, make in enumerate(makes[: 1 if bench.quick else None]):
                torch.manual_seed(0)
                name, count = f"{cls.__name__}-{number}", count + 1
                try:
                    part, inputs = part_and_inputs(bench, table is TEXT_ENCODERS, make)
                    for kind, found in errors_of(bench, part, inputs).items():
                        worst[kind] = max(worst[kind], (found, name))
                        require(found <= LARGEST[kind], f"{kind} is off by {found:.2g}")
                except Exception as problem:  # the others say more than the first alone
                    failed.append(f"{name}: {type(problem).__name__}: {problem}"[:300])
    require(not failed, failed)
    return {"parts": count, "worst": worst}


def part_and_inputs(bench: Bench, reads_words: bool, make: Any) -> tuple[nn.Module, Any]:
    if reads_words:
        encoder = make(Path(tempfile.mkdtemp(dir=bench.folder)))
        return encoder, encoder.tokenizer(["what colour is the circle", "circle", ""])
    part = make()
    if isinstance(part, Fusion):
        image = some_features(part.image_dim, (7, 3, 1, 0), 7, boxes=True)
        return part, (image, some_features(part.text_dim, (5, 2, 1, 0), 5))
    if hasattr(part, "x_dim"):
        return part, (torch.randn(3, 5, part.x_dim), torch.randn(3, 1, part.y_dim))
    if hasattr(part.transform, "shape"):
        return part, (torch.randint(0, 255, (2, *part.transform.shape), dtype=torch.uint8),)
    return part, (some_features(part.dim, (4, 1), 4, boxes=True),)


def errors_of(bench: Bench, part: nn.Module, inputs: Any) -> dict[str, float]:
    expected = part.eval()(*inputs)
    # A copy of a traced model is in training mode.
    part, inputs = copy.deepcopy(part).to(bench.device).eval(), moved(inputs, bench.device)
    found = {"fp32": error(part(*inputs), expected)}
    for kind, dtype in HALVES.items():
        with torch.autocast(bench.device.type, dtype):
            found[kind] = error(part(*inputs), expected)
    if bench.gpu and isinstance(part, Fusion):
        torch.cuda.set_sync_debug_mode("error")
        try:
            part.train()(*inputs).pooled.sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return found


def fit(bench: Bench, name: str, *more: str, config: str = "easy_vqa", code: int = 0) -> Path:
    """Run `vlm fit` in this process; its run's folder."""
    folder = bench.folder / name
    options = [f"--run.folder={folder}", "--trainer.enable_progress_bar=false"]
    kind = "gpu" if bench.gpu else "cpu"
    given = ["fit", f"--config={ROOT}/configs/{config}.yaml", *options]
    small = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=3"] if bench.quick else []
    small += ["--trainer.limit_val_batches=1"] if bench.quick else []
    small += ["--trainer.limit_test_batches=1"] if bench.quick else []
    ended = 0
    try:
        command([*given, f"--trainer.accelerator={kind}", *small, *more])
    except SystemExit as left:
        ended = int(left.code or 0)
    require(ended == code, f"{name}: exit code {ended}, expected {code}")
    return max(folder.rglob("config.yaml"), key=lambda path: path.stat().st_mtime).parent


def results(run: Path) -> Figures:
    overall, *_ = json.loads((run / "test.json").read_text())["results"]
    return dict(overall)


def answers_of(run: Path, device: torch.device) -> list[Any]:
    """What a run's model answers to twelve questions of easy-VQA."""
    table = vlm.datasets.EasyVQA().table("test").slice(0, 12)
    vqa = vlm.load(run, device)
    return vqa.answer(table["image"].to_pylist(), table["question"].to_pylist(), top_k=3)


@check
def trainings(bench: Bench) -> Figures:
    """easy-VQA in three precisions, and the checkpoint on both devices."""
    figures: Figures = {}
    for precision in ("32-true", "bf16-mixed", "16-mixed")[: 2 if bench.quick else None]:
        started = time.perf_counter()
        run = fit(bench, f"trained-{precision}", f"--trainer.precision={precision}")
        accuracy = results(run)["accuracy"]
        here, there = (answers_of(run, d) for d in (torch.device("cpu"), bench.device))
        shares = max(
            abs(a - b)
            for one, other in zip(here, there, strict=True)
            for (_, a), (_, b) in zip(one.top, other.top, strict=True)
        )
        figures[precision] = {
            "accuracy": accuracy,
            "seconds": time.perf_counter() - started,
            "largest difference of probabilities between the devices": shares,
        }
        require(bench.quick or accuracy >= PUBLISHED, f"{precision}: {accuracy}")
        require(shares <= 1e-3, f"{precision}: probabilities differ by {shares:.2g}")
    return figures


@check
def heads(bench: Bench) -> Figures:
    """The loss after 20 steps of the other heads, with loader workers, beside the CPU's."""
    figures: Figures = {}
    count = 2 if bench.quick else 20
    steps = ["--trainer.max_epochs=1", f"--trainer.log_every_n_steps={count}", "--run.test=false"]
    steps += [f"--trainer.limit_train_batches={count}", "--trainer.limit_val_batches=1"]
    on_cpu = Bench(torch.device("cpu"), bench.quick, bench.folder / "cpu")
    for head in ("generation", "multiple_choice", "multi_task")[: 1 if bench.quick else None]:
        losses = [
            float(first(fit(where, head, *steps, workers, config=f"easy_vqa_{head}"), "train_loss"))
            for where, workers in ((bench, "--data.workers=2"), (on_cpu, "--data.workers=0"))
        ]
        figures[head] = losses
        require(abs(losses[0] - losses[1]) <= 0.05 * abs(losses[1]), f"{head}: losses {losses}")
    return figures


def first(run: Path, column: str) -> str:
    header, *rows = (run / "metrics.csv").read_text().splitlines()
    place = header.split(",").index(column)
    return next(found for row in rows if (found := row.split(",")[place]))


@check
def signals(bench: Bench) -> Figures:
    """SIGTERM in mid-training, then on from there, on the device and on the CPU."""
    told = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=12", "--run.test=false"]
    told += ["--trainer.limit_val_batches=1", "--trainer.log_every_n_steps=12"]
    strike = ["--trainer.callbacks+=mishaps.Strike", "--trainer.callbacks.what=SIGTERM"]
    strike += ["--trainer.callbacks.hook=on_train_batch_start", "--trainer.callbacks.step=5"]
    whole = float(first(fit(bench, "whole", *told), "train_loss"))
    stopped = fit(bench, "stopped", *told, *strike, code=75)
    copied = bench.folder / "copied"
    copied.mkdir()
    last = (stopped / "checkpoints/last.ckpt").resolve()
    for file in (last, last.with_name(f"{last.name}.sha256")):
        (copied / file.name).write_bytes(file.read_bytes())
    on_cpu = Bench(torch.device("cpu"), bench.quick, bench.folder)
    there = first(fit(bench, "stopped", *told, f"--ckpt_path={stopped}"), "train_loss")
    here = first(fit(on_cpu, "moved", *told, f"--ckpt_path={copied / last.name}"), "train_loss")
    losses = {"whole": whole, "continued": float(there), "continued on the CPU": float(here)}
    for name, loss in losses.items():
        require(abs(loss - whole) <= 0.01 * whole, f"{name}: {losses}")
    return losses


@check
def speed(bench: Bench) -> Figures:
    """Steps a second of one model in five ways, which take turns; the memory of a step."""
    torch.manual_seed(0)
    sizes = (2, 8, 32) if bench.quick else (64, 512, 512)
    batch, width, out = sizes
    image = vlm.image.TimmEncoder("resnet18" if not bench.quick else "resnet10t", image_size=64)
    text = vlm.text.Transformer(["what", "color"], dim=width, num_heads=4)
    fusion = CrossAttention(image.dim, text.dim, out_dim=out, num_heads=4)
    head = vlm.heads.Classification(out, [str(n) for n in range(1000)])
    model = vlm.model.VQAModel(image, text, fusion, head).to(bench.device).train()
    images = torch.randint(0, 255, (batch, 3, 64, 64), dtype=torch.uint8)
    questions = ["what color what color"] * batch
    made = model.processor.batch(images, list(range(batch)), questions, [["1"]] * batch)
    given = moved(made, bench.device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    losses: list[Any] = []

    def step(read: bool = False, half: bool = False, precision: str = "highest") -> None:
        torch.set_float32_matmul_precision(precision)
        optimizer.zero_grad()
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=half):
            loss = model.head.loss(model(given), given)
        loss.backward()
        optimizer.step()
        losses.append(loss.item() if read else HostCopy(loss))

    ways = {
        "fp32": step,
        "fp32, the loss read at once": partial(step, read=True),
        "fp32, TF32": partial(step, precision="high"),
        "bf16": partial(step, half=True),
    }
    few = 1 if bench.quick else 10

    def several(way: Callable[[], None]) -> None:
        for _ in range(few):
            way()

    taken: dict[str, list[float]] = {name: [] for name in [*ways, "bf16, channels last"]}
    for layout in (torch.contiguous_format, torch.channels_last):
        image.to(memory_format=layout)
        last = layout is torch.channels_last
        for _ in range(1 if bench.quick else 5):
            for name, way in ways.items():
                if not last or name == "bf16":
                    column = f"{name}, channels last" if last else name
                    taken[column].append(bench.seconds(partial(several, way), 3) / few)
    torch.set_float32_matmul_precision("highest")
    figures: Figures = {
        name: {"steps a second": 1 / statistics.median(found), "rounds": found}
        for name, found in taken.items()
    }
    if bench.gpu:
        torch.cuda.reset_peak_memory_stats()
        step()
        figures["peak memory of a step, MiB"] = torch.cuda.max_memory_allocated() / 2**20
    return figures


@check
def waits(bench: Bench) -> Figures:
    """How often torch says that a training on easy-VQA waits for the device: never in a step."""
    if not bench.gpu:
        raise Skipped("a CPU is not waited for; tests/device counts on a pretended one")
    told = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=20", "--run.test=false"]
    told += ["--trainer.limit_val_batches=0", "--run.monitor=val_loss"]
    told += ["--trainer.log_every_n_steps=0", "--trainer.enable_checkpointing=false"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            fit(bench, "waits", *told)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    said = [w for w in caught if "synchronizing" in str(w.message)]
    places: dict[str, int] = {}
    for warning in said:
        place = f"{Path(warning.filename).name}:{warning.lineno}"
        places[place] = places.get(place, 0) + 1
    often = {place: count for place, count in places.items() if count >= 20}
    require(not often, f"once a step: {often}")
    return {"in 20 steps": places}


@check
def photos(bench: Bench) -> Figures:
    """DAQUAR in bf16 with clipping and a fused optimiser, as a user types it first."""
    if bench.quick:
        raise Skipped("it takes minutes without a GPU")
    if not (DATA / "daquar").is_dir():
        raise Skipped(f"{DATA / 'daquar'} is missing; VLM_DATA names another folder")
    told = [f"--dataset.root={DATA / 'daquar'}", "--trainer.precision=bf16-mixed"]
    told += ["--trainer.max_epochs=1", "--trainer.limit_train_batches=20"]
    return results(fit(bench, "daquar", *told, config="daquar"))


@check
def memory(bench: Bench) -> Figures:
    """A device without memory ends a training in one sentence, which says how much was asked."""
    if not bench.gpu:
        raise Skipped("the CPU's allocator is tested in tests/training")
    code = "import sys, torch; torch.cuda.set_per_process_memory_fraction(0.0005)\n"
    code += "from vlm.cli.main import main; main(sys.argv[1:])"
    told = ["fit", f"--config={ROOT}/configs/easy_vqa.yaml", f"--run.folder={bench.folder}/memory"]
    told += ["--trainer.accelerator=gpu", "--data.images_per_batch=2000"]
    done = subprocess.run([sys.executable, "-c", code, *told], capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if line.startswith("vlm:")]
    require(done.returncode == 1 and len(said) == 1, done.stderr[-1500:])
    require("out of memory (" in said[0] and "iB)" in said[0], said)
    return {"said": said[0]}


@check
def strategies(bench: Bench) -> Figures:
    """DDP and FSDP2 of one process beside none: the loss of the same steps."""
    told = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=10", "--run.test=false"]
    told += ["--trainer.log_every_n_steps=10", "--trainer.limit_val_batches=1"]
    fsdp = "lightning.pytorch.strategies.ModelParallelStrategy"
    ways = {
        "one process": [],
        "ddp": ["--trainer.strategy=ddp"],
        "fsdp2": [
            f"--trainer.strategy={fsdp}",
            "--trainer.strategy.data_parallel_size=1",
            "--trainer.strategy.tensor_parallel_size=1",
            "--trainer.strategy.save_distributed_checkpoint=false",
        ],
    }
    losses: dict[str, float] = {}
    for name, more in ways.items():
        folder = bench.folder / name
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
        arguments = ["fit", f"--config={ROOT}/configs/easy_vqa.yaml", f"--run.folder={folder}"]
        arguments += [f"--trainer.accelerator={'gpu' if bench.gpu else 'cpu'}", *told, *more]
        arguments += ["--trainer.enable_progress_bar=false"]
        done = subprocess.run(
            [sys.executable, *launcher, "-m", "vlm", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        require(done.returncode == 0, f"{name}: {done.stderr[-1500:]}")
        (run,) = (path.parent for path in folder.rglob("config.yaml"))
        losses[name] = float(first(run, "train_loss"))
    for name, loss in losses.items():
        require(abs(loss - losses["one process"]) <= 1e-3 * loss, f"{name}: {losses}")
    return losses


@check
def answers(bench: Bench) -> Figures:
    """Beam search, and every explanation that fits a model, beside the CPU."""
    from vlm.explain.explainer import explain_case, make_case, methods_for
    from vlm.explain.methods import METHODS

    torch.manual_seed(0)
    figures: Figures = {}
    joint = some_features(64, (9, 5, 1, 3), 9)
    for beams in (1, 4):
        head = vlm.heads.Generation(64, beams=beams).eval()
        expected = head.decode(head(joint, None), beams)
        head = copy.deepcopy(head).to(bench.device)
        given = moved(joint, bench.device)
        found = head.decode(head(given, None), beams)
        texts = [[[text for text, _ in ranked] for ranked in x] for x in (found, expected)]
        require(texts[0] == texts[1], texts)
        decode = partial(lambda h, f: h.decode(h(f, None), 1), head, given)
        figures[f"{beams} beams, ms"] = 1000 * bench.seconds(decode, 1 if bench.quick else 10)
    image, text = vlm.image.ConvNet(), vlm.text.Transformer(["what", "color", "is", "it"])
    fusion = CrossAttention(image.dim, text.dim)
    head = vlm.heads.Classification(fusion.out_dim, ["red", "blue"])
    model = vlm.model.VQAModel(image, text, fusion, head).eval()
    photo = vlm.datasets.EasyVQA().table("test")["image"][0].as_py()
    there = copy.deepcopy(model).to(bench.device)
    for name in methods_for(model):
        kept = [
            explain_case(make_case(m, photo, "what color is it", None, None), METHODS[name]())
            for m in (there, model)
        ]
        relevances = [torch.tensor(found.word_relevance) for found in kept]
        figures[name] = worst = error(relevances[0], relevances[1])
        require(worst <= 1e-2, f"{name}: off by {worst:.2g}")
    return figures


@check
def features(bench: Bench) -> Figures:
    """Images a second of a frozen encoder by batch size, as the feature cache encodes them."""
    name = "resnet10t" if bench.quick else "resnet50"
    encoder = vlm.image.TimmEncoder(name, image_size=64 if bench.quick else 224).eval()
    images = torch.randint(0, 255, (2, *encoder.transform.shape), dtype=torch.uint8)
    expected = Features(*encode(encoder, images).read())
    encoder.to(bench.device)
    figures: Figures = {"error": error(Features(*encode(encoder, images).read()), expected)}
    require(figures["error"] <= 1e-2, figures)  # convolutions take TF32 by torch's own default
    for size in (2,) if bench.quick else (16, 32, 64, 256):
        batch = images[:1].expand(size, -1, -1, -1).contiguous()

        def two(batch: Tensor = batch) -> None:
            first, second = encode(encoder, batch), encode(encoder, batch)
            first.read(), second.read()

        figures[f"batches of {size}"] = 2 * size / bench.seconds(two, 1 if bench.quick else 10)
    return figures


@check
def compiled(bench: Bench) -> Figures:
    """A fusion under `torch.compile` with questions of many lengths, beside the plain one."""
    from torch._dynamo.utils import counters

    torch.manual_seed(0)
    fusion = CrossAttention(64, 32, out_dim=64, num_heads=4).to(bench.device).eval()
    counters.clear()
    quick = torch.compile(fusion, dynamic=True, backend="eager" if bench.quick else "inductor")
    worst = 0.0
    with torch.no_grad():
        for length in (5, 9) if bench.quick else (3, 5, 8, 11, 17, 20):
            image = some_features(64, (49,) * 8, 49)
            text = some_features(32, (length,) * 8, length)
            given = moved((image, text), bench.device)
            worst = max(worst, error(quick(*given), fusion(*given)))
    graphs = counters["stats"]["unique_graphs"]
    require(worst <= 1e-3, f"off by {worst:.2g}")
    require(graphs <= 3, f"{graphs} graphs")
    return {"error": worst, "graphs": graphs}


def machine(bench: Bench) -> Figures:
    names = ("vlm-vqa", "torch", "torchvision", "lightning", "transformers", "timm", "numpy")
    about: Figures = {name: version(name) for name in names}
    about |= {"python": platform.python_version(), "device": platform.machine()}
    about |= {"threads": torch.get_num_threads(), "quick": bench.quick}
    if bench.gpu:
        about["device"] = torch.cuda.get_device_name()
        about["capability"] = torch.cuda.get_device_capability()
        about["CUDA"], about["cuDNN"] = torch.version.cuda, torch.backends.cudnn.version()
        about["memory, GiB"] = torch.cuda.get_device_properties(0).total_memory / 2**30
    return about


def run(bench: Bench, names: Iterable[str], out: Path, budget: float) -> Figures:
    """Run the checks; the report that is also in the file."""
    report: Figures = {"machine": machine(bench), "checks": {}}
    began = time.perf_counter()
    for name in names:
        started = time.perf_counter()
        found: Figures
        if started - began > budget:
            found = {"skipped": f"the {budget:.0f} s are used up"}
        else:
            try:
                found = {"ok": True, "figures": CHECKS[name](bench)}
            except Skipped as why:
                found = {"skipped": str(why)}
            except Exception as problem:  # whatever it is, the other checks go on
                found = {
                    "ok": False,
                    "error": str(problem),
                    "where": traceback.format_exc()[-3000:],
                }
        found["seconds"] = round(time.perf_counter() - started, 1)
        report["checks"][name] = found
        out.write_text(json.dumps(report, indent=1, default=str) + "\n")
        state = found.get("skipped") or ("ok" if found["ok"] else f"FAILED: {found['error'][:500]}")
        print(f"{name:12} {found['seconds']:6.1f} s  {state}", flush=True)
    return report


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="small sizes, a few steps")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS))
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--budget", type=float, default=500, help="seconds (default 500)")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(torch.device(given.device), given.quick, Path(folder))
        report = run(bench, given.only, given.out, given.budget)
    return int(any(found.get("ok") is False for found in report["checks"].values()))


if __name__ == "__main__":
    sys.exit(main())
