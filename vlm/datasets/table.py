"""Questions as an Arrow table: one row a question, whatever the data set."""

from __future__ import annotations

import hashlib
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, islice
from types import NoneType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vlm.core.clean_text import clean_text
from vlm.core.pairs import CONTRADICTION
from vlm.core.validation import counted, mistake_in
from vlm.datasets.arrow import map_arrow, write_arrow
from vlm.datasets.errors import DataError, note_image, report
from vlm.datasets.several import as_one, images_of, most_images, shown

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        # A path, or a key of the image store; or several in one text (`vlm.datasets.several`).
        pa.field("image", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("answers", pa.list_(pa.string())),  # one per annotator; null where unknown
        pa.field("answer_type", pa.string()),
        pa.field("question_type", pa.string()),
        pa.field("choices", pa.list_(pa.string())),  # of a multiple-choice question
        pa.field("group", pa.string()),  # images that belong together: a patient, a scene
        pa.field("pair", pa.string()),  # id of the question that this one rewords
        pa.field("relation", pa.string()),  # to that question: one of RELATIONS
        pa.field("place", pa.string()),  # file and line, where ids do not tell
    ]
)
"""Columns of a question table. Ids stay strings."""
RELATIONS = ("paraphrase", "equivalent", CONTRADICTION)
"""How a question rewords its `pair`: the same in other words, another question that has the same
answer, or one that is answered yes where the other is answered no, and no where yes."""
KEYS = {*SCHEMA.names, "number", "mistakes"}
"""What a row given to `question_table` may have."""

_SOURCE = "source"
UNUSED = "columns that are not read"
MEANT = "columns that may be meant"
"""Keys of a table's metadata: its file, its unread columns (JSON), and a sentence about these."""

ROWS_AT_ONCE = 8192
"""Rows that are Python objects at a time; the others are Arrow's."""


class TooFewError(DataError):
    """Too few images to divide, perhaps only because rows were left out for their mistakes."""


def question_table(
    rows: Iterable[dict[str, Any]], source: str, columns: Mapping[str, str] | None = None
) -> pa.Table:
    """Make a checked table. Memory does not grow with the number of rows, but for eight bytes each.

    Args:
        rows: one dict per question with the columns of `SCHEMA`; id, image and question must be
            there; `image` may be a list of several. A `place` names file and line; without it
            errors say which question of the source it is: its `number` there, where a reader leaves
            rows out, or else how many came before. `mistakes` are (column, kind, message) of values
            that the reader itself could not use and left out.
        source: file or data set, for the errors.
        columns: what the file calls our columns, to name them in errors.

    Raises:
        DataError: an empty question, no id or image, answers that are none or no texts, fewer than
            two choices, an empty one or one that repeats, ids that repeat, a pair that is no other
            question about the image, or whose relation is none of `RELATIONS`.
    """
    # A repeated id is looked for by eight bytes each: the texts would take more than the table.
    hashes, numbers = array("q"), array("q")
    checked = _checked(rows, source, columns or {}, hashes, numbers)
    table = _memory_mapped(_batches(checked))
    for first, second in _repeated(table["id"], np.asarray(hashes)):
        places = table["place"].take([first, second]).to_pylist()
        where = _where(places[1], table["id"][second], numbers[second], source, columns or {}, "id")
        other = places[0] or f"question {numbers[first]}"
        report("duplicate id", f"{where}: the id is already used at {other}.")
    for row, why in _unpaired(table):
        where = _where(table["place"][row].as_py(), table["id"][row], numbers[row], source,
                       columns or {}, "pair")  # fmt: skip
        report("wrong pair", f"{where}: got the pair {table['pair'][row].as_py()!r:.80}, {why}; "
               "expected the id of another question about the same image.")  # fmt: skip
    return table.replace_schema_metadata({_SOURCE: source})


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """The questions of several files, one after the other."""
    sources = dict.fromkeys(source_of(table) or "?" for table in tables)
    whole = pa.concat_tables(tables, promote_options="default")  # a set may have columns of its own
    return whole.replace_schema_metadata({_SOURCE: " and ".join(sources)})


def source_of(table: pa.Table) -> str | None:
    """The file or data set that a table was made from, where that is known."""
    source = (table.schema.metadata or {}).get(_SOURCE.encode())
    return source and source.decode()


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[pa.RecordBatch]:
    while chunk := list(islice(rows, ROWS_AT_ONCE)):
        content = {name: [row.get(name) for row in chunk] for name in SCHEMA.names}
        yield pa.RecordBatch.from_pydict(content, SCHEMA)


def _memory_mapped(batches: Iterator[pa.RecordBatch], schema: pa.Schema = SCHEMA) -> pa.Table:
    """A table in a temporary file, of which memory holds what is in use; a small one in memory."""
    first = list(islice(batches, 2))
    if len(first) < 2:
        return pa.Table.from_batches(first, schema)
    handle, path = tempfile.mkstemp(prefix="vlm-questions-")
    try:
        with os.fdopen(handle, "wb") as file:
            write_arrow(file, chain(first, batches), schema)
        return map_arrow(path)
    finally:
        # The mapping keeps the content until nobody uses it; Windows keeps the file too.
        with suppress(PermissionError):
            os.unlink(path)


def _checked(
    rows: Iterable[dict[str, Any]],
    source: str,
    columns: Mapping[str, str],
    hashes: array[int],
    numbers: array[int],
) -> Iterator[dict[str, Any]]:
    """The rows without a mistake; the others are reported."""
    for place, raw in enumerate(rows, start=1):
        number = raw.get("number", place)
        row = _gated(raw)
        mistakes = list(_mistakes(row))
        where = partial(_where, row.get("place"), row.get("id"), number, source, columns)
        for name, kind, message in mistakes:
            report(kind, f"{where(name)}: {message}")
        if mistakes and "image" not in {name for name, _, _ in mistakes}:
            for image in images_of(row["image"]):
                note_image(image, where("image"))
        if not mistakes:
            hashes.append(hash(row["id"]))
            numbers.append(number)
            yield row


def _gated(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its texts through the gate; what does not pass is among its `mistakes`."""
    gated, mistakes = dict(row), list(row.get("mistakes", ()))
    for name in SCHEMA.names:
        value = row.get(name)
        try:
            if isinstance(value, str):
                text = clean_text(value)
                if name == "question":  # others are names: a file's may have anything in it
                    gated[name] = text
            elif name == "image" and isinstance(value, (list, tuple)):
                gated[name] = _listed(value)
            elif name in ("answers", "choices") and _are_texts(value) and value:
                gated[name] = [clean_text(text) for text in value]
        except ValueError as error:
            mistakes.append((name, f"wrong {name}", f"{error}."))
            gated[name] = None
    return gated | {"mistakes": mistakes}


def _listed(images: Sequence[Any]) -> str:
    """Several images as one text."""
    if not images:
        raise ValueError("got an empty list; expected an image, or several")
    for number, image in enumerate(images, start=1):
        if not image or not isinstance(image, str):
            raise ValueError(f"got {image!r:.80} as image {number} of {len(images)}; expected text")
        clean_text(image)
    return as_one(images)


def _mistakes(row: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The column, the kind and the message of each."""
    known = row.get("mistakes", ())
    yield from known
    for name in row.keys() - KEYS:
        yield (
            name,
            "unknown column",
            f"got the column {name!r}; expected {', '.join(SCHEMA.names)}.",
        )
    left_out = {name for name, _, _ in known}
    for name in ("id", "image"):
        if name not in left_out and not row.get(name):
            yield name, f"no {name}", f"{name} is missing or empty."
        elif name not in left_out and not isinstance(row[name], str):
            yield name, f"wrong {name}", f"got {row[name]!r:.80}; expected a text."
    for name in ("answer_type", "question_type", "group", "pair"):
        if name not in left_out and not isinstance(row.get(name), (str, NoneType)):
            yield name, f"wrong {name}", f"got {row[name]!r:.80}; expected a text, or None."
    pair, relation = row.get("pair"), row.get("relation")
    if not left_out & {"pair", "relation"} and (
        (pair is None) != (relation is None) or relation not in (None, *RELATIONS)
    ):
        found = f"got the relation {relation!r:.80} to the pair {pair!r:.80}; expected one of "
        yield "relation", "wrong relation", f"{found}{', '.join(RELATIONS)}, or neither."
    question, answers = row.get("question"), row.get("answers")
    if "question" not in left_out and (not isinstance(question, str) or not question.strip()):
        yield (
            "question",
            "empty question",
            f"got the question {question!r:.80}; expected some text. Correct or remove this row.",
        )
    if isinstance(answers, (list, tuple)) and not answers:
        yield "answers", "no answer", "the list of answers is empty; leave it out if unknown."
    if not isinstance(answers, (list, tuple, NoneType)):
        found = f"got the answers {answers!r:.200}; expected a list with a text per annotator."
        yield "answers", "wrong answers", found
    elif not _are_texts(answers):
        wrong = next(answer for answer in answers or () if not isinstance(answer, str))
        found = f"got {wrong!r:.80} in the answers {answers!r:.200}; expected a text per annotator."
        yield "answers", "wrong answers", found
    if (choices := row.get("choices")) is not None:
        if not isinstance(choices, (list, tuple)):
            yield "choices", "wrong choices", f"got {choices!r:.80}; expected a list of texts."
        elif mistake := mistake_in(choices):
            yield "choices", "wrong choices", mistake


def _where(
    place: str | None,
    question: object,
    number: int,
    source: str,
    columns: Mapping[str, str],
    name: str,
) -> str:
    place = place or f"{source}, question {number}"
    column = f", column {columns[name]!r}" if name in columns else ""
    return f"{place}{column} (id {str(question)!r:.80})"


def _are_texts(answers: Any) -> bool:
    if answers is None:
        return True
    return isinstance(answers, (list, tuple)) and all(isinstance(text, str) for text in answers)


def _repeated(ids: pa.ChunkedArray, hashes: np.ndarray) -> Iterator[tuple[int, int]]:
    """The row of an id's first use and that of each further one."""
    ordered = np.sort(hashes)
    alike = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    first: dict[str, int] = {}
    for row in np.flatnonzero(np.isin(hashes, alike)).tolist() if len(alike) else ():
        text = ids[row].as_py()  # two texts may share a hash
        if first.setdefault(text, row) != row:
            yield first[text], row


def _unpaired(table: pa.Table) -> Iterator[tuple[int, str]]:
    """The rows whose pair is no other question about their image, and why."""
    rows = np.flatnonzero(table["pair"].is_valid().to_numpy())
    if not len(rows):
        return
    places = pc.index_in(table["pair"].take(rows), table["id"].combine_chunks())
    for row, place in zip(rows.tolist(), places.to_pylist(), strict=True):
        if place is None:
            yield row, "which no question has as its id"
        elif place == row:
            yield row, "which is its own id"
        elif table["image"][row] != table["image"][place]:
            yield row, f"a question about {shown(table['image'][place].as_py())}"


def digest_of(table: pa.Table) -> str:
    """SHA-256 of ids, questions and answers."""
    return _digest(table["id"], table["question"], table["answers"])


def digest_of_rest(table: pa.Table) -> str:
    """SHA-256 of the images' file names, the choices, groups, pairs and relations."""
    # Of each path the name alone: a folder of images may be moved. Several are parted by \0.
    images = pc.replace_substring_regex(table["image"], r"[^\x00]*[/\\]", "")
    return _digest(images, *(table[name] for name in ("choices", "group", "pair", "relation")))


def _digest(*columns: pa.ChunkedArray) -> str:
    # Joined by Arrow: half a million rows take a part of a second, and seconds as Python's objects.
    digest = hashlib.sha256()
    texts = (pc.binary_join(c, "\t") if pa.types.is_list(c.type) else c for c in columns)
    for column in texts:
        for chunk in filter(len, column.chunks):  # an empty one would be an empty text
            rows = pa.ListArray.from_arrays([0, len(chunk)], pc.fill_null(chunk, "\0"))
            digest.update(pc.binary_join(rows, "\n")[0].as_buffer())
            digest.update(b"\n")
    return digest.hexdigest()


def stream(table: pa.Table, *columns: str) -> Iterator[tuple[Any, ...]]:
    """Rows of some columns as Python values, of which only a few thousand are there at a time."""
    for batch in table.select(columns).to_batches(ROWS_AT_ONCE):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def with_column(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    """The table with another content of a column."""
    index = table.schema.get_field_index(name)
    return table.set_column(index, table.schema.field(index), column)


def image_groups(table: pa.Table) -> np.ndarray:
    """A number (Q,) for each question, equal for questions about one image, or one list of them."""
    return table["image"].dictionary_encode().combine_chunks().indices.to_numpy()


def clusters(table: pa.Table) -> np.ndarray:
    """A number (Q,) for each question, equal for those that an interval takes as one: about one
    image, or, where the table has groups, those that no split may tear apart."""
    return split_groups(table) if has_groups(table) else image_groups(table)


def has_groups(table: pa.Table) -> bool:
    """Whether questions of a table are in groups."""
    return bool(table["group"].null_count < len(table))


def split_groups(table: pa.Table) -> np.ndarray:
    """A number (Q,) for each question, equal for questions that no split may tear apart: those of a
    `group`, and those that share an image, also through other questions. Numbers are in the order
    of first appearance."""
    image, group = _codes(table["image"]), _codes(table["group"])
    lacking, single = table["group"].null_count, most_images(table["image"]) == 1
    if single and lacking == len(table):
        return image
    size = int(image.max(initial=-1)) + 1
    if lacking:
        group = np.where(table["group"].is_null().to_numpy(), -1, group)
    of_image = np.empty(size, group.dtype)
    of_image[image] = group
    if single and (of_image[image] == group).all():  # no image is in two groups
        own = np.where(group < 0, len(table) + image, group)  # of images without a group
        return pa.array(own).dictionary_encode().indices.to_numpy() if lacking else group
    pairs = pa.array((group.astype(np.int64) + 1) * size + image).dictionary_encode()
    first = np.unique(image, return_index=True)[1]
    names = (
        [-(pair // size)] * (pair >= size)  # the group, below 0
        + images_of(table["image"][int(first[pair % size])].as_py())
        for pair in map(int, pairs.dictionary.to_numpy())
    )
    connected = np.unique(_connected(names), return_inverse=True)[1].astype(np.int32)
    return connected[pairs.indices.to_numpy()]


def _codes(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A number (Q,) for each value, in the order of first appearance; by hashes, since long texts
    would be in memory several times."""
    hashes = np.empty(len(column), np.int64)
    for start in range(0, len(column), ROWS_AT_ONCE):
        part = column.slice(start, ROWS_AT_ONCE).to_pylist()
        hashes[start : start + len(part)] = list(map(hash, part))
    return pa.array(hashes).dictionary_encode().indices.to_numpy(zero_copy_only=False)


def _connected(names: Iterable[Iterable[Any]]) -> np.ndarray:
    """A number for each set of names, equal where sets share one, also through other sets: that of
    the first such set."""
    parents, first = list[int](), dict[Any, int]()

    def root(number: int) -> int:
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = parents[number]
        return number

    for number, own in enumerate(names):
        parents.append(number)
        for name in own:
            one, other = sorted((root(number), root(first.setdefault(name, number))))
            parents[other] = one
    return np.array([root(number) for number in range(len(parents))])


def check_share(validation_share: float) -> None:
    """Raise ValueError unless there would be something on both sides of the cut."""
    if not isinstance(validation_share, (int, float)) or not 0 < validation_share < 1:
        raise ValueError(
            f"validation_share: got {validation_share}; expected a share between 0 and 1."
        )


def split_by_image(
    table: pa.Table, share: float, seed: int, least: int = 2
) -> tuple[pa.Table, pa.Table]:
    """Cut a table in two by image: none is in both parts, and `share` of them go to the second.

    Images of one group (`group`: a patient, a scene, a video) stay together too.

    Args:
        table: questions.
        share: of the images, in (0, 1).
        seed: of the choice.
        least: how many images or groups there have to be, one for each part of the whole.

    Raises:
        ValueError: a share that is not in (0, 1).
        TooFewError: fewer images or groups than `least`.
    """
    check_share(share)
    groups = split_groups(table)
    count = int(groups.max(initial=-1)) + 1
    if count < least:
        raise TooFewError(
            f"{source_of(table) or 'data'}: got questions about {counted(count, 'image')} (or "
            f"groups of images); expected at least {least}, since the images are divided into "
            f"{least} parts, such as training and validation, that share none."
        )
    chosen = np.zeros(count, dtype=bool)
    order = np.random.default_rng(seed).permutation(count)
    chosen[order[: min(max(1, round(share * count)), count - 1)]] = True
    return with_rows(table, ~chosen[groups]), with_rows(table, chosen[groups])


def image_sample(table: pa.Table, questions: int) -> np.ndarray:
    """Which questions (Q,) are those of whole images, drawn with seed 0 until they have so many."""
    groups = image_groups(table)
    sizes = np.bincount(groups)
    order = np.random.default_rng(0).permutation(len(sizes))
    before = np.cumsum(sizes[order]) - sizes[order]
    chosen = np.zeros(len(sizes), dtype=bool)
    chosen[order[before < questions]] = True
    return chosen[groups]


def with_rows(table: pa.Table, mask: np.ndarray) -> pa.Table:
    """The rows of a table where the mask (Q,) is true, in a temporary file if they are many."""

    def batches() -> Iterator[pa.RecordBatch]:
        start = 0
        for batch in table.to_batches(ROWS_AT_ONCE):
            yield batch.filter(pa.array(mask[start : start + len(batch)]))
            start += len(batch)

    return _memory_mapped(batches(), table.schema)
