"""Question tables refuse bad rows and are split by image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from vlm.datasets.errors import DataError
from vlm.datasets.several import images_of
from vlm.datasets.table import (
    SCHEMA,
    image_groups,
    joined,
    question_table,
    source_of,
    split_by_image,
)


def row(number: int, **changes: Any) -> dict[str, Any]:
    image = f"{number % 7}.png"
    content = {"id": f"q{number}", "image": image, "question": "why?", "answers": ["no"]}
    return content | changes


def table_of(images: list[str]) -> pa.Table:
    return question_table([row(i, image=image) for i, image in enumerate(images)], "test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": ""}, "got the question ''; expected some text"),
        ({"question": " \t\n"}, "got the question .*; expected some text"),
        ({"question": None}, "got the question None; expected some text"),
        ({"question": 3}, "got the question 3; expected some text"),
        ({"image": ""}, "image is missing or empty"),
        ({"image": None}, "image is missing or empty"),
        ({"answers": []}, "the list of answers is empty; leave it out if unknown"),
        ({"answers": [None]}, r"got None in the answers \[None\]; expected a text per"),
        ({"answers": ["yes", 3]}, r"got 3 in the answers \['yes', 3\]; expected a text per"),
        ({"answers": "yes"}, "got the answers 'yes'; expected a list with a text per annotator"),
    ],
)
def test_an_error_names_source_number_and_id(change: dict[str, Any], message: str) -> None:
    rows = [row(0), row(1), row(2, **change), row(3)]
    with pytest.raises(ValueError, match=rf"^here\.json, question 3 \(id 'q2'\): {message}"):
        question_table(rows, "here.json")


@pytest.mark.parametrize("value", ["", None])
def test_a_missing_id_is_named_by_its_number(value: str | None) -> None:
    with pytest.raises(ValueError, match=r"^here\.json, question 2 \(id .*\): id is missing"):
        question_table([row(0), row(1, id=value)], "here.json")


def test_a_column_that_is_not_ours_is_named() -> None:
    row = {"id": "1", "image": "a.png", "question": "is it?", "answer": "yes"}
    with pytest.raises(DataError, match=r"got the column 'answer'; expected id, .* answers, "):
        question_table([row], "mine")


def test_a_repeated_id_names_both_places() -> None:
    rows = [row(0), row(1), row(2), row(3, id="q1")]
    wanted = r"^here\.json, question 4 \(id 'q1'\): the id is already used at question 2"
    with pytest.raises(ValueError, match=wanted):
        question_table(rows, "here.json")


@pytest.mark.parametrize(
    ("pair", "relation", "message"),
    [
        ("q0", "same", r"got the relation 'same' to the pair 'q0'; expected one of paraphrase, "),
        ("q0", None, r"got the relation None to the pair 'q0'; expected one of paraphrase, "),
        (None, "paraphrase", r"got the relation 'paraphrase' to the pair None; expected one of"),
        ("q7", "paraphrase", r"got the pair 'q7', which no question has as its id; expected"),
        ("q1", "equivalent", r"got the pair 'q1', which is its own id; expected the id"),
        ("q2", "contradiction", r"got the pair 'q2', a question about other.png; expected the id"),
        (7, "paraphrase", r"got 7; expected a text"),
    ],
)
def test_pairs_are_checked(pair: object, relation: object, message: str) -> None:
    rows = [row(0), row(1, pair=pair, relation=relation), row(2)]
    for number, image in enumerate(["a.png", "a.png", "other.png"]):
        rows[number]["image"] = image
    with pytest.raises(DataError, match=rf"^mine, question 2 \(id 'q1'\): {message}"):
        question_table(rows, "mine")
    rows[1] |= {"pair": "q0", "relation": "contradiction"}
    assert question_table(rows, "mine")["pair"].to_pylist() == [None, "q0", None]


def test_a_table_holds_its_rows() -> None:
    rows = [row(0, answer_type="yes/no"), {"id": "007", "image": "a", "question": "Why?"}]
    table = question_table(iter(rows), "test")
    assert table.schema == SCHEMA
    assert table.to_pylist() == [
        dict.fromkeys(SCHEMA.names) | row(0, answer_type="yes/no"),
        dict.fromkeys(SCHEMA.names) | rows[1],
    ]
    assert len(question_table([], "test")) == 0


def test_questions_about_one_image_have_one_number() -> None:
    groups = image_groups(table_of(["b", "a", "b", "c", "a"])).tolist()
    assert groups == [0, 1, 0, 2, 1]
    chunks = pa.concat_tables([table_of(["b", "a"]), table_of(["c", "b"])])
    assert image_groups(chunks).tolist() == [0, 1, 2, 0]


IMAGES = [f"{i}.png" for i in range(31) for _ in range(1 + i % 5)]


@pytest.mark.parametrize(("share", "held_out"), [(0.1, 3), (0.5, 16), (0.001, 1), (0.999, 30)])
def test_no_image_is_in_both_parts(share: float, held_out: int) -> None:
    table = table_of(list(np.random.default_rng(0).permutation(IMAGES)))
    first, second = split_by_image(table, share, seed=0)
    images = [set(part["image"].to_pylist()) for part in (first, second)]
    assert not images[0] & images[1]
    assert len(images[1]) == held_out
    assert len(images[0]) == 31 - held_out
    ids = [part["id"].to_pylist() for part in (first, second)]
    assert sorted(ids[0] + ids[1]) == sorted(table["id"].to_pylist())
    for part in ids:
        assert part == sorted(part, key=lambda question: int(question[1:])), "keeps the order"


@pytest.mark.parametrize("several", [False, True])
def test_no_split_tears_a_group_or_an_image_apart(several: bool) -> None:
    """Not even where only some rows have a group, an image has two, or lists share an image."""
    images = [f"{i}.png" + (f"\0{i + 1}.png" if several and i % 4 == 1 else "") for i in range(40)]
    rows = [row(i, image=image, group=f"p{i // 2}") for i, image in enumerate(images)]
    rows += [row(40 + i, image=image) for i, image in enumerate(images)]
    rows.append(row(80, image="0.png", group="p9"))
    table = question_table(rows, "test")
    first, second = split_by_image(table, 0.3, seed=0)

    def seen(part: pa.Table) -> set[str]:
        rows = zip(part["image"].to_pylist(), part["group"].to_pylist(), strict=True)
        return {name for image, group in rows for name in (*images_of(image), group) if name}

    assert len(first) + len(second) == len(table)
    assert seen(first)
    assert seen(second)
    assert not seen(first) & seen(second)


def test_the_cut_is_a_function_of_the_seed() -> None:
    table = table_of(IMAGES)
    cuts = [split_by_image(table, 0.2, seed)[1]["id"].to_pylist() for seed in (3, 3, 5)]
    assert cuts[0] == cuts[1]
    assert cuts[0] != cuts[2]


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5])
def test_a_share_out_of_range_is_named(share: float) -> None:
    with pytest.raises(ValueError, match=rf"validation_share: got {share}; expected a share"):
        split_by_image(table_of(IMAGES), share, 0)


@pytest.mark.parametrize("images", [[], ["a", "a", "a"]])
def test_too_few_images_to_cut(images: list[str]) -> None:
    with pytest.raises(
        ValueError, match=rf"got questions about {len(set(images))} images? .*at least 2"
    ):
        split_by_image(table_of(images), 0.5, 0)


def test_images_of_a_group_stay_together() -> None:
    rows = [
        {"id": str(n), "image": f"{n}.png", "question": "?", "group": f"patient {n // 5}"}
        for n in range(20)
    ]
    rows += [{"id": f"x{n}", "image": f"patient {n}", "question": "?"} for n in range(4)]
    for seed in range(5):
        parts = split_by_image(question_table(rows, "here"), 0.5, seed)
        groups = [
            {(r["group"], r["image"] * (not r["group"])) for r in p.to_pylist()} for p in parts
        ]
        assert [len(g) for g in groups] == [4, 4]
        assert not groups[0] & groups[1]


def test_a_table_knows_its_files() -> None:
    one, two = (
        question_table([row(k, id=f"{name}-{k}") for k in range(3)], f"{name}.json")
        for name in "ab"
    )
    both = joined([one, two])
    assert [source_of(table) for table in (one, two, both)] == [
        "a.json",
        "b.json",
        "a.json and b.json",
    ]
    assert both["id"].to_pylist() == ["a-0", "a-1", "a-2", "b-0", "b-1", "b-2"]
    assert source_of(both.slice(2, 2)) == "a.json and b.json"
    assert source_of(pa.table({"id": ["x"]})) is None
