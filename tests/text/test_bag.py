"""The bag of words."""

from __future__ import annotations

import pytest
import torch

from vlm.core.features import masked_mean
from vlm.text import BagOfWords, WordTokenizer

WORDS = ["what", "colour", "is", "it"]


def test_by_hand() -> None:
    encoder = BagOfWords(["red"], dim=2, hidden_dim=1)
    with torch.no_grad():
        encoder.embedding.weight.copy_(torch.tensor([[9.0, 9.0], [1.0, 3.0], [3.0, 5.0]]))
        encoder.mlp[0].weight.copy_(torch.tensor([[1.0, 2.0]]))
        encoder.mlp[0].bias.fill_(-3)
        encoder.mlp[2].weight.copy_(torch.tensor([[2.0], [-1.0]]))
        encoder.mlp[2].bias.copy_(torch.tensor([0.0, 7.0]))
    features = encoder(*encoder.tokenizer(["purple red", "red"]))
    # b = mean of [1, 3] and [3, 5] = [2, 4]; hidden relu(2 + 8 - 3) = 7; MLP = [14, 0].
    torch.testing.assert_close(features.pooled[0], torch.tensor([16.0, 4.0]))
    torch.testing.assert_close(features.tokens[0], torch.tensor([[15.0, 3.0], [17.0, 5.0]]))
    # b = [3, 5]; hidden 3 + 10 - 3 = 10; MLP = [20, -3].
    torch.testing.assert_close(features.pooled[1], torch.tensor([23.0, 2.0]))
    assert features.boxes is None


def test_order_does_not_matter() -> None:
    encoder = BagOfWords(WORDS, dim=7, hidden_dim=5)
    ids, mask = encoder.tokenizer(["what colour is it", "it is colour what"])
    features = encoder(ids, mask)
    torch.testing.assert_close(features.pooled[0], features.pooled[1])
    torch.testing.assert_close(features.tokens[0], features.tokens[1].flip(0))


def test_pooled_is_the_mean_of_the_tokens() -> None:
    encoder = BagOfWords(WORDS, dim=7, hidden_dim=5)
    features = encoder(*encoder.tokenizer(["what colour is it", "is it"]))
    torch.testing.assert_close(features.pooled, masked_mean(features.tokens, features.mask))


def test_an_empty_question_is_the_mlp_of_zero() -> None:
    encoder = BagOfWords(WORDS, dim=7, hidden_dim=5)
    features = encoder(*encoder.tokenizer(["", "is it"]))
    torch.testing.assert_close(features.pooled[0], encoder.mlp(torch.zeros(7)))


def test_another_tokenizer() -> None:
    encoder = BagOfWords((), dim=7, tokenizer=WordTokenizer(WORDS, max_length=3))
    assert encoder.embedding.num_embeddings == 6
    assert encoder.tokenizer.max_length == 3


def test_dropout_only_in_training() -> None:
    encoder = BagOfWords(WORDS, dim=97, dropout=0.5)
    batch = encoder.tokenizer(["what colour is it"])
    assert not torch.equal(encoder(*batch).pooled, encoder(*batch).pooled)
    encoder.eval()
    assert torch.equal(encoder(*batch).pooled, encoder(*batch).pooled)


def test_wrong_masks() -> None:
    encoder = BagOfWords(WORDS, dim=7)
    ids, mask = encoder.tokenizer(["what colour"])
    with pytest.raises(ValueError, match=r"torch.int64.*expected both \(B, L\) and a bool mask"):
        encoder(ids, mask.long())
    with pytest.raises(ValueError, match=r"got shapes \(1, 2\) and \(1, 1\)"):
        encoder(ids, mask[:, :1])
