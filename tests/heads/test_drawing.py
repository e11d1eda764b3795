"""The head that answers with words or with a picture."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from vlm.core.batch import Batch
from vlm.core.features import Features
from vlm.heads import Drawing, PictureCodes, TransformerDecoder, WordsAndCodes
from vlm.image.as_text import PICTURE, is_picture, picture_of, picture_text
from vlm.testing import check_head

DECODER = partial(TransformerDecoder, dim=32, num_layers=1, max_length=9)
CODES = partial(PictureCodes, size=8, patch=4, codes=6, dim=4, hidden_dim=32, batch_size=8)


def some_pictures(count: int = 40) -> torch.Tensor:
    """Four patches, each black, red or green: (P, 8, 8, 3)."""
    colors = np.array([(0, 0, 0), (230, 25, 25), (0, 170, 0)], np.uint8)
    of_patch = np.random.default_rng(0).integers(3, size=(count, 2, 2))
    return torch.from_numpy(colors[of_patch].repeat(4, 1).repeat(4, 2))


def make(**arguments: Any) -> Drawing:
    arguments = {"decoder": partial(DECODER, tokenizer=WordsAndCodes(6)), **arguments}
    return Drawing(13, 11, pictures=CODES(steps=800), **arguments).eval()


def ask(rows: int, words: torch.Tensor, targets: Any = None) -> Batch:
    index = torch.arange(rows)
    tokens = torch.randn(rows, 3, 11, generator=torch.Generator().manual_seed(1))
    question = Features(tokens, torch.ones(rows, 3).bool(), tokens.mean(1))
    ids = [str(row) for row in range(rows)]
    mask = words > 0
    batch = Batch(None, index, words, mask, targets, ids, rows)  # type: ignore[arg-type]
    return batch._replace(question=question)


@pytest.fixture(scope="module")
def learned() -> Drawing:
    """A head whose codes are trained on `some_pictures`."""
    head = make()
    head.learn_first(lambda: ["red", *(picture_text(p.numpy()) for p in some_pictures())])
    return head


def test_words_and_pictures_keep_the_promises_of_a_head(learned: Drawing) -> None:
    pictures = [picture_text(pixels.numpy()) for pixels in some_pictures(2)]
    check_head(learned, ("no", pictures[0], "two cats", pictures[1]))


def test_codes_describe_the_pictures_that_they_are_trained_on(learned: Drawing) -> None:
    pictures = some_pictures()
    codes = learned.pictures.encode(pictures)
    assert codes.shape == (40, 4)
    assert len(codes.unique()) == 3
    off = learned.pictures.decode(codes).int() - pictures.int()
    assert off.abs().max() < 24
    assert not list(learned.pictures.parameters()), "an optimiser would train them"


def test_the_same_seed_gives_the_same_codes_and_leaves_other_random_numbers(
    learned: Drawing,
) -> None:
    before = torch.get_rng_state()
    one, other = (CODES(steps=5) for _ in range(2))
    torch.set_rng_state(before)
    for codes, seed in ((one, 3), (other, 3)):
        codes.codebook.zero_()
        codes.learn(some_pictures(), seed)
    assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), before)
    other.learn(some_pictures(), 4)
    assert not torch.equal(one.codebook, other.codebook)


def test_codes_of_any_precision_are_trained_in_float32() -> None:
    made = [CODES(steps=5).to(dtype).learn(some_pictures()) for dtype in (torch.float, torch.half)]
    assert [codes.codebook.dtype for codes in made] == [torch.float, torch.half]
    assert torch.equal(made[1].codebook, made[0].codebook.half())


def test_codes_are_trained_once(learned: Drawing) -> None:
    def never() -> list[str]:
        raise AssertionError("these codes are trained")

    before = learned.pictures.codebook.clone()
    learned.learn_first(never)
    assert torch.equal(learned.pictures.codebook, before)
    other = make()
    other.load_state_dict(learned.state_dict())
    other.learn_first(never)


def test_it_learns_when_to_write_and_when_to_draw(learned: Drawing) -> None:
    torch.manual_seed(0)
    head = make(temperature=0.0)
    head.pictures.load_state_dict(learned.pictures.state_dict())
    picture = picture_text(some_pictures(1)[0].numpy())
    words = torch.tensor([[1, 2], [3, 4]])
    batch = ask(2, words, head.encode_targets([["red"], [picture]]))
    fused = Features(torch.randn(2, 3, 13), torch.ones(2, 3).bool(), torch.randn(2, 13))
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        head.loss(head(fused, batch), batch).backward()
        optimizer.step()
    (word,), (drawn,) = head.decode(head(fused, batch), 5)
    assert word[0] == "red"
    assert is_picture(drawn[0])
    assert min(word[1], drawn[1]) > 0.9
    made = np.asarray(picture_of(drawn[0])).astype(int)
    assert abs(made - some_pictures(1)[0].numpy()).max() < 24


def test_what_is_drawn_depends_on_the_question_and_not_on_the_batch(learned: Drawing) -> None:
    torch.manual_seed(0)
    head = make(temperature=50.0)  # next to chance alone
    head.pictures.load_state_dict(learned.pictures.state_dict())
    words = torch.tensor([[1, 2, 0], [3, 4, 5], [1, 2, 0], [2, 1, 0], [6, 0, 0]])
    batch = ask(5, words)
    fused = Features(torch.randn(5, 3, 13), torch.ones(5, 3).bool(), torch.randn(5, 13))
    memory = head(fused, batch)
    drawn = head._drawn(memory)
    assert torch.equal(drawn[0], drawn[2])
    assert len(drawn.unique(dim=0)) > 2
    alone = memory.rows(torch.tensor([0]))
    alone = alone._replace(prompt=words[:1, :2], prompt_mask=words[:1, :2] > 0)
    assert torch.equal(head._drawn(alone), drawn[:1])


def test_a_question_that_is_left_out_says_nothing(learned: Drawing) -> None:
    batch = ask(2, torch.tensor([[1, 2], [3, 4]]))
    batch = batch._replace(no_question=torch.tensor([True, True]))
    memory = learned(Features(torch.zeros(2, 3, 13), torch.ones(2, 3).bool()), batch)
    one, other = learned._noise(memory)
    assert torch.equal(one, other)


@torch.no_grad()
def test_no_answer_is_empty(learned: Drawing) -> None:
    """Where an answer's end is likeliest and a picture comes second, a picture is drawn."""
    head = make()
    table = head.decoder.embedding.weight.zero_()
    table[head.tokenizer.end, 0], table[head.tokenizer.picture, 0] = 3.0, 2.0
    head.decoder.norm.weight.zero_()
    head.decoder.norm.bias.zero_()[0] = 1.0
    fused = Features(torch.randn(1, 3, 13), torch.ones(1, 3).bool(), torch.randn(1, 13))
    ((answer,),) = head.decode(head(fused, ask(1, torch.tensor([[1]]))), 1)
    assert is_picture(answer[0])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"decoder": DECODER}, "WordsAndCodes(codes=6)"),
        ({"decoder": partial(DECODER, tokenizer=WordsAndCodes(7))}, "WordsAndCodes(codes=6)"),
        (
            {"decoder": partial(DECODER, tokenizer=WordsAndCodes(6), max_length=4)},
            "max_length=4",
        ),
        ({"temperature": -0.1}, "temperature: got -0.1"),
    ],
)
def test_a_decoder_that_does_not_fit_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        make(**arguments)


def test_pictures_that_cannot_be_learned_are_refused() -> None:
    head = make()
    with pytest.raises(ValueError, match="no training question has a picture"):
        head.learn_first(lambda: ["red", "blue"])
    with pytest.raises(ValueError, match=r"pictures.size: got a picture of 6 x 4"):
        head.encode_targets([[picture_text(np.zeros((4, 6, 3), np.uint8))]])
    with pytest.raises(ValueError, match="expected a PNG in base64"):
        head.encode_targets([[PICTURE + "cmVk"]])
    with pytest.raises(ValueError, match="pictures: got"):
        head.pictures.learn(torch.zeros(2, 8, 8, 3))
