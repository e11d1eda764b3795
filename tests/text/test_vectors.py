"""Word vectors from files: words, numbers, splitting, and encoders initialised with them."""

from __future__ import annotations

import pickle
from json import dumps, loads
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.testing import assert_close

from vlm.core.part import build
from vlm.text import BagOfWords, Recurrent, VectorTokenizer

WORDS = ["the", "is", "n't", "'s", "bird", "red"]
TABLE = np.arange(18, dtype=np.float32).reshape(6, 3) / 7


def save_text(path: Path, header: bool = False) -> str:
    lines = [f"{w} {' '.join(map(repr, map(float, v)))}" for w, v in zip(WORDS, TABLE, strict=True)]
    path.write_text("\n".join((["6 3"] if header else []) + lines) + "\n", encoding="utf-8")
    return str(path)


def save_array(folder: Path) -> str:
    np.save(folder / "vectors.npy", TABLE)
    pq.write_table(pa.table({"index": WORDS}), folder / "words.parquet")
    return str(folder)


@pytest.mark.parametrize("form", ["glove", "word2vec", "array"])
def test_every_form_of_file(tmp_path: Path, form: str) -> None:
    source = {
        "glove": lambda: save_text(tmp_path / "a.txt"),
        "word2vec": lambda: save_text(tmp_path / "a.vec", header=True),
        "array": lambda: save_array(tmp_path),
    }[form]()
    tokenizer = VectorTokenizer(source)
    assert tokenizer.words == WORDS
    assert_close(tokenizer.vectors[2:], torch.from_numpy(TABLE))
    assert_close(tokenizer.vectors[1], torch.from_numpy(TABLE).mean(0))
    assert not tokenizer.vectors[0].any()
    few = VectorTokenizer(source, size=2)
    assert (few.words, few.vocab_size, few.vectors.shape) == (["the", "is"], 4, (4, 3))


def test_words_are_split_as_glove_was(tmp_path: Path) -> None:
    tokenizer = VectorTokenizer(save_text(tmp_path / "a.txt"))
    assert tokenizer.tokens("Isn't the bird's beak RED?") == [
        "is", "n't", "the", "bird", "'s", "beak", "red",
    ]  # fmt: skip
    ids, mask = tokenizer(["Isn't the bird's beak RED?", "red", ""])
    assert ids.tolist() == [[3, 4, 2, 6, 5, 1, 7], [7] + 6 * [0], 7 * [0]]
    assert mask.sum(1).tolist() == [7, 1, 0]
    assert tokenizer.unknown("the beak isn\u2019t red") == ["beak"]


@pytest.mark.parametrize(
    "make",
    [
        lambda tokenizer: BagOfWords((), 3, 5, tokenizer=tokenizer),
        lambda tokenizer: Recurrent((), 5, embedding_dim=3, tokenizer=tokenizer),
    ],
    ids=["bag", "recurrent"],
)
def test_encoders_start_with_the_vectors(tmp_path: Path, make) -> None:
    path = save_text(tmp_path / "a.txt")
    encoder = make(VectorTokenizer(path)).eval()
    assert_close(encoder.embedding.weight[2:], torch.from_numpy(TABLE))
    assert encoder.embedding.weight.requires_grad
    Path(path).unlink()
    stored = loads(dumps(encoder.config))
    assert stored["init_args"]["tokenizer"]["init_args"]["vectors"] is None
    again = build(stored).eval()
    again.load_state_dict(encoder.state_dict(), strict=True)
    batch = encoder.tokenizer(["is the bird red"])
    assert_close(again(*batch), encoder(*batch), rtol=0, atol=0)


def test_workers_get_no_vectors(tmp_path: Path) -> None:
    tokenizer = VectorTokenizer(save_text(tmp_path / "a.txt"), size=5, max_length=7)
    copied = pickle.loads(pickle.dumps(tokenizer))
    assert copied.vectors is None
    assert (copied.words, copied.max_length) == (WORDS[:5], 7)
    assert copied.ids("the bird") == tokenizer.ids("the bird")


def test_words_with_spaces_and_words_that_come_twice(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the 1 2 3\n. . . 4 5 6\nthe 7 8 9\n")
    tokenizer = VectorTokenizer(str(tmp_path / "a.txt"))
    assert tokenizer.words == ["the", ". . ."]
    assert_close(tokenizer.vectors[2:], torch.tensor([[1.0, 2, 3], [4, 5, 6]]))


def test_errors_name_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for content, message in {
        "the 1 2\nis 1 x\n": r"a.txt, line 2: got 'is 1 x.*expected a word and 2 numbers",
        "2 2\nthe 1 2\nis 1\n": r"a.txt, line 3: got 'is 1",
        "": "a.txt: holds no word vectors",
    }.items():
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            VectorTokenizer(str(path))
    save_text(path)
    with pytest.raises(ValueError, match=r"dim: got word vectors 64 wide; .* have 3"):
        BagOfWords((), tokenizer=VectorTokenizer(str(path)))
    for arguments in ({}, {"vectors": str(path), "words": WORDS}):
        with pytest.raises(ValueError, match="vectors, words: got both or neither"):
            VectorTokenizer(**arguments)
    with pytest.raises(ValueError, match="size: got 0; expected a positive integer"):
        VectorTokenizer(str(path), size=0)
    with pytest.raises(FileNotFoundError, match="package:no-vectors: the package is not installed"):
        VectorTokenizer("package:no-vectors")
    np.save(tmp_path / "b.npy", TABLE[:4])
    pq.write_table(pa.table({"index": WORDS}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"shape \(4, 3\) and 6 words in b.parquet"):
        VectorTokenizer(str(tmp_path / "b.npy"))
