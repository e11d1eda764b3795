"""Batches of whole images cover every question once, for any number of processes."""

from __future__ import annotations

from itertools import chain
from math import inf
from typing import Any

import numpy as np
import pytest

from vlm.data.sampler import BatchRows, ImageGroupSampler

# Image i has 1 + i % 5 questions, which are not adjacent.
GROUPS = np.random.default_rng(0).permutation([i for i in range(23) for _ in range(1 + i % 5)])
PER_IMAGE = (None, 1, 2, 3)


def batches(
    epoch: int = 0, images: int = 4, groups: np.ndarray = GROUPS, **kwargs: Any
) -> list[BatchRows]:
    sampler = ImageGroupSampler(groups, images, **kwargs)
    sampler.set_epoch(epoch)
    made = list(sampler)
    assert len(made) == len(sampler)
    return made


def rows_of(made: list[BatchRows]) -> list[list[int]]:
    return [batch.rows.tolist() for batch in made]


@pytest.mark.parametrize("seed", [0, None])
@pytest.mark.parametrize("questions_per_image", PER_IMAGE)
def test_every_question_comes_once_an_epoch(
    questions_per_image: int | None, seed: int | None
) -> None:
    for epoch in range(3):
        made = batches(epoch, questions_per_image=questions_per_image, seed=seed)
        assert sorted(chain(*rows_of(made))) == list(range(len(GROUPS)))
        assert [batch.total for batch in made] == [len(batch.rows) for batch in made]


@pytest.mark.parametrize("seed", [0, None])
def test_a_whole_image_is_in_one_batch(seed: int | None) -> None:
    made = batches(seed=seed)
    images = [set(GROUPS[batch.rows]) for batch in made]
    assert sum(map(len, images)) == 23, "an image is in two batches"
    assert [len(batch) for batch in images] == [4, 4, 4, 4, 4, 3]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_an_image_is_taken_in_groups_of_so_many_questions(k: int) -> None:
    """A group has at most k questions about an image, and all but an image's last are full."""
    for batch in batches(images=1, questions_per_image=k):
        assert len(set(GROUPS[batch.rows])) == 1
    sizes = sorted(len(batch.rows) for batch in batches(images=1, questions_per_image=k))
    counts = np.bincount(GROUPS).tolist()
    wanted = [size for n in counts for size in [k] * (n // k) + [n % k] * (n % k > 0)]
    assert sizes == sorted(wanted)


def test_one_question_per_image_gives_batches_of_one_size() -> None:
    sizes = [len(batch.rows) for batch in batches(images=5, questions_per_image=1)]
    assert set(sizes[:-1]) == {5}
    assert sum(sizes) == len(GROUPS)


@pytest.mark.parametrize("questions_per_image", PER_IMAGE)
def test_the_order_is_a_function_of_seed_and_epoch(questions_per_image: int | None) -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        np.random.seed(seed + epoch + 17)  # noqa: NPY002  the global generator must not matter
        return rows_of(batches(epoch, seed=seed, questions_per_image=questions_per_image))

    assert order(2, 3) == order(2, 3)
    different = [order(2, 3), order(2, 4), order(3, 3), order(3, 2)]
    for i, one in enumerate(different):
        assert all(one != other for other in different[i + 1 :])


def test_a_new_epoch_puts_other_images_together() -> None:
    together = [[set(GROUPS[batch.rows]) for batch in batches(epoch)] for epoch in range(2)]
    assert together[0] != together[1]


def test_an_iteration_does_not_move_the_order() -> None:
    sampler = ImageGroupSampler(GROUPS, 4)
    first = rows_of(list(sampler))
    next(iter(sampler))
    assert rows_of(list(sampler)) == first


def test_a_new_epoch_divides_an_image_s_questions_anew() -> None:
    def pairs(epoch: int) -> set[tuple[int, ...]]:
        made = batches(epoch, images=1, questions_per_image=2)
        return {tuple(sorted(rows)) for rows in rows_of(made) if len(rows) == 2}

    assert pairs(0) != pairs(1)


def test_without_shuffling_the_table_s_order_is_kept() -> None:
    groups = np.array([0, 0, 1, 2, 2, 2, 3])
    for epoch in (0, 1):
        made = rows_of(batches(epoch, 2, groups, seed=None))
        assert made == [[0, 1, 2], [3, 4, 5, 6]]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("images", [1, 4, 5])
@pytest.mark.parametrize("questions_per_image", PER_IMAGE)
@pytest.mark.parametrize("seed", [0, None])
def test_ranks_share_each_global_batch(
    world: int, images: int, questions_per_image: int | None, seed: int | None
) -> None:
    ranks = [
        batches(
            1,
            images,
            questions_per_image=questions_per_image,
            seed=seed,
            rank=rank,
            world=world,
        )
        for rank in range(world)
    ]
    together = batches(1, images * world, questions_per_image=questions_per_image, seed=seed)
    # The batches are the same for any number of processes.
    for *shares, alone in zip(*ranks, together, strict=True):
        assert all(len(share.rows) for share in shares), "a rank goes without"
        counted = [share.rows.tolist() for share in shares if share.total != inf]
        assert list(chain(*counted)) == alone.rows.tolist()
        assert {share.total for share in shares} - {inf} == {alone.total}


@pytest.mark.parametrize(
    ("units", "sizes"),
    [
        (12, [[2, 2], [2, 2], [2, 2]]),  # even
        (14, [[2, 2], [2, 2], [2, 2], [1, 1]]),  # uneven: 2 left for 2 ranks
        (13, [[2, 2], [2, 2], [2, 2], [1, 0]]),  # 1 left: the other rank repeats it with no weight
        (3, [[2, 1]]),
        (1, [[1, 0]]),
    ],
)
def test_the_last_batch(units: int, sizes: list[list[int]]) -> None:
    groups = np.arange(units)
    ranks = [batches(0, 2, groups, rank=rank, world=2) for rank in range(2)]
    together = [list(shares) for shares in zip(*ranks, strict=True)]
    got = [[len(share.rows) * (share.total != inf) for share in shares] for shares in together]
    assert got == sizes
    for shares, counts in zip(together, sizes, strict=True):
        assert shares[0].total == sum(counts)
        if counts[1] == 0:
            assert shares[1].rows.tolist() == shares[0].rows.tolist()


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("images", [12, 24])
def test_one_process_and_several_take_the_same_steps(images: int, accumulate: int) -> None:
    """Each question has the same weight in each step as with one process, at any data size."""

    def weights(units: int, world: int) -> list[dict[int, float]]:
        groups = np.repeat(np.arange(units), 1 + np.arange(units) % 3)
        ranks = [
            batches(2, images // world, groups, rank=rank, world=world, accumulate=accumulate)
            for rank in range(world)
        ]
        return [
            {
                int(row): 1 / share.total
                for share in shares
                for row in share.rows
                if share.total < inf
            }
            for shares in zip(*ranks, strict=True)
        ]

    for units in range(1, 60):
        alone = weights(units, 1)
        assert all(weights(units, world) == alone for world in (2, 3, 4)), units


@pytest.mark.parametrize(("limit", "last"), [(4, 1), (5, 2), (0.7, 1), (1.0, 3), (99, 3)])
def test_a_step_that_a_limit_cuts_counts_the_batches_that_it_has(limit: float, last: int) -> None:
    """With six batches and three per step, a limited last step counts only its own batches."""
    alone = [batch.total for batch in batches()]
    cut = [batch.total for batch in batches(accumulate=3, limit=limit)]
    assert cut[3] == sum(alone[3 : 3 + last])


@pytest.mark.parametrize("world", [1, 2])
def test_totals_are_of_the_batches_that_make_a_step(world: int) -> None:
    alone = [batch.total for batch in batches(images=2, world=world)]
    steps = [batch.total for batch in batches(images=2, world=world, accumulate=3)]
    for number in range(len(alone)):
        first = number - number % 3
        assert steps[number] == sum(alone[first : first + 3])


def test_an_epoch_goes_on_with_the_next_batch() -> None:
    sampler = ImageGroupSampler(GROUPS, 4)
    sampler.set_epoch(1)
    whole = rows_of(list(sampler))
    sampler.start = 2
    sampler.set_epoch(1)
    assert rows_of(list(sampler)) == whole[2:]
    assert rows_of(list(sampler)) == whole, "left out once"
    sampler.start = 2
    sampler.set_epoch(2)
    assert len(list(sampler)) == len(whole), "another epoch starts at its beginning"


def test_no_questions_give_no_batches() -> None:
    assert batches(groups=np.empty(0, dtype=np.int64)) == []


@pytest.mark.parametrize("name", ["images_per_batch", "questions_per_image"])
def test_sizes_are_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: got 0; expected a positive integer"):
        ImageGroupSampler(GROUPS, **{"images_per_batch": 2, name: 0})
