"""A malformed model gives a one-sentence error or answers as before. It never causes a traceback
or uses far more memory than its file could fill."""

from __future__ import annotations

import json
import re
import resource
import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import rest_slow
from malformed import CHECKPOINT, SHARED, Spoil, configurations, shared_config, stored
from PIL import Image
from shared_models import MODELS

import vlm
from vlm.checkpoint.checkpoint import KEY, PREFIX, CheckpointError, describe
from vlm.checkpoint.file import write_checkpoint
from vlm.checkpoint.sharing import CONFIG
from vlm.cli.main import main
from vlm.core.rust_panic import AnswerError

IMAGE = np.zeros((32, 32, 3), dtype=np.uint8)
QUESTION = "what is red"
EVERY = 29
"""The fast test tries every 29th configuration, the slow one all."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MODELS["generation, tied"]().save(tmp_path_factory.mktemp("m") / "shared")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = MODELS["hugging face"]().model
    weights = {PREFIX + name: value for name, value in made.state_dict().items()}
    about = {"run": "runs/a", "data": "somewhere"}
    path = tmp_path_factory.mktemp("run") / "checkpoints" / "step-00000005.ckpt"
    write_checkpoint({KEY: describe(made, about), "state_dict": weights, "global_step": 5}, path)
    return path


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """Limit the memory, so that a test fails if it allocates too much."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 10**9, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def answer(path: Path) -> list[tuple[str, float]]:
    return vlm.load(path).answer(IMAGE, QUESTION).top


def mistakes(path: Path, right: list[tuple[str, float]], harmless: bool = False) -> str | None:
    """The problem with a corrupt model's outcome; None for a clear error or an unchanged answer."""
    started = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* cannot be verified")
            found = answer(path)
    except (CheckpointError, AnswerError) as error:
        said = str(error)
        if time.monotonic() - started > 20:
            return f"took {time.monotonic() - started:.0f} s: {said}"
        if len(said) > 2100 or "can't allocate" in said or "Traceback" in said:
            return f"said {said[:200]} ... {said[-200:]}"
        if not all(c.isprintable() or c == "\n" for c in said):
            return f"control characters: {said!r:.200}"
        if isinstance(error, CheckpointError) and str(path) not in said:
            return f"no file: {said:.200}"
        return None
    except BaseException as error:
        said = str(error)
        if harmless and isinstance(error, ValueError) and re.match("(choices|decoder): ", said):
            return None  # another kind of model, or answers longer than its positions allow
        return f"{type(error).__name__}: {error!s:.300}"
    return None if harmless or found == right else f"answers {found[0]}; expected {right[0]}"


@pytest.mark.parametrize("name", SHARED)
def test_a_malformed_folder_ends_in_a_sentence(name: str, folder: Path, tmp_path: Path) -> None:
    right = answer(folder)
    spoilt = tmp_path / "shared"
    shutil.copytree(folder, spoilt)
    SHARED[name](spoilt)
    assert mistakes(spoilt, right) is None
    with pytest.raises(CheckpointError):
        vlm.load(spoilt)


@pytest.mark.parametrize("name", CHECKPOINT)
def test_a_malformed_checkpoint_ends_in_a_sentence(
    name: str, checkpoint: Path, tmp_path: Path
) -> None:
    right = answer(checkpoint)
    spoilt = tmp_path / checkpoint.name
    for suffix in ("", ".sha256"):
        shutil.copy(f"{checkpoint}{suffix}", f"{spoilt}{suffix}")
    CHECKPOINT[name](spoilt)
    assert mistakes(spoilt, right) is None
    if name != "parameters":
        with pytest.raises(CheckpointError):
            vlm.load(spoilt)


@pytest.mark.parametrize("every", rest_slow([EVERY, 1], EVERY))
def test_values_of_other_kinds_in_a_configuration(
    every: int, folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Values of wrong types give a clear error, unless they affect no answer (notes, dropout)."""
    config = json.loads((folder / CONFIG).read_text())
    wrong = []
    spoilt = tmp_path / "shared"
    shutil.copytree(folder, spoilt)
    right = answer(folder)
    for name, made in list(configurations(config))[::every]:
        shared_config(made)(spoilt)
        if found := mistakes(spoilt, right, harmless=True):
            wrong.append(f"{name}: {found}")
    own = torch.load(checkpoint, weights_only=True)[KEY]
    path = tmp_path / checkpoint.name
    for name, made in list(configurations(own))[::every]:
        shutil.copy(checkpoint, path)
        _replaced(made)(path)
        if found := mistakes(path, right, harmless=True):
            wrong.append(f"checkpoint, {name}: {found}")
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong[:40])


def test_a_model_whose_answer_is_not_finite_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = MODELS["cnn, bag of words"]()
    for value in made.model.parameters():
        value.data = 3e38 * value.data.sign()
    shared = made.save(tmp_path / "shared")
    with pytest.raises(AnswerError, match="the model's answer is not finite"):
        vlm.load(shared).answer(IMAGE, QUESTION)
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    with pytest.raises(SystemExit) as ended:
        main(["ask", str(shared), str(tmp_path / "a.png"), QUESTION])
    assert "not finite" in str(ended.value)
    assert "nan" not in capsys.readouterr().out


def test_sizes_that_no_file_could_fill_take_no_memory(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    for number, (part, sizes) in enumerate(
        {"image_encoder": {"widths": [10**5, 10**5]}, "text_encoder": {"dim": 10**9}}.items()
    ):
        spoilt = tmp_path / f"shared{number}"
        shutil.copytree(folder, spoilt)
        made = json.loads(json.dumps(config))
        made["model"][part]["init_args"] |= sizes
        shared_config(made)(spoilt)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(CheckpointError, match=r"that its weights .* cannot fill"):
            vlm.load(spoilt)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700_000


def _replaced(made: Any) -> Spoil:
    return stored(lambda content: content.update({KEY: made}))
