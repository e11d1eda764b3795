"""Parts shared by several threads give the same results as in one thread."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import TypeVar

import numpy as np
import pytest
import torch
from test_subword import save_tokenizer

from vlm.explain import METHODS, explain
from vlm.fusion import CrossAttention, record_attention
from vlm.heads import Classification
from vlm.image import ConvNet
from vlm.inference import VQA
from vlm.model import VQAModel
from vlm.text import ClipTokenizer, Recurrent, SubwordTokenizer, WordTokenizer
from vlm.text.tokenizer import Tokenizer

THREADS = 8
T, U = TypeVar("T"), TypeVar("U")


@pytest.fixture(autouse=True)
def many_switches() -> Iterator[None]:
    """Switch between threads thousands of times more often than usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(work: Callable[[T], U], given: Sequence[T]) -> list[list[U]]:
    """Return every thread's results; each thread starts at a different item."""
    together = Barrier(THREADS)

    def all_of_it(first: int) -> list[U]:
        together.wait()
        turned = [*range(first, len(given)), *range(first)]
        found = {number: work(given[number]) for number in turned}
        return [found[number] for number in range(len(given))]

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(all_of_it, range(THREADS)))


@pytest.mark.parametrize("kind", ["subwords", "words", "clip"])
def test_a_tokenizer(kind: str, tmp_path: Path) -> None:
    """Long questions keep their `[SEP]`, and the cache holds no wrong ids."""
    folder = str(save_tokenizer(tmp_path))
    make: dict[str, Callable[[], Tokenizer]] = {
        "subwords": lambda: SubwordTokenizer(folder, max_length=7),
        "words": lambda: WordTokenizer(["what", "is", "the"], max_length=7),
        "clip": lambda: ClipTokenizer(max_length=7),
    }
    questions = [f"what is the cat {n} " * (1 + n % 5) for n in range(300)]

    def read(tokenizer: Tokenizer, question: str) -> tuple[object, ...]:
        ids, length = list(tokenizer.ids(question)), tokenizer.length(question)
        return tokenizer.unknown(question), ids, length, tokenizer.misses(question)

    alone, shared = make[kind](), make[kind]()
    wanted = [read(alone, question) for question in questions]
    for found in in_threads(lambda question: read(shared, question), questions):
        assert found == wanted
    assert [read(shared, question) for question in questions] == wanted, "what the cache keeps"


@pytest.fixture(scope="module")
def vqa() -> VQA:
    torch.manual_seed(0)
    image, text = ConvNet(image_size=16, widths=(8, 8)), Recurrent(["is", "it", "red"], 8)
    fusion = CrossAttention(
        image.dim, text.dim, out_dim=6, num_layers=2, num_heads=3, feedforward_dim=17
    )
    return VQA(VQAModel(image, text, fusion, Classification(fusion.out_dim, ["yes", "no", "red"])))


PICTURE = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
QUESTIONS = ["is it red", "is it", "red", "it is red is it", "red it"]


def test_answers_while_others_are_explained(vqa: VQA) -> None:
    """An explanation's hooks and recorded values stay within its own thread."""
    methods = [METHODS[name] for name in ("integrated_gradients", "grad_cam", "attention")]

    def work(number: int) -> list[float]:
        question = QUESTIONS[number % len(QUESTIONS)]
        if number % 2:
            return [p for _, p in vqa.answer(PICTURE, question).top]
        method = methods[number % len(methods)]()
        found = explain(vqa, PICTURE, question, method, per_word=False)
        return [*found.word_relevance, *found.patches]

    given = range(30)
    wanted = [work(number) for number in given]
    for found in in_threads(work, given):
        for got, want in zip(found, wanted, strict=True):
            assert got == pytest.approx(want, abs=1e-4)


def test_attention_is_recorded_for_its_thread(vqa: VQA) -> None:
    fusion = vqa.model.fusion

    def work(number: int) -> list[int]:
        if number % 2:
            vqa.answer(PICTURE, QUESTIONS[0])
            return []
        with record_attention(fusion) as maps:
            vqa.answer(PICTURE, QUESTIONS[0])
            vqa.answer(PICTURE, QUESTIONS[0])
        return [len(weights) for weights in maps.values()]

    given = range(20)
    wanted = [work(number) for number in given]
    assert wanted[0]
    assert in_threads(work, given) == [wanted] * THREADS
