"""Opening a data set, its first batch, its batches per second and the memory of a loader worker.

    python benchmarks/data.py                                  # 100,000 and 1,000,000 questions
    python benchmarks/data.py --questions 2000 --repeats 1     # a quick look, rough figures
    python benchmarks/data.py --start spawn                    # workers that are no forks
    python benchmarks/data.py --output data.md                 # keep the table

Synthetic questions in VQA v2's own files, ten answers each, 3.25 about each image: 1,000
different ones of 64 x 64 under as many names as it takes. Three ways to hold them, which read the
same files, take the same rows in the same order (16 images a batch, at most five questions about
each) and make the same batches with the same processor:

  vlm        vlm.datasets.VQAv2: an Arrow table, kept in the cache after the first reading
  dicts      a torch Dataset over a list of dicts, from the two JSON files at each start
  datasets   Hugging Face datasets: saved after the first reading, load_from_disk later; left out
             where it is not installed

How to read the table; all are medians over the repeats, in each of which a new process of every
kind runs, in turns and beginning with another one, so that the machine's mood falls on all:
  first open s   from the JSON files, with whatever is written for the next time
  open s         at every later start. The libraries' import is not in it
  first batch s  after opening: order of the epoch, and a batch with its images
  batches/s      in the process itself, images decoded; in brackets the median of the ratios to
                 vlm of the same repeat: above 1 is faster than vlm
  worker MiB     of the first repeat: memory that one of two loader workers has for itself and the
                 system cannot take back (Private_Dirty, Linux only) at the end of an epoch without
                 images: what a further worker costs. In all three are torch's own and the
                 tokenizer's memory of the last 65,536 questions, some 25 MiB when full; compare the
                 numbers of questions
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pairs import Pairs, machine, take_turns
from PIL import Image
from torch.utils.data import DataLoader, Dataset, get_worker_info

from vlm.core.batch import Batch
from vlm.data.ablations import BlankImages
from vlm.data.batches import VQADataset
from vlm.data.images.store import Images, ImageStore
from vlm.data.sampler import BatchRows, ImageGroupSampler
from vlm.datasets import VQAv2
from vlm.datasets.table import image_groups
from vlm.heads import AnswerVocabulary
from vlm.image.transform import ImageTransform
from vlm.processor import Processor
from vlm.text import WordTokenizer

KINDS = ("vlm", "dicts", "datasets")
PER_IMAGE = 3.25  # as in VQA v2: some 650,000 about 200,000
IMAGES = 1000
COLORS = ["red", "green", "blue", "black", "white", "brown", "grey", "pink"]
THINGS = ["car", "dog", "tree", "cup", "boat", "hat", "chair", "bird"]
QUESTIONS_FILE = "v2_OpenEnded_mscoco_train2014_questions.json"
ANNOTATIONS_FILE = "v2_mscoco_train2014_annotations.json"
BATCHES = 200
"""Timed batches with images."""
HEADINGS = "questions | kind | first open s | open s | first batch s | batches/s | worker MiB"


class Synthetic(VQAv2):
    sizes: ClassVar = {}


class Rows(Dataset[Batch]):
    """Batches from anything that gives rows as dicts."""

    def __init__(
        self,
        take: Callable[[list[int]], list[dict[str, Any]]],
        processor: Processor,
        images: Images,
    ) -> None:
        self.take, self.processor, self.images = take, processor, images

    def __getitem__(self, index: BatchRows) -> Batch:
        rows = self.take(index.rows.tolist())
        unique: dict[str, int] = {}
        image_index = [unique.setdefault(row["image"], len(unique)) for row in rows]
        return self.processor.batch(
            self.images.read(list(unique), list(unique)),
            image_index,
            [row["question"] for row in rows],
            [row["answers"] for row in rows],
            [row["id"] for row in rows],
            index.total,
        )


class Listed:
    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __call__(self, numbers: list[int]) -> list[dict[str, Any]]:
        return [self.rows[number] for number in numbers]


class FromHub:
    def __init__(self, data: Any) -> None:
        self.data = data

    def __call__(self, numbers: list[int]) -> list[dict[str, Any]]:
        columns = self.data[numbers]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def write_files(folder: Path, questions: int) -> None:
    """VQA v2's layout."""
    rng = np.random.default_rng(0)
    (folder / "train2014").mkdir(parents=True)
    for number in range(ceil(questions / PER_IMAGE)):
        path = folder / f"train2014/COCO_train2014_{number:012d}.jpg"
        if number >= IMAGES:
            path.hardlink_to(folder / f"train2014/COCO_train2014_{number % IMAGES:012d}.jpg")
            continue
        noise = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    asked, known = [], []
    for number in range(questions):
        thing, color = THINGS[rng.integers(8)], COLORS[rng.integers(8)]
        ids = {"image_id": int(number / PER_IMAGE), "question_id": number}
        asked.append(ids | {"question": f"What color is the {thing} beside number {number}?"})
        answers = [
            {"answer": color, "answer_confidence": "yes", "answer_id": n} for n in range(1, 11)
        ]
        kind = {"question_type": "what color is the", "answer_type": "other"}
        known.append(ids | kind | {"multiple_choice_answer": color, "answers": answers})
    (folder / QUESTIONS_FILE).write_text(json.dumps({"questions": asked}))
    (folder / ANNOTATIONS_FILE).write_text(json.dumps({"annotations": known}))


def read_dicts(folder: Path) -> list[dict[str, Any]]:
    asked = json.loads((folder / QUESTIONS_FILE).read_text())["questions"]
    known = json.loads((folder / ANNOTATIONS_FILE).read_text())["annotations"]
    by_id = {row["question_id"]: row for row in known}
    return [
        {
            "id": str(row["question_id"]),
            "image": f"{folder}/train2014/COCO_train2014_{row['image_id']:012d}.jpg",
            "question": row["question"],
            "answers": [given["answer"] for given in by_id[row["question_id"]]["answers"]],
        }
        for row in asked
    ]


def open_as(kind: str, folder: Path) -> Any:
    """What `groups_of` and `data_set` take."""
    if kind == "vlm":
        return Synthetic(folder).read("train")
    if kind == "dicts":
        return read_dicts(folder)
    import datasets

    saved = folder / "saved"
    if not saved.is_dir():
        datasets.Dataset.from_list(read_dicts(folder)).save_to_disk(saved)
    return datasets.load_from_disk(saved)


def groups_of(kind: str, opened: Any) -> np.ndarray:
    if kind == "vlm":
        return image_groups(opened)
    images = [row["image"] for row in opened] if kind == "dicts" else opened["image"]
    return np.unique(images, return_inverse=True)[1]


def data_set(kind: str, opened: Any, processor: Processor, images: Images) -> Dataset[Batch]:
    if kind == "vlm":
        return VQADataset(opened, processor, images)
    return Rows(Listed(opened) if kind == "dicts" else FromHub(opened), processor, images)


def private_memory(batch: Batch) -> float:
    """Instead of the batch: MiB that this worker has for itself."""
    assert get_worker_info() is not None
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) / 1024


def unchanged(batch: Batch) -> Batch:
    return batch


def measure(kind: str, folder: Path, start: str) -> dict[str, float]:
    """All figures of one process."""
    if kind == "datasets":
        import datasets

        datasets.disable_progress_bars()
    processor = Processor(
        ImageTransform((64, 64)),
        WordTokenizer(["what", "color", "is", "the", *THINGS]),
        AnswerVocabulary(COLORS).encode,
    )
    found = {}
    started = time.perf_counter()
    opened = open_as(kind, folder)
    found["open"] = time.perf_counter() - started

    started = time.perf_counter()
    sampler = ImageGroupSampler(groups_of(kind, opened), 16, 5)
    data = data_set(kind, opened, processor, ImageStore(processor.transform))
    loader = DataLoader(data, sampler=sampler, batch_size=None, collate_fn=unchanged)
    batches = iter(loader)
    next(batches)
    found["first"] = time.perf_counter() - started

    started = time.perf_counter()
    done = sum(1 for _ in islice(batches, BATCHES))
    found["rate"] = done / (time.perf_counter() - started)
    found["peak"] = peak_mib()
    if start != "none":
        found["memory"] = max(
            DataLoader(
                data_set(kind, opened, processor, BlankImages(processor.transform)),
                sampler=sampler,
                batch_size=None,
                collate_fn=private_memory,
                num_workers=2,
                multiprocessing_context=start,
            )
        )
    return found


def peak_mib() -> float:
    """Largest resident memory of this program. `ru_maxrss` would have its parent's, too."""
    (line,) = (
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return int(line.split()[1]) / 1024


def in_a_process(kind: str, folder: Path, start: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", kind, "--folder", str(folder), "--start", start]
    environment = os.environ | {"VLM_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def table_rows(
    questions: int, kinds: list[str], repeats: int, start: str, parent: Path
) -> list[str]:
    folder = parent / str(questions)
    write_files(folder, questions)
    first = {kind: in_a_process(kind, folder, "none")["open"] for kind in kinds}
    runs = []
    for repeat in range(repeats):
        turn = repeat % len(kinds)
        order = kinds[turn:] + kinds[:turn]
        # Memory is hardly moved by the machine's mood, and its epoch takes minutes.
        way = "none" if repeat else start
        runs.append({kind: in_a_process(kind, folder, way) for kind in order})
    shutil.rmtree(folder)

    def median(kind: str, figure: str) -> float:
        return statistics.median(run[kind][figure] for run in runs)

    rows = []
    for kind in kinds:
        ratio = statistics.median(run[kind]["rate"] / run["vlm"]["rate"] for run in runs)
        memory = f"{runs[0][kind]['memory']:.0f}" if start != "none" else "-"
        rows.append(
            f"| {questions:,} | {kind} | {first[kind]:.2f} | {median(kind, 'open'):.3f} "
            f"| {median(kind, 'first'):.3f} | {median(kind, 'rate'):.0f} ({ratio:.2f}) | {memory} |"
        )
    return rows


def compare_all(pairs: int) -> list[Pairs]:
    """A start up to the first batch, and batches: an Arrow table against a list of dicts."""
    kinds, questions = ("vlm", "dicts"), 20_000
    with tempfile.TemporaryDirectory(prefix="vlm-benchmark-") as parent:
        folder = Path(parent)
        write_files(folder, questions)
        sides = [partial(in_a_process, kind, folder, "none") for kind in kinds]
        for side in sides:
            side()
        runs = take_turns(sides, pairs)
    starts = ([run["open"] + run["first"] for run in side] for side in runs)
    batches = ([1 / run["rate"] for run in side] for side in runs)
    title = f"of {questions:,} synthetic questions: vlm / a Dataset over dicts"
    return [
        Pairs(f"the first batch after a start {title}", *starts),
        Pairs(f"a batch with its images {title}", *batches),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--questions", type=int, nargs="+", default=[100_000, 1_000_000], help="sizes to measure"
    )
    parser.add_argument("--repeats", type=int, default=5, help="processes of each kind (5)")
    parser.add_argument(
        "--start",
        choices=("fork", "spawn", "forkserver", "none"),
        default="fork" if sys.platform == "linux" else "none",
        help="how loader workers begin; none leaves their memory out (fork on Linux)",
    )
    parser.add_argument("--output", type=Path, help="write the table to this file too")
    parser.add_argument("--one", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one, given.folder, given.start)))
        return
    if given.repeats < 1 or min(given.questions) < 1:
        parser.error("--repeats and --questions: expected 1 or more")
    kinds = [kind for kind in KINDS if kind != "datasets" or find_spec("datasets")]
    lines = [f"| {HEADINGS} |", "|---|---|---:|---:|---:|---:|---:|"]
    with tempfile.TemporaryDirectory(prefix="vlm-benchmark-") as parent:
        for questions in given.questions:
            lines += table_rows(questions, kinds, given.repeats, given.start, Path(parent))
            print("\n".join(lines if questions == given.questions[0] else lines[-len(kinds) :]))
    lines += ["", f"{given.repeats} repeats, workers by {given.start}; {machine()}."]
    print("\n".join(lines[-2:]))
    if given.output:
        given.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
