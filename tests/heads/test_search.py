"""Greedy and beam search give the same texts as plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vlm.heads import AnswerDecoder, AnswerTokenizer
from vlm.heads.generation.beam_search import Pool, Written, search
from vlm.heads.generation.decoder import DecoderState, Memory

VOCABULARY, LONGEST, END = 11, 5, 3


class Letters(AnswerTokenizer):
    vocab_size, begin, end = VOCABULARY, END, END

    def encode(self, answer: str) -> list[int]:
        return [ord(letter) - ord("a") for letter in answer]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(ord("a") + i) for i in ids)


class Table(AnswerDecoder):
    """The next token depends on the question, the position and the last two tokens."""

    def __init__(self) -> None:
        super().__init__(2, Letters(), LONGEST)
        self.table = torch.randn(7, LONGEST, VOCABULARY, VOCABULARY, VOCABULARY) * 2

    def start(self, memory: Memory) -> TableState:
        return TableState(memory.tokens[:, 0, 0].long())

    def forward(self, ids: Tensor, state: TableState) -> Tensor:
        state.texts = ids if state.texts is None else torch.cat((state.texts, ids), 1)
        question = state.questions.repeat_interleave(len(ids) // len(state.questions))
        texts = state.texts
        before = texts[:, -2] if texts.shape[1] > 1 else texts[:, -1]
        return self.table[question, texts.shape[1] - 1, before, texts[:, -1]][:, None]


class TableState(DecoderState):
    def __init__(self, questions: Tensor) -> None:
        self.questions, self.texts = questions, None

    def reorder(self, rows: Tensor) -> None:
        self.texts = self.texts[rows]


def memory(questions: list[int]) -> Memory:
    tokens = torch.tensor(questions, dtype=torch.float)[:, None, None].expand(-1, 3, 2)
    return Memory(tokens, torch.ones(len(questions), 3, dtype=torch.bool))


def plain(
    table: Table, question: int, beams: int, min_length: int, penalty: float
) -> list[tuple[float, Written]]:
    """Run beam search for one question to the end, without shortcuts."""
    running: list[tuple[float, list[int]]] = [(0.0, [])]
    done: list[tuple[float, Written]] = []
    for length in range(1, LONGEST + 1):
        candidates = []
        for total, ids in running:
            newest = [END, END, *ids][-1]
            before = newest if not ids else [END, *ids][-2]
            steps = table.table[question, length - 1, before, newest].log_softmax(0).tolist()
            for token, step in enumerate(steps):
                if token != END or length > min_length:
                    candidates.append((total + step, [*ids, token]))
        candidates.sort(key=lambda x: -x[0])
        for total, ids in candidates[:beams]:
            if ids[-1] == END or length == LONGEST:
                finished = ids[-1] == END
                text = Written(ids[:-1] if finished else ids, total, finished)
                done.append((total / length**penalty, text))
        running = [(total, ids) for total, ids in candidates if ids[-1] != END][:beams]
    return sorted(done, key=lambda x: -x[0])[:beams]


@pytest.mark.parametrize("penalty", [0.0, 1.0, 4.0, -0.5])
@pytest.mark.parametrize("min_length", [0, 3])
@pytest.mark.parametrize("beams", [1, 2, 5])
def test_it_is_beam_search(beams: int, min_length: int, penalty: float) -> None:
    table = Table()
    found = search(table, memory(list(range(7))), beams, min_length, penalty)
    lengths = set()
    for question, texts in enumerate(found):
        wanted = plain(table, question, beams, min_length, penalty)
        if beams == 1:
            wanted = wanted[:1]
        assert [text.ids for text in texts] == [text.ids for _, text in wanted]
        assert [text.finished for text in texts] == [text.finished for _, text in wanted]
        for text, (_, same) in zip(texts, wanted, strict=True):
            assert text.log_likelihood == pytest.approx(same.log_likelihood, abs=1e-4)
            lengths.add(len(text.ids))
    assert len(lengths) > 1 or penalty > 1  # else lengths are not tested
    assert min(lengths) >= min_length


def test_one_beam_takes_the_likeliest_token_each_time() -> None:
    table = Table()
    for question, (text,) in enumerate(search(table, memory(list(range(7))), 1, 0, 0.0)):
        ids: list[int] = []
        total = 0.0
        for length in range(LONGEST):
            newest = [END, END, *ids][-1]
            before = newest if not ids else [END, *ids][-2]
            steps = table.table[question, length, before, newest].log_softmax(0)
            total += steps.max().item()
            if steps.argmax() == END:
                break
            ids.append(int(steps.argmax()))
        assert text.ids == ids
        assert text.log_likelihood == pytest.approx(total, abs=1e-5)
        assert text.finished == (len(ids) < LONGEST)


@pytest.mark.parametrize("beams", [1, 3])
def test_other_questions_do_not_matter(beams: int) -> None:
    table = Table()
    together = search(table, memory([0, 1, 2, 3, 4, 5, 6]), beams, 1, 0.0)
    turned = search(table, memory([6, 5, 4, 3, 2, 1, 0]), beams, 1, 0.0)
    for question in range(7):
        (alone,) = search(table, memory([question]), beams, 1, 0.0)
        assert together[question] == turned[6 - question] == alone


def test_more_beams_find_likelier_texts() -> None:
    table = Table()
    greedy, wide = (search(table, memory(list(range(7))), beams, 0, 0.0) for beams in (1, 5))
    gains = [b[0].log_likelihood - a[0].log_likelihood for a, b in zip(greedy, wide, strict=True)]
    assert max(gains) > 0.01
    assert math.fsum(gains) > 0


def test_a_search_goes_on_while_a_longer_text_can_still_win() -> None:
    """Ending first scores 0.5, yet "aaaa" with 0.3 can still win because of its length."""
    table = Table()
    table.table[:] = -1e9
    table.table[:, :, :, :, 0] = 0  # a forever
    table.table[:, 0, :, :, [END, 0, 1]] = torch.tensor([0.5, 0.3, 0.2]).log()
    ((text,),) = search(table, memory([0]), 1, 0, 0.5)
    assert math.log(0.3) / 2**0.5 < math.log(0.5) < math.log(0.3) / LONGEST**0.5
    assert text.ids == [0] * LONGEST


def test_a_search_goes_on_while_the_next_token_can_still_win() -> None:
    """A penalty below 0 favours short texts, so the bound assumes an end at the next token.

    "aa" takes second place before "a", which it could not with more tokens.
    """
    table = Table()
    table.table[:] = -1e9
    table.table[..., 1] = -1e3  # b everywhere else
    table.table[:, 0, :, :, [END, 0, 1]] = torch.tensor([0.4, 0.5, 0.1]).log()
    table.table[:, 1, :, 0, [END, 0, 1]] = torch.tensor([0.3, 0.5, 0.2]).log()
    table.table[:, 2, 0, 0, END] = 0
    (found,) = search(table, memory([0]), 2, 0, -0.5)
    second, written = math.log(0.5 * 0.3) * 2**0.5, math.log(0.5 * 0.5)
    assert written * LONGEST**0.5 < second < written * 3**0.5
    assert [text.ids for text in found] == [[], [0, 0]]


def test_a_text_that_never_ends_is_cut_and_says_so() -> None:
    table = Table()
    table.table[..., END] = -1e9
    for texts in search(table, memory([0, 1]), 2, 0, 0.0):
        assert [len(text.ids) for text in texts] == [LONGEST, LONGEST]
        assert not any(text.finished for text in texts)


@pytest.mark.parametrize("size", [1, 3])
def test_of_equal_texts_the_earlier_stays(size: int) -> None:
    """Otherwise a question's text would depend on how long the rest of its batch takes."""
    pool = Pool(2, size, 5, torch.device("cpu"))
    scores, ended = torch.full((2, size), -1.0), torch.ones(2, size, dtype=torch.bool)
    for token in (7, 8):
        pool.add(torch.full((2, size, 3), token), scores, scores, ended)
    assert pool.ids[..., 0].unique().tolist() == [7]
