"""A head that draws, in a training: which pictures its codes learn, and that they learn once."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from mishaps import Mishap, Strike
from torch import Tensor
from training_runs import assert_same, outcome

import vlm
from vlm.data.augmentation import Augment, Mirror
from vlm.datasets.errors import DataError
from vlm.datasets.vocabulary import VocabularyRules
from vlm.heads import Drawing, PictureCodes, TransformerDecoder, WordsAndCodes
from vlm.training import VQATask

CODES = 8
GOES_ON: dict[str, Any] = {"checkpoint_steps": 1, "resume": "auto"}


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of pictures of each training of codes."""
    counts, learn = list[int](), PictureCodes.learn

    def noted(self: PictureCodes, pictures: Tensor, **more: Any) -> PictureCodes:
        counts.append(len(pictures))
        return learn(self, pictures, **more)

    monkeypatch.setattr(PictureCodes, "learn", noted)
    return counts


def run(folder: Path, drawings: int = 2, augment: Augment = Augment(), **options: Any) -> vlm.Run:  # noqa: B008
    rules = VocabularyRules(min_answer_count=2, normalize_answers=True)
    dataset = vlm.datasets.Scenes(
        folder.parent / f"data_{drawings}",
        scenes=8,
        abilities=["attribute"],
        drawings=drawings,
        vocabulary=rules,
    )
    data = vlm.VQADataModule(dataset, images_per_batch=2, augment=augment)
    torch.manual_seed(0)
    image = vlm.image.ConvNet(image_size=32, widths=(4, 4))
    text = vlm.text.BagOfWords(data.words, 8)
    fusion = vlm.fusion.Pooled(image.dim, text.dim)
    decoder = partial(
        TransformerDecoder, dim=8, num_layers=1, max_length=17, tokenizer=WordsAndCodes(CODES)
    )
    pictures = PictureCodes(codes=CODES, dim=4, hidden_dim=8, steps=4, batch_size=8)
    task = VQATask(image, text, fusion, Drawing(fusion.out_dim, text.dim, decoder, pictures))
    options = {"max_epochs": 2, "test": False, "enable_progress_bar": False, **options}
    return vlm.fit(task, data, folder=str(folder), accelerator="cpu", **options)


def test_codes_learn_once_in_a_run_that_goes_on(tmp_path: Path, learned: list[int]) -> None:
    whole = run(tmp_path / "whole", **GOES_ON).folder
    strike = Strike("raise", "on_train_batch_start", 5)
    with pytest.raises(Mishap):
        run(tmp_path / "run", callbacks=[strike], **GOES_ON)
    assert learned == [16, 16]
    again = run(tmp_path / "run", **GOES_ON).folder
    assert learned == [16, 16]
    assert_same(outcome(again), outcome(whole))


def test_codes_learn_mirrored_pictures_too(tmp_path: Path, learned: list[int]) -> None:
    run(tmp_path / "run", augment=Augment(mirror=Mirror()), max_epochs=1)
    assert 24 < learned[0] <= 32


def test_data_without_pictures_are_refused(tmp_path: Path, learned: list[int]) -> None:
    with pytest.raises(DataError, match="train: head: got Drawing, but no training question"):
        run(tmp_path / "run", drawings=0)
    assert not learned


def test_codes_whose_training_is_interrupted_can_be_trained_again() -> None:
    codes = PictureCodes(size=4, patch=2, codes=3, dim=2, hidden_dim=5, steps=3)
    pictures = torch.randint(256, (5, 4, 4, 3), dtype=torch.uint8)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        codes.learn(pictures, alive=stop)
    assert not list(codes.parameters())
    assert not codes.learned
    assert codes.learn(pictures).learned
