"""Fixtures for all tests: a small data set and one short run of `vlm fit`."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vlm.cli.training_cli import VQACLI

ROOT = Path(__file__).parents[1]
# Results are compared bit by bit, which only a CPU promises; programs of the tests inherit this.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# The models are tiny: with a second thread they run several times slower.
torch.set_num_threads(1)
COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _never_the_user_s_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def rest_slow(values: Iterable[Any], *fast: Any) -> list[Any]:
    """Parameters of a test, of which all but those that are named are slow."""
    values = list(values)
    assert set(fast) <= set(values), fast
    return [
        value if value in fast else pytest.param(value, marks=pytest.mark.slow) for value in values
    ]


def rows_slow(rows: Iterable[tuple[Any, ...]], step: int) -> list[Any]:
    """Rows of a test's parameters, of which all but every `step`-th are slow."""
    return [
        pytest.param(*row, marks=pytest.mark.slow) if number % step else row
        for number, row in enumerate(rows)
    ]


def shared_data(name: str) -> Path:
    """The folder of a real data set; the test is skipped if it is missing."""
    folder = Path(os.environ.get("VLM_DATA", ROOT.parent / "shared/data")) / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing; VLM_DATA names another folder with {name}/.")
    return folder


def write_data(folder: Path, images: int = 12, seed: int = 0) -> Path:
    """Write easy-VQA's layout: single-colour images with three questions each."""
    rng = np.random.default_rng(seed)
    for split in ("train", "test"):
        (folder / split / "images").mkdir(parents=True)
        rows = []
        for number in range(images):
            color = list(COLORS)[rng.integers(3)]
            Image.new("RGB", (64, 64), COLORS[color]).save(
                folder / split / "images" / f"{number}.png"
            )
            asked = list(COLORS)[rng.integers(3)]
            rows += [
                ["what color is it?", color, number],
                [f"is it {asked}?", "yes" if asked == color else "no", number],
                [f"is the image not {asked}?", "no" if asked == color else "yes", number],
            ]
        (folder / split / "questions.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set in easy-VQA's layout, with 12 images and 36 questions in each split."""
    return write_data(tmp_path_factory.mktemp("data"))


def small_run(data: Path, folder: Path) -> list[str]:
    """Arguments of a quick `fit` of the default configuration on the small data set."""
    return [
        "fit",
        "-c",
        str(ROOT / "configs/easy_vqa.yaml"),
        f"--dataset.root={data}",
        "--data.images_per_batch=3",
        "--dataset.validation_share=0.25",
        f"--run.folder={folder}",
        "--trainer.max_epochs=12",
        "--trainer.enable_progress_bar=false",
    ]


@pytest.fixture(scope="session")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on the small data set."""
    cli = VQACLI(small_run(data, tmp_path_factory.mktemp("runs")))
    return cli.run_folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    pytest.importorskip("gradio", reason="install it with `pip install 'vlm-vqa[demo]'`")
    chromium = (
        os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    )
    if chromium is None:
        pytest.skip("no browser; install one with `apt-get install chromium` (CHROMIUM names it)")
    with playwright.sync_playwright() as play:
        launched = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()


def pytest_sessionfinish() -> None:
    """Stop the demo's servers, because pytest-xdist workers skip `atexit`."""
    if "demo_server" in sys.modules:
        sys.modules["demo_server"].end_all()
