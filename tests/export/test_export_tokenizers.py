"""What an export reads of a question is what the model's tokenizer reads, to the id."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, processors, trainers

from vlm.core.clean_text import clean_text
from vlm.datasets import EasyVQA, Scenes
from vlm.export.manifest import ExportError
from vlm.export.tokenizers import PieceReader, make_decoder, make_reader
from vlm.export.write import _stored_tokenizer
from vlm.text import ClipTokenizer, SubwordTokenizer, VectorTokenizer, WordTokenizer, count_words
from vlm.text.tokenizer import Tokenizer

STRANGE = [
    "",
    "???",
    "isn't it o'clock",
    "caf\u00e9 cafe\u0301",
    "दिन क्या है",
    "สีอะไร",
    "红色吗",
    "a\u2019s 13.5 x_y",
]


@pytest.fixture(scope="module")
def questions() -> list[str]:
    asked = [
        q for s in (EasyVQA(), Scenes()) for q in s.table("validation")["question"].to_pylist()
    ]
    return [*asked[:: max(1, len(asked) // 6000)], *STRANGE]


def pieces(questions: list[str]) -> SubwordTokenizer:
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    backend.train_from_iterator(
        questions[:500], trainers.WordPieceTrainer(vocab_size=200, special_tokens=special)
    )
    backend.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)]
    )
    backend.enable_padding(pad_id=0, pad_token="[PAD]")
    return SubwordTokenizer(json=backend.to_str(), max_length=7)


def tokenizers(questions: list[str]) -> Iterator[Tokenizer]:
    words = count_words(questions[:300])
    yield WordTokenizer(words, max_length=9)
    yield VectorTokenizer(words=list(dict.fromkeys([*words, "is", "n't", "o'clock", "'s"])))
    yield pieces(questions)


@pytest.mark.slow
def test_thousands_of_questions(questions: list[str]) -> None:
    assert len(questions) > 5000
    for tokenizer in tokenizers(questions):
        reader = make_reader(json.loads(json.dumps(_stored_tokenizer(tokenizer))))
        for asked in map(clean_text, dict.fromkeys(questions)):
            length = tokenizer.max_length
            assert list(reader.ids(asked))[:length] == list(tokenizer.ids(asked))[:length], asked
            for method in ("length", "unknown", "misses"):
                assert getattr(reader, method)(asked) == getattr(tokenizer, method)(asked), asked
        ids, mask = reader(questions[-20:])
        with (
            pytest.warns(UserWarning, match="Questions cut")
            if tokenizer.max_length < 64
            else _none()
        ):
            own_ids, own_mask = tokenizer(questions[-20:])
        np.testing.assert_array_equal(ids, own_ids.numpy())
        np.testing.assert_array_equal(mask, own_mask.numpy())


def _none() -> object:
    from contextlib import nullcontext

    return nullcontext()


def test_others_are_refused() -> None:
    with pytest.raises(ExportError, match="ClipTokenizer cannot be written as JSON"):
        _stored_tokenizer(ClipTokenizer())
    with pytest.raises(ExportError, match="got the kind 'magic'; expected one of words, pieces"):
        make_reader({"kind": "magic"})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda json: PieceReader(json, 9, 0), "this model reads word pieces"),
        (make_decoder, "this model writes word pieces"),
    ],
)
def test_word_pieces_need_a_package(
    make: Callable[[str], object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ExportError, match=f"{said}, .* pip install tokenizers"):
        make("{}")
