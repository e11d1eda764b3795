"""Data that cannot fit into memory are refused before anything is read."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from conftest import small_run
from PIL import Image

from vlm.cli.training_cli import VQACLI
from vlm.data.images import memory
from vlm.data.images.memory import LocalProcesses, free_memory
from vlm.data.images.regions import RegionFiles, RegionStore
from vlm.data.images.store import ImageStore
from vlm.datasets.table import DataError
from vlm.image.regions import RegionTransform
from vlm.image.transform import ImageTransform


def system(root: Path, **files: str) -> Path:
    """Writes Linux's memory files; __ in a name stands for a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def group(root: Path, name: str, limit: str, used: int, files: int) -> None:
    folder = root / "sys/fs/cgroup" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 7\ninactive_file {files}\nactive_file 3\n")


def test_the_least_of_machine_and_control_groups_counts(tmp_path: Path) -> None:
    assert free_memory(tmp_path) is None  # not Linux
    meminfo = "MemTotal:       1300 kB\nMemAvailable:    700 kB\nSwapFree:  11 kB\n"
    system(tmp_path, proc__meminfo=meminfo, proc__self__cgroup="1:cpu:/old\n0::/job/step\n")
    assert free_memory(tmp_path) == 700 * 1024
    group(tmp_path, "job/step", "max", 5000, 0)
    assert free_memory(tmp_path) == 700 * 1024
    group(tmp_path, "job", "600000", 250000, 30000)
    assert free_memory(tmp_path) == 380000
    group(tmp_path, "job/step", "400000", 350000, 20000)
    assert free_memory(tmp_path) == 70000
    group(tmp_path, "", "50000", 1000, 0)  # as seen inside a container
    assert free_memory(tmp_path) == 49000


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="Linux says it in /proc")
def test_this_machine_has_some() -> None:
    free = free_memory()
    assert free is not None
    assert 10**7 < free < 10**15


@pytest.mark.parametrize(
    ("in_memory", "message"),
    [
        (
            True,
            r"^data\.images\.in_memory: got true, and the 9 train images of 805\.3 MB ",
        ),
        (
            False,
            r"^data\.images_per_batch: got 3; such a batch, at 805\.3 MB an image",
        ),
    ],
)
def test_a_configuration_for_more_than_there_is(
    in_memory: bool, message: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 10**9)
    more = ["--model.image_encoder.image_size=16384", f"--data.images.in_memory={in_memory}"]
    with pytest.raises(
        DataError, match=message + r".*needs? .* GB, but only .*B of memory is free\."
    ):
        VQACLI([*small_run(data, tmp_path), *more])


def test_regions_are_judged_by_the_first_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, boxes = np.ones((5, 13), np.float32), np.array([[0, 0, 2, 2]] * 5, np.float32)
    for name in "abc":
        np.savez(tmp_path / f"{name}.npz", x=x, bbox=boxes, image_w=7, image_h=7)
    store = RegionStore(RegionTransform(13), RegionFiles(str(tmp_path)))
    monkeypatch.setattr(memory, "free_memory", lambda: 3 * 5 * 13 * 4)
    store.cache("abc", "123", "train")
    monkeypatch.setattr(memory, "free_memory", lambda: 3 * 5 * 13 * 4 - 1)
    with pytest.raises(DataError, match=r"the 3 train images of 0\.3 kB need"):
        store.cache("abc", "123", "train")
    with pytest.raises(DataError, match=r"0\.3 kB in each of 2 processes need"):
        store.cache("abc", "123", "train", LocalProcesses(2))


def test_what_the_first_process_keeps_does_not_count_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads stand for processes; the second starts when the first could have finished."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    each = 8 * 8 * 3
    taken: list[int] = []
    monkeypatch.setattr(memory, "free_memory", lambda: 2 * each - sum(taken))
    processes = LocalProcesses(2, Barrier(2, timeout=20).wait)

    def fill(delay: float) -> None:
        time.sleep(delay)
        store = ImageStore(ImageTransform((8, 8)))
        store.cache([str(tmp_path / "a.png")], ["1"], "train", processes)
        taken.append(each)

    with ThreadPoolExecutor() as threads:
        list(threads.map(fill, (0.0, 0.5)))
    assert taken == [each, each]
