"""`vlm doctor`: what this machine has, what is missing, and which problems to expect."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from vlm.cli.command_parser import command_parser
from vlm.core.extras import EXTRAS
from vlm.core.files import cache_folder
from vlm.core.version import __version__

EXAMPLES = """\
examples:
  vlm doctor
  vlm doctor --online     also ask whether the Hugging Face hub can be reached

Exit code 1 if there is a problem. Nothing is changed, and without --online nothing is asked of the
network.
"""
PURPOSES = {
    "train": "vlm fit and all that needs data sets",
    "encoders": "timm, torchvision, transformers; models from the hub",
    "demo": "vlm demo",
    "serve": "vlm serve",
    "export": "vlm export",
    "tune": "vlm tune",
    "explain": "integrated gradients in vlm explain",
    "lora": "fine-tuning with LoRA",
    "datasets": "data sets from the Hugging Face hub",
    "weights": "pretrained weights without the hub",
}
GB = 10**9
LEAST_DISK, LEAST_SHARED = 1 * GB, 256 * 10**6
"""Bytes below which a checkpoint, or the batches of several loader workers, may not fit."""


class Finding(NamedTuple):
    """A line of the report; `problem` is a sentence with the remedy, empty if all is well."""

    name: str
    text: str
    problem: str = ""


def doctor_command(arguments: Sequence[str]) -> None:
    """Print the report; ends the process with 1 if there is a problem."""
    parser = command_parser(
        "doctor", "List what is here, what is missing, and which problems to expect.", EXAMPLES
    )
    parser.add_argument("--online", action="store_true", help="ask whether the hub answers")
    given = parser.parse_args(arguments)
    sections = {"versions": versions(), "machine": machine(), "disk": disk(), "extras": extras()}
    if given.online:
        sections["network"] = network()
    problems = []
    for title, findings in sections.items():
        print(title)
        for name, text, problem in findings:
            print(f"  {name:<14}{text}")
            problems += [problem] if problem else []
    if not problems:
        print("\nNo problems found.")
        return
    print("\nProblems:")
    print("\n".join(f"  {number}. {problem}" for number, problem in enumerate(problems, 1)))
    sys.exit(1)


def versions() -> Iterator[Finding]:
    """vlm, what it runs on, and packages of versions that it does not work with."""
    yield Finding("vlm", f"{__version__} in {Path(__file__).parents[2]}")
    yield Finding("Python", f"{platform.python_version()} in {sys.prefix}")
    yield Finding("torch", metadata.version("torch"))
    yield Finding("system", platform.platform())
    for name, found, expected in _unfit():
        yield Finding(
            name,
            f"{found}; expected {expected}",
            f"{name} {found} is of another version than vlm works with; run "
            f"`pip install '{name}{expected}'`.",
        )


def machine() -> Iterator[Finding]:
    """Cores, threads, memory and accelerators."""
    limited = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if limited else os.cpu_count() or 1
    import torch

    threads = torch.get_num_threads()
    yield Finding("cores", f"{cores} that this process may use")
    yield Finding(
        "threads",
        f"{threads} of torch",
        ""
        if threads <= cores
        else f"torch computes with {threads} threads on {cores} cores, which then wait for each "
        f"other; set OMP_NUM_THREADS={cores}.",
    )
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        yield Finding("memory", _bytes(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    shared = Path("/dev/shm")
    if shared.is_dir():
        size = shutil.disk_usage(shared).total
        small = (
            f"/dev/shm holds {_bytes(size)}, too little for the batches of loader workers, which "
            f"would end with a bus error; start the container with --shm-size=1g, or train with "
            f"--data.workers=0."
        )
        yield Finding("shared memory", _bytes(size), small if size < LEAST_SHARED else "")
    yield from _accelerators()


def _accelerators() -> Iterator[Finding]:
    from torch import backends, cuda, version

    for number in range(cuda.device_count()):
        found = cuda.get_device_properties(number)
        yield Finding(f"cuda:{number}", f"{found.name}, {_bytes(found.total_memory)}")
    if backends.mps.is_available():
        yield Finding("mps", "Apple GPU")
    if cuda.is_available():
        return
    if not Path("/proc/driver/nvidia").is_dir():
        yield Finding("GPU", "none; all models run on the CPU")
    elif version.cuda is None:
        yield Finding(
            "GPU",
            "NVIDIA, unused",
            "This torch is built without CUDA, so the GPU stays unused; install torch as "
            "https://pytorch.org/get-started/locally says.",
        )
    else:
        yield Finding(
            "GPU",
            "NVIDIA, unused",
            f"torch is built for CUDA {version.cuda} and sees no GPU: CUDA_VISIBLE_DEVICES is "
            f"{os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')!r}; if `nvidia-smi` works, update "
            f"the driver.",
        )


def disk() -> Iterator[Finding]:
    """Caches, which may be deleted at any time, and the room for what is written."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    hub = Path(os.environ.get("HF_HOME") or home / "huggingface").expanduser()
    weights = Path(os.environ.get("TORCH_HOME") or home / "torch").expanduser()
    own = cache_folder()
    for name, folder in (("vlm cache", own), ("hub cache", hub), ("torch cache", weights)):
        yield Finding(name, f"{_bytes(_size(folder))} in {folder}", _unwritable(folder))
    for name, folder in (("here", Path.cwd()), ("temporary", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(folder).free
        full = f"{folder} has {_bytes(free)} free, less than a training may write; make room."
        yield Finding(name, f"{_bytes(free)} free in {folder}", full if free < LEAST_DISK else "")


def extras() -> Iterator[Finding]:
    """What is installed of each extra, and the command that installs the others."""
    for extra, packages in EXTRAS.items():
        missing = [name for name in packages.split() if find_spec(name) is None]
        text = f"installed, for {PURPOSES[extra]}"
        if missing:
            command = f"pip install 'vlm-vqa[{extra}]'"
            text = f"missing {', '.join(missing)}: `{command}`, for {PURPOSES[extra]}"
        yield Finding(extra, text)


def network() -> Iterator[Finding]:
    """Whether models can be fetched."""
    if find_spec("huggingface_hub") is None:
        yield Finding("hub", "not asked: the extra `encoders` is missing")
        return
    from vlm.pretrained.availability import hub_obstacle

    obstacle = hub_obstacle()
    remedy = (
        f"No model can be fetched from the hub: {obstacle}. Cached models still load; "
        f"docs/installation.md says how to work without a network."
    )
    yield Finding("hub", obstacle or "answers", remedy if obstacle else "")


def _unfit() -> Iterator[tuple[str, str, str]]:
    """Installed packages whose version vlm's metadata refuse: name, version, expected versions."""
    if find_spec("packaging") is None:
        return
    from packaging.requirements import Requirement

    try:
        required = metadata.requires("vlm-vqa") or []
    except metadata.PackageNotFoundError:  # the package's folder alone, on the path
        return
    for requirement in map(Requirement, dict.fromkeys(required)):
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            continue  # of an extra
        if not requirement.specifier.contains(found, prereleases=True):
            yield requirement.name, found, str(requirement.specifier)


def _unwritable(folder: Path) -> str:
    there = folder
    while not os.path.exists(there):  # `Path.exists` raises in a folder that may not be entered
        there = there.parent
    if os.access(there, os.W_OK):
        return ""
    return f"{folder} cannot be written; change its owner, or choose another folder."


def _size(folder: Path) -> int:
    """Bytes of the files in a folder; links and files that vanish count nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                found = os.lstat(os.path.join(parent, name))
            except OSError:
                continue
            total += found.st_size
    return total


def _bytes(number: int) -> str:
    return f"{number / GB:.1f} GB" if number >= GB / 10 else f"{number / 10**6:.1f} MB"
