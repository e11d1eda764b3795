"""Every public augmentation keeps its promises."""

from __future__ import annotations

import copy
import inspect
import pickle
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import vlm.data.augmentation
from vlm.core.part import build
from vlm.data.augmentation import (
    Crop,
    DroppedWords,
    Erasing,
    ImageAugmentation,
    QuestionAugmentation,
    RandAugment,
    TrivialAugment,
    Typos,
)

IMAGES: list[Callable[[], ImageAugmentation]] = [
    lambda: RandAugment(),
    lambda: RandAugment(operations=3, magnitude=30, colors=False),
    lambda: TrivialAugment(),
    lambda: TrivialAugment(colors=False, rotations=False),
    lambda: Crop(smallest=0.3, stretch=2),
    lambda: Erasing(probability=1, largest=0.5),
]
QUESTIONS: list[Callable[[], QuestionAugmentation]] = [
    lambda: Typos(probability=1),
    lambda: DroppedWords(share=0.9),
]
NAMES = ["what color is the small cylinder left of the sphere?", "Éa", "?!", "two words"]


def image(height: int = 40, width: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randint(256, (3, 8, 8), generator=generator, dtype=torch.uint8).float()[None]
    grown = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return grown[0].to(torch.uint8)


def test_every_public_class_is_checked() -> None:
    values = [getattr(vlm.data.augmentation, name) for name in vlm.data.augmentation.__all__]
    roles = (ImageAugmentation, QuestionAugmentation)
    parts = {v for v in values if issubclass(v, roles) and not inspect.isabstract(v)}
    assert {type(make()) for make in [*IMAGES, *QUESTIONS]} == parts


@pytest.mark.parametrize("make", IMAGES)
def test_an_image_stays_an_image_and_depends_on_torchs_seed_alone(
    make: Callable[[], ImageAugmentation],
) -> None:
    for given in (image(), image(32, 32), image(1, 9)):
        before = given.clone()
        seen = []
        for augment in (make(), make(), copy.deepcopy(make()), pickle.loads(pickle.dumps(make()))):
            torch.manual_seed(5)
            random.seed(len(seen))
            seen.append([augment(given) for _ in range(12)])
        for changed in seen[0]:
            assert changed.shape == given.shape
            assert changed.dtype == torch.uint8
        for other in seen[1:]:
            assert all(map(torch.equal, seen[0], other))
        assert given.equal(before)
    assert any(not changed.equal(image()) for changed in map(make(), [image()] * 20))


@pytest.mark.parametrize("make", IMAGES)
def test_colors_change_where_it_says_so_and_only_there(
    make: Callable[[], ImageAugmentation],
) -> None:
    augment = make()
    flat = torch.tensor([200, 40, 90], dtype=torch.uint8)[:, None, None].expand(3, 64, 64)
    torch.manual_seed(0)
    changed = torch.stack([augment(flat.contiguous()) for _ in range(60)])
    grey = (changed == 128).all(1)
    same = (changed.int() - flat.int()).abs().amax(1) <= 2
    other = (~(grey | same)).float().mean().item()
    # Sharpness alone draws a line along the grey borders.
    assert (other > 0.05) == ("color" in augment.changes)
    assert other > 0.05 or other < 0.01


@pytest.mark.parametrize("make", QUESTIONS)
def test_a_question_stays_one_and_depends_on_its_random_numbers_alone(
    make: Callable[[], QuestionAugmentation],
) -> None:
    for question in NAMES:
        seen = []
        for number, augment in enumerate((make(), pickle.loads(pickle.dumps(make())))):
            rng = random.Random(3)
            random.seed(number)
            torch.manual_seed(number)
            seen.append([augment(question, rng) for _ in range(20)])
        assert seen[0] == seen[1]
        assert all(text.strip() for text in seen[0])
    assert make()(NAMES[0], random.Random(0)) != NAMES[0]


@pytest.mark.parametrize("make", [*IMAGES, *QUESTIONS])
def test_it_is_made_again_from_its_configuration(make: Callable[[], object]) -> None:
    made = make()
    again = build(made.config, trust=True)  # type: ignore[attr-defined]  # of `Configured`
    assert type(again) is type(made)
    assert again.arguments == made.arguments  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: RandAugment(operations=0), "operations: got 0"),
        (lambda: RandAugment(magnitude=31), "magnitude: got 31"),
        (lambda: Crop(smallest=0), "smallest: got 0"),
        (lambda: Crop(stretch=0.5), "stretch: got 0.5"),
        (lambda: Erasing(probability=2), "probability: got 2"),
        (lambda: Erasing(largest=1), "largest: got 1"),
        (lambda: Typos(probability=0), "probability: got 0"),
        (lambda: DroppedWords(share=-0.1), "share: got -0.1"),
    ],
)
def test_a_wrong_argument_is_named(make: Callable[[], object], argument: str) -> None:
    with pytest.raises(ValueError, match=argument):
        make()
