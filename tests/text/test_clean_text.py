"""Questions from untrusted users get an answer, or an error that names the question."""

from __future__ import annotations

import doctest
from typing import Any

import pytest
import torch
from hypothesis import given, strategies
from PIL import Image

import vlm.core.clean_text
from vlm.core.clean_text import are_clean, clean_text
from vlm.fusion import Pooled
from vlm.heads import Classification
from vlm.image import ConvNet
from vlm.inference import VQA
from vlm.model import VQAModel
from vlm.text import BagOfWords, ClipTokenizer, WordTokenizer
from vlm.text.tokenizer import Tokenizer


def test_the_examples_of_the_docstrings_run() -> None:
    results = doctest.testmod(vlm.core.clean_text)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "what colour?",
        "Où?",
        "这是什么",
        "a\u200d🙂",
        "می\u200cروم",
        "x² ½",
        "a\tb\r\n",
        "Yes.",
    ],
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert clean_text(text) == text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cafe\u0301", "caf\u00e9"),
        ("\u1112\u1161\u11ab", "\ud55c"),  # Korean, letter by letter
        ("\u0915\u093c", "\u0958"),  # Hindi; NFC decomposes this one
        ("\ufeffred", "red"),  # a byte order mark left over from joining two files
        ("r\u00aded\u200b\u200e\u202a", "red"),
        ("red\u00a0wine\u3000bar", "red wine bar"),
    ],
)
def test_what_looks_alike_is_one_text(one: str, other: str) -> None:
    assert clean_text(one) == clean_text(other)
    assert not are_clean([one]) or not are_clean([other])


@given(strategies.text())
def test_the_gate_changes_nothing_twice(text: str) -> None:
    clean = clean_text(text)
    assert clean_text(clean) == clean
    assert not are_clean([text]) or clean == text


def test_control_characters_are_spaces() -> None:
    assert clean_text("is\0it\x1bred\x7f\x85?") == "is it red  ?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\ud800b", r"got 'a\\ud800b', which is not valid Unicode"),
        (None, "got None; expected text"),
        (b"a", "got b'a'; expected text"),
        (float("nan"), "got nan; expected text"),
    ],
)
def test_what_is_no_text_is_refused(text: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clean_text(text)


def asked(tokenizer: Tokenizer) -> VQA:
    image, text = ConvNet(image_size=8, widths=(5,)), BagOfWords((), 7, tokenizer=tokenizer)
    fusion = Pooled(image.dim, text.dim)
    return VQA(VQAModel(image, text, fusion, Classification(fusion.out_dim, ["yes", "no"])))


PICTURE = Image.new("RGB", (8, 8), (200, 30, 90))


@pytest.mark.parametrize("tokenizer", [WordTokenizer(["is", "it"], max_length=5), ClipTokenizer(7)])
@pytest.mark.filterwarnings("ignore:Questions cut to")
def test_odd_questions_are_answered_alike_alone_and_together(tokenizer: Tokenizer) -> None:
    vqa = asked(tokenizer)
    questions = ["is it\0?", "🙂", "这是什么", "is it " * 1667, "?", "\u200d", "a\u0301" * 99]
    together = vqa.answer(PICTURE, questions)
    for question, answer in zip(questions, together, strict=True):
        alone = vqa.answer(PICTURE, question)
        assert 0 <= alone.probability <= 1
        assert alone.probability == pytest.approx(answer.probability, abs=1e-6)
    assert vqa.answer(PICTURE, "is\0it?").probability == vqa.answer(PICTURE, "is it?").probability


@pytest.mark.parametrize("question", ["", "\0", "\t\n", 3, "a\udfff"])
def test_other_questions_are_refused_by_number(question: Any) -> None:
    vqa = asked(WordTokenizer(["is"]))
    with pytest.raises(ValueError, match=r"question 2: got .*(expected text|Unicode)"):
        vqa.answer(PICTURE, ["is it?", question])


def test_a_batch_names_the_id() -> None:
    processor = asked(WordTokenizer(["is"])).model.processor
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"question \(id 'q-7'\): got 'a\\ud800'"):
        processor.batch(images, [0, 0], ["is it", "a\ud800"], ids=["q-3", "q-7"])
    with pytest.raises(ValueError, match=r"answer \(id 'q-3'\): got None; expected text"):
        processor.batch(images, [0], ["is it"], [["yes", None]], ids=["q-3"])


def test_workers_count_what_is_cut_as_one() -> None:
    """Questions cut in forked loader workers count towards one total and one warning."""
    import os

    tokenizer = WordTokenizer(["is"], max_length=2)
    with pytest.warns(UserWarning, match="Questions cut to 2 tokens so far: 1"):
        tokenizer(["is is is"])
    child = os.fork()
    if not child:
        tokenizer(["is is is"])  # a second warning would be an error here
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert tokenizer.cut == 2
