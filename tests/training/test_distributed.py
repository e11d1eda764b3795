"""Several processes, started with torchrun, give the results of one process."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, write_data
from PIL import Image
from test_resume import EMA
from training_runs import (
    DDP,
    ENVIRONMENT,
    EXACT,
    FSDP,
    STRATEGIES,
    callback,
    check_a_killed_run_goes_on,
    command,
    fit,
    only_run,
    run,
    together,
)

from vlm.checkpoint.checkpoint import load_model, read_checkpoint
from vlm.cli.training_cli import VQACLI

pytestmark = pytest.mark.slow
# Number of test questions: how many there are about each image.
SIZES = {1: [1], 3: [1, 1, 1], 13: [3, 1, 4, 1, 4], 14: [1] * 14}


def questions(folder: Path, counts: list[int], data: Path) -> Path:
    """Write test data with `counts[i]` questions about image i; training data is that of `data`."""
    (folder / "test/images").mkdir(parents=True)
    (folder / "train").symlink_to(data / "train")
    rows = []
    for number, count in enumerate(counts):
        color = (255 * (number % 2), 40 * number % 255, 17 * number % 255)
        Image.new("RGB", (64, 64), color).save(folder / f"test/images/{number}.png")
        asked = ["what color is it?", "is it red?", "is it green?", "is it blue?"]
        rows += [[question, "red", number] for question in asked[:count]]
    (folder / "test/questions.json").write_text(json.dumps(rows))
    return folder


def results(folder: Path) -> Iterator[tuple[str, Any]]:
    """What `test` and `predict` write, with probabilities and losses rounded."""
    for path in sorted(folder.rglob("*.json*")):
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            for row in rows:
                row["probability"] = round(row["probability"], 4)
            yield path.name, rows
        else:
            content = json.loads(path.read_text())
            yield path.name, [content[key] for key in ("results", "question_types", "answers")]
    for path in folder.rglob("metrics.csv"):
        header, row = path.read_text().splitlines()
        figures = dict(zip(header.split(","), row.split(","), strict=True))
        loss = float(figures.pop("test_loss"))
        yield path.name, (figures, pytest.approx(loss, rel=1e-6))


def test_evaluation_is_that_of_one_process(data: Path, run: Path, tmp_path: Path) -> None:
    """Even with few questions, none is repeated or lost, and the order is that of the table."""
    alone, shared = [], []
    for size, counts in SIZES.items():
        root = questions(tmp_path / f"data{size}", counts, data)
        for subcommand in ("test", "predict"):
            told = [
                subcommand,
                f"-c={run / 'config.yaml'}",
                f"--ckpt_path={run / 'checkpoints/best.ckpt'}",
                f"--dataset.root={root}",
                "--data.images_per_batch=2",
                "--data.images.in_memory=false",
            ]
            alone.append([*told, f"--run.folder={tmp_path}/alone/{size}"])
            shared.append([*told, f"--run.folder={tmp_path}/shared/{size}", *DDP])
    together(shared, tmp_path)
    for arguments in alone:
        VQACLI(arguments)
    for size in SIZES:
        one, two = (dict(results(tmp_path / kind / str(size))) for kind in ("alone", "shared"))
        assert len(one["predictions.jsonl"]) == size
        assert [row["id"] for row in two["predictions.jsonl"]] == [f"test-{i}" for i in range(size)]
        assert one.keys() == two.keys()
        files = {"metrics.csv", "predictions.jsonl", "test.json", "test_predictions.jsonl"}
        assert set(one) == files
        for name in one:
            assert one[name] == two[name], (size, name)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    path = only_run(folder) / "checkpoints/last.ckpt"
    checkpoint = read_checkpoint(path)
    assert checkpoint.step == 30
    load_model(checkpoint)  # works in one process and without FSDP
    return checkpoint.weights


LMH = ["--model.head=LearnedMixin", "--model.optimizer.lr=0.01"]  # at 0.1 it diverges
PAIRS = [
    "--dataset=Scenes",
    "--dataset.scenes=17",
    "--dataset.pairs=true",
    "--dataset.abilities=[exist]",
    *LMH,
    "--model.head.consistency=0.5",
]


@pytest.mark.parametrize(("accumulate", "more"), [(1, []), (2, []), (2, LMH), (1, PAIRS)])
def test_thirty_steps_are_those_of_one_process(
    accumulate: int, more: list[str], tmp_path: Path
) -> None:
    """17 training images make batches of 4 and a last one of 1, which only one process has. Adam
    would hide a wrongly scaled gradient, so this uses plain SGD, in steps so small that rounding
    errors do not grow."""
    data = write_data(tmp_path / "data", images=22)
    told = [
        *EXACT,
        "--dataset.validation_share=0.23",
        "--model.optimizer=torch.optim.SGD",
        "--model.optimizer.lr=0.03",
        f"--trainer.accumulate_grad_batches={accumulate}",
        *more,
    ]
    per_step = 4 // accumulate
    one = fit(data, tmp_path / "one", *told, f"--data.images_per_batch={per_step}")
    half = f"--data.images_per_batch={per_step // 2}"
    ddp, fsdp = (
        fit(data, tmp_path / name, *told, half, *strategy)
        for name, strategy in (("ddp", DDP), ("fsdp", FSDP))
    )
    together([ddp, fsdp], tmp_path)
    VQACLI(one)
    reference = weights(tmp_path / "one")
    for name in ("ddp", "fsdp"):
        for key, value in weights(tmp_path / name).items():
            difference = (value - reference[key]).abs().max().item()
            assert difference <= 1e-6, (name, key)
        one_log, log = (
            (only_run(tmp_path / kind) / "metrics.csv").read_text().splitlines()
            for kind in ("one", name)
        )
        assert len(log) == len(one_log)
        for a, b in zip(one_log[1:], log[1:], strict=True):
            numbers = ([float(x or 0) for x in line.split(",")] for line in (a, b))
            assert next(numbers) == pytest.approx(next(numbers), rel=1e-4, abs=1e-6)


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback")
def test_averaged_weights_are_those_of_one_process(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", images=26)
    told = [*EXACT, *EMA, "--dataset.validation_share=0.23", "--model.optimizer=torch.optim.SGD"]
    told.append("--model.optimizer.lr=0.03")
    together([fit(data, tmp_path / "ddp", *told, *DDP, "--data.images_per_batch=2")], tmp_path)
    VQACLI(fit(data, tmp_path / "one", *told, "--data.images_per_batch=4"))
    one, two = (weights(tmp_path / name) for name in ("one", "ddp"))
    for key, value in one.items():
        assert (two[key] - value).abs().max().item() <= 1e-6, key


@pytest.mark.parametrize("launcher", ["torchrun", "Lightning"])
def test_processes_that_start_apart_have_one_folder(
    launcher: str, data: Path, tmp_path: Path
) -> None:
    """The folder is named after the current second. Lightning itself starts the second process
    seconds after the first."""
    told = fit(data, tmp_path, *DDP, "--data.images_per_batch=1", "--run.test=true")
    if launcher == "torchrun":
        together([told], tmp_path, delay=3)
    else:
        done = run(told)
        assert done.returncode == 0, done.stderr[-3000:]
    folder = only_run(tmp_path)
    assert list(folder.parent.iterdir()) == [folder]
    assert (folder / "test.json").is_file()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_killed_run_goes_on_exactly(strategy: str, data: Path, tmp_path: Path) -> None:
    check_a_killed_run_goes_on(data, tmp_path, [*STRATEGIES[strategy], "--data.workers=2"])


@pytest.mark.parametrize("kind", ["raise", "nan"])
def test_a_fault_of_one_process_ends_all_and_is_named(
    kind: str, data: Path, tmp_path: Path
) -> None:
    if kind == "raise":
        fault = callback("Strike", what="raise", hook="on_train_batch_start", step=4, rank=1)
    else:
        fault = callback("Poison", what="weight", hook="on_train_batch_start", step=4, rank=1)
    ended = run(fit(data, tmp_path, *DDP, "--data.images_per_batch=1", *fault), 2)
    assert ended.returncode == 1
    if kind == "raise":
        assert "mishaps.Mishap" in ended.stderr
    else:
        assert "the loss is nan" in ended.stderr
        assert "another process has no finite loss, and says why" in ended.stderr
        # Only the launcher prints a traceback; vlm prints one line.
        assert f'File "{ROOT}/vlm' not in ended.stderr


def test_processes_that_would_each_train_alone_are_refused(data: Path, tmp_path: Path) -> None:
    ended = run(fit(data, tmp_path), 2)
    assert ended.returncode == 1
    assert "2 processes were started; expected the same" in ended.stderr


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_that_hangs_ends(workers: int, data: Path, tmp_path: Path) -> None:
    told = ["--dataset=mishaps.HungImage", f"--data.workers={workers}", "--run.stall_minutes=0.1"]
    ended = subprocess.run(
        command([*fit(data, tmp_path, told[0], f"--dataset.root={data}"), *told[1:]]),
        env=ENVIRONMENT,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    assert "no batch was finished for 0.1 minutes (run.stall_minutes)" in ended.stderr
    assert ("mishaps.py" if workers == 0 else "dataloader.py") in ended.stderr
