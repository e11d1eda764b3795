"""Augmented batches: what changes together, what decides a draw, and what is refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

import vlm
from vlm.core.batch import Batch
from vlm.core.features import Features
from vlm.data.augmentation import (
    Augment,
    Crop,
    DroppedWords,
    ImageAugmentation,
    Mirror,
    RandAugment,
    TrivialAugment,
    Typos,
)
from vlm.data.augmentation.meaning import EXCHANGED, exchange, speaks_of
from vlm.data.augmentation.options import Augmenter
from vlm.data.batches import VQADataset
from vlm.data.images.sources import ImageOptions
from vlm.data.sampler import BatchRows, ImageGroupSampler
from vlm.datasets.errors import DataError
from vlm.datasets.table import image_groups, question_table
from vlm.image.base import grid_boxes
from vlm.image.transform import ImageTransform
from vlm.processor import Processor
from vlm.text.words import count_words

SIDES = "is the spot on the left or on the right?"
COLOR = "is it there?"


class Sides(vlm.datasets.Dataset):
    """Images with a white spot at one side; each is asked about twice."""

    def __init__(self, folder: str, more: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(validation_share=0.25)
        self.folder, self.more = Path(folder), more

    def read(self, split: str) -> pa.Table | None:
        if split != "train":
            return None
        rows = []
        for number in range(8):
            side = ("left", "right")[number % 2]
            path = self.folder / f"{number}.png"
            if not path.exists():
                drawn = Image.new("RGB", (8, 8))
                drawn.paste((255, 255, 255), (0, 0, 3, 8) if side == "left" else (5, 0, 8, 8))
                drawn.save(path)
            for name, question, answer in (
                ("side", SIDES, side),
                ("there", COLOR, "yes"),
                *(("more", *pair) for pair in self.more),
            ):
                rows.append(
                    {"id": f"{number} {name}", "image": str(path), "question": question,
                     "answers": [answer], "choices": [answer, "left hand"]}
                )  # fmt: skip
        return question_table(rows, "sides")


@pytest.fixture
def table(tmp_path: Path) -> pa.Table:
    return Sides(str(tmp_path)).read("train")


def processor(table: pa.Table) -> Processor:
    words = count_words([*table["question"].to_pylist(), "left right hand"])
    head = vlm.heads.Classification(4, ["left", "right", "yes"])
    tokenizer = vlm.text.BagOfWords(words).tokenizer
    return Processor(ImageTransform((8, 8)), tokenizer, head.encode_targets, takes_choices=False)


def dataset(table: pa.Table, seed: int = 0, **augment: Any) -> VQADataset:
    return VQADataset(table, processor(table), augment=Augmenter(Augment(**augment), seed))


def whole(data: VQADataset, epoch: int = 0) -> Batch:
    return data[BatchRows(np.arange(len(data)), len(data), epoch)]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.equal(other)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def test_a_mirror_turns_image_question_and_answer_together(table: pa.Table) -> None:
    batch = whole(dataset(table, mirror=Mirror()))
    # A spot that was seen at a side is answered with that side, in mirrored images too.
    bright = batch.images.float().mean((1, 2))  # (U, W)
    seen = torch.where(bright[:, 0] > bright[:, -1], 0, 1)
    answered = batch.targets.counts.argmax(-1)
    sides = [row for row, name in enumerate(batch.ids) if name.endswith("side")]
    assert answered[sides].equal(seen[batch.image_index[sides]])
    turned = seen != torch.arange(8) % 2
    assert 0 < int(turned.sum()) < 8
    plain = VQADataset(table, processor(table))
    words = [text for text in range(len(batch.words)) if batch.words[text].any()]
    assert len(words) > len(whole(plain).words)  # "on the right or on the left" too
    there = [row for row, name in enumerate(batch.ids) if name.endswith("there")]
    assert (answered[there] == 2).all()


def test_exchanged_words_keep_their_case_and_their_surroundings() -> None:
    assert exchange("LEFT-handed? Rightmost, left.", EXCHANGED["en"]) == (
        "RIGHT-handed? Leftmost, right."
    )
    assert exchange("bright cleft lefty", EXCHANGED["en"]) == "bright cleft lefty"
    assert exchange("Ist die linke Tasse links?", EXCHANGED["de"]) == (
        "Ist die rechte Tasse rechts?"
    )
    assert exchange("¿A la izquierda del derecho?", EXCHANGED["es"]) == (
        "¿A la derecha del izquierdo?"
    )


@pytest.mark.parametrize(
    ("left", "right", "text", "expected"),
    [
        ("左", "右", "杯子在左边吗", "杯子在右边吗"),
        ("बाएँ", "दाएँ", "कप बाएँ है?", "कप दाएँ है?"),
        ("ซ้าย", "ขวา", "อยู่ซ้ายหรือขวา", "อยู่ขวาหรือซ้าย"),
        ("слева", "справа", "Слева? неслева", "Справа? неслева"),
    ],
)
def test_words_are_found_in_every_script(left: str, right: str, text: str, expected: str) -> None:
    assert Mirror(words={left: right, right: left}).text(text) == expected


def test_words_that_decide_are_never_dropped() -> None:
    drop = DroppedWords(share=0.99)
    for text in ("doesn't", "bigger than", "größer als", "mayor que", "ohne", "not", "red"):
        kept = [drop(f"Which one here {text} it?", random.Random(seed)) for seed in range(20)]
        assert all(text in each for each in kept), text


@pytest.mark.parametrize("language", EXCHANGED)
def test_every_word_has_an_opposite_that_leads_back(language: str) -> None:
    table = EXCHANGED[language]  # type: ignore[index]
    assert all(table[table[word]] == word != table[word] for word in table)


def test_a_mirror_moves_boxes_of_real_regions() -> None:
    boxes = torch.tensor([[[0.1, 0.2, 0.3, 0.9], [0.5, 0.0, 1.0, 0.5], [0.0, 0.0, 0.0, 0.0]]] * 2)
    mask = torch.tensor([[True, True, False]] * 2)
    regions = Features(torch.randn(2, 3, 4), mask, boxes=boxes)
    mirrored = Mirror().images(regions, [False, True])
    assert isinstance(mirrored, Features)
    assert mirrored.boxes is not None
    assert mirrored.boxes[0].equal(boxes[0])
    expected = torch.tensor([[0.7, 0.2, 0.9, 0.9], [0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(mirrored.boxes[1], expected)
    assert mirrored.tokens.equal(regions.tokens)


def test_mirrored_boxes_are_those_of_the_mirrored_grid() -> None:
    boxes = grid_boxes(2, 3)[None]
    mirrored = Mirror().images(Features(torch.zeros(1, 6, 1), boxes=boxes), [True])
    assert isinstance(mirrored, Features)
    assert mirrored.boxes is not None
    order = torch.tensor([2, 1, 0, 5, 4, 3])
    torch.testing.assert_close(mirrored.boxes[0], boxes[0][order])


EVERYTHING: dict[str, Any] = {
    "images": [RandAugment(), Crop()],
    "questions": [DroppedWords(0.3), Typos(0.5)],
    "mirror": Mirror(),
    "no_image": 0.3,
    "no_question": 0.3,
}


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2")
def test_batches_workers_and_order_change_no_draw(table: pa.Table) -> None:
    data = dataset(table, **EVERYTHING)
    together = whole(data, epoch=2)
    plain = whole(VQADataset(table, processor(table)))
    assert not same(together.images, plain.images)
    for row in (0, 5, 15):
        alone = data[BatchRows(np.array([row]), 1, 2)]
        assert alone.images[0].equal(together.images[together.image_index[row]])
        assert alone.targets.counts[0].equal(together.targets.counts[row])
        text = row if together.text_index is None else int(together.text_index[row])
        length = int(alone.words_mask[0].sum())
        assert alone.words[0, :length].equal(together.words[text][together.words_mask[text]])
        for name in ("no_image", "no_question"):
            assert getattr(alone, name)[0] == getattr(together, name)[row]

    def loaded(**arguments: Any) -> list[Batch]:
        sampler = ImageGroupSampler(image_groups(table), 2, seed=3)
        sampler.set_epoch(1)
        loader = DataLoader(
            data, sampler=sampler, batch_size=None, collate_fn=lambda x: x, **arguments
        )
        return list(loader)

    one, two = loaded(), loaded(num_workers=2)
    assert all(map(same, one, two))
    # Two processes, each with its share of the same questions.
    halves = [
        data[rows]
        for rank in (0, 1)
        for rows in ImageGroupSampler(image_groups(table), 1, seed=3, rank=rank, world=2)
    ]
    drawn = {name: image for batch in halves for name, image in zip_images(batch)}
    alone = dict(zip_images(whole(data, epoch=0)))
    assert all(drawn[name].equal(alone[name]) for name in drawn)
    assert drawn.keys() == alone.keys()


def zip_images(batch: Batch) -> list[tuple[str, Tensor]]:
    rows = batch.image_index.tolist()
    return [(name, batch.images[row]) for name, row in zip(batch.ids, rows, strict=True)]


@pytest.mark.parametrize("name", EVERYTHING)
def test_epoch_and_seed_change_the_draws(name: str, table: pa.Table) -> None:
    only = {name: EVERYTHING[name]}
    first = whole(dataset(table, **only))
    assert same(first, whole(dataset(table, **only)))
    assert not same(first, whole(dataset(table, **only), epoch=1))
    assert not same(first, whole(dataset(table, seed=1, **only)))


def test_the_trainings_own_random_numbers_stay_as_they_were(table: pa.Table) -> None:
    data = dataset(table, **EVERYTHING)
    before = torch.get_rng_state()
    whole(data)
    assert torch.get_rng_state().equal(before)


def test_empty_borders_of_a_padded_image_stay_empty() -> None:
    transform = ImageTransform((32, 32), fit="pad")
    wide = Image.new("RGB", (64, 32), (90, 200, 30))
    images = transform.stack([transform(wide)])
    augmenter = Augmenter(Augment(images=TrivialAugment()), 0)
    changed = False
    for epoch in range(30):
        made, _ = augmenter.images(images, [0], epoch)
        assert isinstance(made, Tensor)
        assert made[:, 3].equal(images[:, 3])
        assert not made[0, :3, :8].any()
        changed |= not made.equal(images)
    assert changed


def test_only_training_is_augmented(tmp_path: Path) -> None:
    data = vlm.VQADataModule(Sides(str(tmp_path)), augment=Augment(**EVERYTHING))
    assert data._augmenter("train") is not None
    for split in ("validation", "test", "predict"):
        assert data._augmenter(split) is None  # type: ignore[arg-type]
    assert vlm.VQADataModule(Sides(str(tmp_path)))._augmenter("train") is None


def test_a_control_takes_away_the_changes_of_its_side(tmp_path: Path) -> None:
    for control, images, questions in (("question_only", None, []), ("image_only", [], None)):
        augment = Augment(images=RandAugment(), questions=Typos())
        module = vlm.VQADataModule(Sides(str(tmp_path)), augment=augment, control=control)
        made = module._augmenter("train")
        assert made is not None
        assert (made.augment.images is None) == (images is None)
        assert (made.augment.questions is None) == (questions is None)


def check(
    folder: Path, more: tuple[tuple[str, str], ...] = (), writes: bool = False, **augment: Any
) -> None:
    data = vlm.VQADataModule(Sides(str(folder), more), augment=Augment(**augment))
    data.augment.check(data.dataset, None if writes else data.answers, reads_regions=False)


COLORED = (("what color is it?", "white"),)
MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "colors": (
        {"images": RandAugment(), "more": COLORED},
        r"RandAugment, after which a color .*\(color, white\).*colors=false.*allow=\[color\]",
    ),
    "colors in answers": ({"images": RandAugment(), "more": (("what is it?", "red"),)}, r"\(red\)"),
    "directions": (
        {"images": [Crop(), TrivialAugment(colors=False)]},
        r"TrivialAugment, after which a direction .*\(left, right\).*rotations=false",
    ),
    "another language": (
        {"mirror": Mirror(words="de")},
        r"mirror.words: got 'de', .* 'left', 'right' of 'en' are; expected .*words=en",
    ),
}


@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("name", MISTAKES)
def test_what_contradicts_the_answers_is_refused(name: str, writes: bool, tmp_path: Path) -> None:
    arguments, said = MISTAKES[name]
    with pytest.raises(DataError, match=said):
        check(tmp_path, writes=writes, **arguments)


def test_what_is_asked_for_or_harmless_is_allowed(tmp_path: Path) -> None:
    check(tmp_path, COLORED, images=RandAugment(), allow=["color"])
    check(tmp_path, COLORED, images=RandAugment(colors=False))
    check(tmp_path, images=RandAugment())  # nobody speaks of colors
    check(tmp_path, images=TrivialAugment(colors=False, rotations=False), mirror=Mirror())
    check(tmp_path, mirror=Mirror(words={"left": "right", "right": "left"}))


def test_an_answer_without_its_opposite_is_refused_and_the_data_add_it(tmp_path: Path) -> None:
    data = vlm.VQADataModule(
        Sides(str(tmp_path), (("which?", "left cup"),)), augment=Augment(mirror=Mirror())
    )
    with pytest.raises(DataError, match="the answer 'left cup' becomes 'right cup'"):
        data.augment.check(data.dataset, data.dataset.answers, reads_regions=False)
    assert set(data.answers) - set(data.dataset.answers) == {"right cup"}
    assert data.answers[: len(data.dataset.answers)] == data.dataset.answers
    data.augment.check(data.dataset, data.answers, reads_regions=False)


def test_augmented_images_and_kept_features_exclude_one_another(tmp_path: Path) -> None:
    images = ImageOptions(features="features")
    for augment, name in (
        (Augment(images=[Crop()]), "data.augment.images"),
        (Augment(mirror=Mirror()), "data.augment.mirror"),
    ):
        with pytest.raises(ValueError, match=f"{name} and data.images.features: got both"):
            vlm.VQADataModule(Sides(str(tmp_path)), images=images, augment=augment)
    for harmless in (Augment(questions=Typos()), Augment(no_image=0.1)):
        vlm.VQADataModule(Sides(str(tmp_path)), images=images, augment=harmless)


def test_regions_are_mirrored_and_not_otherwise_changed(tmp_path: Path) -> None:
    dataset = Sides(str(tmp_path))
    with pytest.raises(DataError, match=r"images: got Crop, and the image encoder"):
        Augment(images=Crop()).check(dataset, dataset.answers, reads_regions=True)
    Augment(mirror=Mirror()).check(dataset, dataset.answers, reads_regions=True)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Augment(images=["RandAugment"]), "augment.images: got 'RandAugment'"),  # type: ignore[list-item]
        (lambda: Augment(questions=Crop()), "augment.questions: got Crop"),  # type: ignore[arg-type]
        (lambda: Augment(mirror=0.5), "augment.mirror: got 0.5"),  # type: ignore[arg-type]
        (lambda: Augment(no_image=1.5), "augment.no_image: got 1.5"),
        (lambda: Augment(no_image=0.6, no_question=0.6), "got 0.6 and 0.6"),
        (lambda: Augment(allow=["colour"]), "augment.allow: got 'colour'"),  # type: ignore[list-item]
        (lambda: Mirror(probability=0), "mirror.probability: got 0"),
        (lambda: Mirror(words="fr"), "mirror.words: got 'fr'"),  # type: ignore[arg-type]
        (lambda: Mirror(words={"a": "b"}), "got 'a' with the opposite 'b'"),
    ],
)
def test_a_wrong_option_is_named(make: Any, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        make()


def test_words_of_colors_and_directions_are_known_in_three_languages() -> None:
    for words, meaning in (
        ("red rot roja grünes azules colour farbe grey", "color"),
        ("left links izquierda above oben abajo rechte", "direction"),
    ):
        assert speaks_of(meaning, words.split()) == words.split()  # type: ignore[arg-type]
    assert speaks_of("color", ["cat", "reading", "rotate"]) == []


def test_an_augmentation_of_ones_own_is_refused_by_what_it_says(tmp_path: Path) -> None:
    class Darker(ImageAugmentation):
        changes = ("color",)

        def __call__(self, image: Tensor) -> Tensor:
            return image // 2

    with pytest.raises(DataError, match=r"Darker, .* Leave it out, or allow it"):
        check(tmp_path, COLORED, images=Darker())
