"""Shared models give equal answers after a round trip."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from shared_models import (
    CHOICES,
    MODELS,
    hugging_face,
    tied,
)

import vlm
from vlm.checkpoint.sharing import CONFIG, WEIGHTS
from vlm.cli.main import main
from vlm.heads import (
    MultipleChoice,
)


def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (41, 37, 3), np.uint8))


def answers(vqa: vlm.VQA) -> list[Any]:
    given = CHOICES if isinstance(vqa.model.head, MultipleChoice) else None
    questions = ["what is the colour", "is it red", "what"]
    return [vqa.answer(image(), question, choices=given) for question in questions]


@pytest.mark.parametrize("name", MODELS)
def test_a_shared_model_answers_as_the_own_one(name: str, tmp_path: Path) -> None:
    ours = MODELS[name]()
    theirs = vlm.load(ours.save(tmp_path / "shared"))
    assert answers(theirs) == answers(ours)
    assert theirs.model.config == ours.model.config
    torch.testing.assert_close(theirs.model.state_dict(), ours.model.state_dict(), rtol=0, atol=0)


def test_what_shares_its_memory_is_stored_once(tmp_path: Path) -> None:
    config = json.loads((tied().save(tmp_path / "a") / CONFIG).read_text())
    assert len(config["weights"]["tied"]) == 1
    assert not json.loads((hugging_face().save(tmp_path / "b") / CONFIG).read_text())["weights"][
        "tied"
    ]


def test_the_command_shares_a_run(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["share", str(run), str(tmp_path / "shared")])
    assert f"vlm ask {tmp_path / 'shared'}" in capsys.readouterr().out
    asked = str(data / "test/images/0.png"), "what color is it?"
    main(["ask", str(tmp_path / "shared"), *asked])
    shared = capsys.readouterr().out
    main(["ask", str(run), *asked])
    assert shared == capsys.readouterr().out
    config = json.loads((tmp_path / "shared" / CONFIG).read_text())
    modes = [(tmp_path / "shared" / name).stat().st_mode for name in (CONFIG, WEIGHTS)]
    assert modes[0] == modes[1], "who may read one may read the other"
    assert sorted(path.name for path in (tmp_path / "shared").iterdir()) == [
        *("README.md", CONFIG, WEIGHTS)
    ]
    assert config["vocabularies"] == {"tokens": 12, "answers": 5}
    # The shared model does not reveal folder names of this machine.
    assert str(run.parent) not in json.dumps(config)
    about = vlm.load(tmp_path / "shared").about
    assert about["run"] == run.name
    tested = json.loads((run / "test.json").read_text())["results"]
    kept = [(row["type"], row["accuracy"]) for row in about["results"]]
    assert kept == [(row["type"], row["accuracy"]) for row in tested]
    with pytest.raises(SystemExit, match=r"vlm share: .*not empty; expected a new"):
        main(["share", str(run), str(tmp_path / "shared")])
    main(["share", "--trust", str(run), str(tmp_path / "trusted")])
    assert f"vlm ask --trust {tmp_path / 'trusted'}" in capsys.readouterr().out


def test_a_shared_model_needs_neither_hub_nor_training_code(tmp_path: Path) -> None:
    folder = hugging_face().save(tmp_path / "shared")
    code = f"""
import socket, sys
def refuse(*args, **kwargs): raise AssertionError("network used")
socket.socket.connect = socket.getaddrinfo = refuse
import vlm
from PIL import Image
vlm.load({str(folder)!r}).answer(Image.new("RGB", (8, 8)), "is it red?")
assert "lightning" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
