"""Answers are turned into ids and back."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers

from vlm.core.part import build
from vlm.heads import ByteTokenizer, SubwordAnswers
from vlm.heads.generation.targets import AnswerEncoder


@pytest.mark.parametrize("text", ["yes", "", "2 1/2", "blå", "三毛猫 🐈", "a\nb\x00"])
def test_bytes_write_any_text(text: str) -> None:
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.vocab_size and i != tokenizer.end for i in ids)


def test_any_bytes_have_a_text() -> None:
    assert ByteTokenizer().decode([0xC3, 121, 256]) == "�y"  # half a letter, then "y"


@pytest.fixture
def pieces(tmp_path: Path) -> Path:
    from transformers import BertTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dark", "red", "##dish", "-"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    return tmp_path


def test_word_pieces_of_a_folder(pieces: Path) -> None:
    tokenizer = SubwordAnswers(str(pieces))
    assert (tokenizer.vocab_size, tokenizer.begin, tokenizer.end) == (9, 2, 3)
    assert list(tokenizer.encode("dark reddish")) == [5, 6, 7]  # no special tokens
    assert tokenizer.decode([5, 6, 7]) == "dark reddish"
    assert tokenizer.decode([2, 5, 3]) == "dark"


def test_word_pieces_are_rebuilt_without_their_folder(pieces: Path) -> None:
    tokenizer = SubwordAnswers(str(pieces))
    for file in pieces.iterdir():
        file.unlink()
    for again in (build(tokenizer.config), pickle.loads(pickle.dumps(tokenizer))):
        assert (again.begin, again.end) == (2, 3)
        assert list(again.encode("red")) == [6]


def test_text_outside_of_the_pieces_is_named(pieces: Path) -> None:
    with pytest.raises(ValueError, match=r"got 'dark blue', of which 'blue' is not in .* 9 pieces"):
        SubwordAnswers(str(pieces)).encode("dark blue")


def test_begin_and_end_must_be_known(pieces: Path) -> None:
    text = SubwordAnswers(str(pieces)).arguments["json"]
    assert json.loads(text)["model"]["type"] == "WordPiece"
    with pytest.raises(ValueError, match=r"end: got None.*'\[SEP\]'"):
        SubwordAnswers(json=text)
    with pytest.raises(ValueError, match=r"begin: got '<s>', which is no token"):
        SubwordAnswers(json=text, begin="<s>", end="[SEP]")
    assert SubwordAnswers(json=text, end="[SEP]").begin == 3
    with pytest.raises(ValueError, match=r"name, json: got None and a json of None; give one"):
        SubwordAnswers()


def test_unknown_pieces_of_unigram_tokenizers_are_refused() -> None:
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("r", -1.0), ("e", -1.0), ("d", -1.0)]
    tokenizer = SubwordAnswers(json=Backend(models.Unigram(pieces, 0)).to_str(), end="</s>")
    assert tokenizer.encode("red") == [2, 3, 4]
    with pytest.raises(ValueError, match=r"of which '\{x\}' is not in the decoder's vocabulary"):
        tokenizer.encode("red{x}")


def test_answers_that_come_back_as_others_are_warned_of() -> None:
    backend = Backend(models.WordPiece({"[UNK]": 0, "[SEP]": 1, "paris": 2}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    encoder = AnswerEncoder(SubwordAnswers(json=backend.to_str(), end="[SEP]"), 9, False)
    with pytest.warns(UserWarning, match="2 of the answers cannot be written .*'Paris' becomes"):
        encoder.check([["Paris", "paris"], ["Paris"]], "answers")
