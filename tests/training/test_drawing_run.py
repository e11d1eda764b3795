"""A run that learns to draw: its codes are trained first and once, and its test is of pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from torch import Tensor
from torch.testing import assert_close

import vlm
from vlm.cli.training_cli import VQACLI
from vlm.heads import Drawing, PictureCodes
from vlm.image.as_text import is_picture


def fit(folder: Path, epochs: int, *more: str) -> VQACLI:
    return VQACLI(
        [
            "fit",
            f"-c={ROOT / 'configs/scenes_draw.yaml'}",
            f"--dataset.root={folder / 'data'}",
            "--dataset.scenes=36",
            "--dataset.abilities=[attribute]",
            "--data.images_per_batch=12",
            "--model.head.pictures.steps=20",
            "--model.schedule=null",  # so that a run can be extended
            f"--run.folder={folder / 'runs'}",
            f"--trainer.max_epochs={epochs}",
            "--trainer.log_every_n_steps=1",
            "--trainer.enable_progress_bar=false",
            *more,
        ]
    )


def codes_of(folder: Path) -> PictureCodes:
    head = vlm.load(folder).model.head
    assert isinstance(head, Drawing)
    return head.pictures


def test_codes_are_trained_before_the_model_and_kept_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[int] = []
    learn = PictureCodes.learn

    def counted(self: PictureCodes, pictures: Tensor, **more: Any) -> PictureCodes:
        learned.append(len(pictures))
        return learn(self, pictures, **more)

    monkeypatch.setattr(PictureCodes, "learn", counted)
    first = fit(tmp_path, 1).run_folder
    report = json.loads((first / "test.json").read_text())
    assert "'draw'" in str(report["results"])
    assert "a picture" in report["answers"]
    assert "base64" not in str(report)
    before = codes_of(first)
    assert bool(before.learned)
    second = fit(tmp_path, 2, f"--ckpt_path={first}").run_folder
    assert len(learned) == 1
    assert 120 < learned[0] <= 144
    assert_close(codes_of(second).state_dict(), before.state_dict(), rtol=0, atol=0)


@pytest.mark.slow
def test_a_model_that_draws_tells_which_question_asks_for_a_picture(tmp_path: Path) -> None:
    """A few steps are enough for the first token."""
    folder = fit(tmp_path, 12, "--data.images_per_batch=4", "--run.test=false").run_folder
    vqa = vlm.load(folder)
    image = next((tmp_path / "data/validation").glob("*.png"))
    asked = ["What shape is the red object?", "Draw a red circle left of a blue square."]
    assert [is_picture(answer.text) for answer in vqa.answer(image, asked)] == [False, True]
