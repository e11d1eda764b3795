"""`MAC` equals the paper's three units, written one question and one step at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vlm.core.features import Features
from vlm.fusion import MAC, record_attention

TOKENS, WORDS = (7, 4, 1), (5, 1, 3)


def inputs() -> tuple[Features, Features]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, 7, 13, dtype=torch.float64, generator=generator)
    words = torch.randn(3, 5, 11, dtype=torch.float64, generator=generator)
    return (
        Features(tokens, torch.arange(7) < torch.tensor(TOKENS)[:, None]),
        Features(words, torch.arange(5) < torch.tensor(WORDS)[:, None]),
    )


def naive(fusion: MAC, tokens: Tensor, words: Tensor, question: Tensor) -> tuple[Tensor, Tensor]:
    """(N, I), (L, T), (T,) -> pooled (D,), and the weights of the patches (T, N)."""
    read, interact = fusion.read, fusion.read.interaction
    knowledge = F.elu(fusion.knowledge[0](tokens))
    words, question = fusion.words(words), fusion.question(question)
    control, memory = fusion.first_control, fusion.first_memory
    maps = []
    for step_question in fusion.step_questions:
        asked = fusion.control.mix(torch.cat((control, step_question(question))))
        scores = torch.stack([fusion.control.score(asked * word) for word in words])
        control = (scores.softmax(0) * words).sum(0)
        scores = []
        for k in knowledge:
            both = torch.cat((read.memory(memory) * read.knowledge(k), k))
            joint = torch.cat((interact.weight, read.direct.weight), 1) @ both + read.direct.bias
            scores.append(read.score(F.elu(control * joint)))
        maps.append(torch.stack(scores).softmax(0))
        found = (maps[-1] * knowledge).sum(0)
        memory = fusion.write(torch.cat((found, memory)))
    return fusion.out(torch.cat((question, memory))), torch.stack(maps).squeeze(-1)


def test_against_the_formulas() -> None:
    image, text = inputs()
    fusion = MAC(13, 11, out_dim=17, steps=3).double().eval()
    with record_attention(fusion) as maps:
        fused = fusion(image, text)
    for row, (tokens, words) in enumerate(zip(TOKENS, WORDS, strict=True)):
        pooled, weights = naive(
            fusion, image.tokens[row, :tokens], text.tokens[row, :words], text.pooled[row]
        )
        torch.testing.assert_close(fused.pooled[row], pooled, rtol=0, atol=1e-12)
        shown = torch.stack([each[row, 0] for each in maps["read"]])  # a map for each step
        torch.testing.assert_close(shown[:, :tokens], weights, rtol=0, atol=1e-12)
        assert not shown[:, tokens:].any()


def test_one_dropout_mask_of_the_memory_serves_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    image, text = inputs()
    fusion = MAC(13, 11, out_dim=17, steps=4, dropout=0.5).double().train()
    seen: list[Tensor] = []
    fusion.read.memory.register_forward_hook(lambda module, given, made: seen.append(given[0]))
    fusion(image, text)
    dropped = [memory == 0 for memory in seen]
    assert len(dropped) == 4
    assert dropped[0].any()
    assert not dropped[0].all()
    assert all(each.equal(dropped[0]) for each in dropped)


def test_number_of_parameters() -> None:
    image, text, dim, steps = 13, 11, 17, 3
    formula = (image + 2 * text + 3) * dim + steps * (dim + 1) * dim + 10 * dim**2 + 10 * dim + 2
    assert sum(p.numel() for p in MAC(image, text, dim, steps).parameters()) == formula


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"steps: got 0; expected a positive integer"):
        MAC(13, 11, steps=0)
