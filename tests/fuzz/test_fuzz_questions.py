"""Any question and choices give one answer, alone or in a batch, or `ValueError`."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from fuzzing import any_text, fuzz, tried
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers

from vlm.fusion import Pooled, Product
from vlm.heads import Classification, Generation, MultipleChoice, TransformerDecoder
from vlm.image import ConvNet
from vlm.inference import VQA, Answer
from vlm.model import VQAModel
from vlm.text import BagOfWords, ClipTokenizer, SubwordTokenizer, VectorTokenizer, WordTokenizer
from vlm.text.tokenizer import Tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:Questions cut to")

WORDS = ["what", "is", "the", "colour", "red", "it's"]


def word_pieces() -> SubwordTokenizer:
    """A tokenizer like BERT's."""
    known = {piece: i for i, piece in enumerate(["[PAD]", "[UNK]", *WORDS, "##s", "?"])}
    backend = Backend(models.WordPiece(known, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.enable_padding(pad_id=0, pad_token="[PAD]")
    return SubwordTokenizer(json=backend.to_str(), max_length=7)


def byte_pairs() -> SubwordTokenizer:
    """A tokenizer like GPT-2's: every byte is covered, and an empty text has no tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.enable_padding(pad_id=0, pad_token=letters[0])
    return SubwordTokenizer(json=backend.to_str(), max_length=11)


def sentence_pieces() -> SubwordTokenizer:
    """A tokenizer like T5's."""
    pieces = [("<unk>", 0.0), ("\u2581", -1.0), *((f"\u2581{word}", -2.0) for word in WORDS)]
    backend = Backend(models.Unigram(pieces, unk_id=0))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.enable_padding(pad_id=0, pad_token="<unk>")
    return SubwordTokenizer(json=backend.to_str(), max_length=5)


HEADS: dict[str, Any] = {
    "classify": partial(Classification, answers=["yes", "no", "red"]),
    "choose": partial(MultipleChoice, text_dim=13),
    "write": partial(
        Generation,
        decoder=partial(TransformerDecoder, dim=14, num_heads=2, num_layers=1, max_length=3),
    ),
}


def vqa(tokenizer: Tokenizer, head: str = "classify") -> VQA:
    image, text = ConvNet(8, (5,)), BagOfWords((), 13, tokenizer=tokenizer)
    fusion = Pooled(image.dim, text.dim, partial(Product, out_dim=17))
    return VQA(VQAModel(image, text, fusion, HEADS[head](fusion.out_dim)))


MODELS = {
    "words": vqa(WordTokenizer(WORDS, max_length=5)),
    "vectors": vqa(VectorTokenizer(words=WORDS, max_length=5)),
    "clip": vqa(ClipTokenizer(7)),
    "word pieces": vqa(word_pieces()),
    "byte pairs": vqa(byte_pairs()),
    "sentence pieces": vqa(sentence_pieces()),
    "writing": vqa(word_pieces(), "write"),
}
CHOOSING = {name: vqa(MODELS[name].model.text_encoder.tokenizer, "choose") for name in MODELS}
PICTURE = Image.new("RGB", (8, 8), (200, 30, 90))
questions = st.one_of(
    any_text,
    st.builds(lambda text, times: text * times, any_text, st.integers(1, 2000)),
    st.none() | st.integers() | st.floats() | st.binary() | st.lists(any_text),
)


def check(answer: Answer) -> None:
    assert 0 <= answer.probability <= 1
    assert all(isinstance(text, str) and 0 <= p <= 1 for text, p in answer.top)
    (answer.text + "".join(answer.warnings)).encode()  # can be printed


@fuzz
@given(name=st.sampled_from(list(MODELS)), question=questions)
def test_any_question_is_answered_or_refused(name: str, question: Any) -> None:
    asked = MODELS[name]
    three = ["what is it", question, "red " * 9]
    together, error = tried(lambda: asked.answer(PICTURE, three), ValueError)
    if error is not None:
        assert error.startswith("question 2: got ")
        assert len(error) < 300
        if not isinstance(question, list):
            with pytest.raises(ValueError, match="question"):
                asked.answer(PICTURE, question)
        return
    alone = asked.answer(PICTURE, question)
    for answer in (alone, *together):
        check(answer)
    assert alone.probability == pytest.approx(together[1].probability, abs=1e-5)


@fuzz
@given(
    name=st.sampled_from(list(CHOOSING)),
    question=any_text,
    choices=st.lists(any_text, max_size=5) | st.lists(questions, max_size=3) | questions,
)
def test_any_choices_are_judged_or_refused(name: str, question: str, choices: Any) -> None:
    asked = CHOOSING[name]
    answer, error = tried(lambda: asked.answer(PICTURE, question, 9999, choices), ValueError)
    if error is not None:
        assert error.startswith(("choices", "question"))
    else:
        check(answer)
        assert sum(p for _, p in answer.top) == pytest.approx(1, abs=1e-5)
