"""Modular co-attention (MCAN), as defined by its authors' network (arXiv 1906.10770)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from references.attention import MLP


class MCAN(nn.Module):
    """What lies between the encoders and the classifier: words and regions to one vector."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.img_feat_linear = nn.Linear(config["IMG_FEAT_SIZE"], config["HIDDEN_SIZE"])
        self.backbone = EncoderDecoder(config)
        self.attflat_img, self.attflat_lang = AttFlat(config), AttFlat(config)
        self.proj_norm = LayerNorm(config["FLAT_OUT_SIZE"])

    def forward(self, lang: Tensor, img: Tensor) -> Tensor:
        """(B, T, H), (B, N, Dv) -> (B, FLAT_OUT_SIZE); tokens of zeros are padding."""
        return self.fuse(lang, padding(lang), img)

    def fuse(self, lang: Tensor, lang_mask: Tensor, img: Tensor) -> Tensor:
        img_mask = padding(img)
        lang, img = self.backbone(lang, self.img_feat_linear(img), lang_mask, img_mask)
        flat_lang, _ = self.attflat_lang(lang, lang_mask)
        flat_img, _ = self.attflat_img(img, img_mask)
        return self.proj_norm(flat_lang + flat_img)


class Net(MCAN):
    """The whole network, from the numbers of words to the logits of answers."""

    def __init__(self, config: dict[str, Any], token_size: int, answer_size: int) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(token_size, config["WORD_EMBED_SIZE"])
        self.lstm = nn.LSTM(config["WORD_EMBED_SIZE"], config["HIDDEN_SIZE"], batch_first=True)
        self.proj = nn.Linear(config["FLAT_OUT_SIZE"], answer_size)

    def forward(self, ques: Tensor, img: Tensor) -> Tensor:
        lang, _ = self.lstm(self.embedding(ques))
        return self.proj(self.fuse(lang, (ques == 0)[:, None, None], img))


class EncoderDecoder(nn.Module):
    """Self-attention layers over the words, then guided layers over the regions."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.enc_list = nn.ModuleList(SA(config) for _ in range(config["LAYER"]))
        self.dec_list = nn.ModuleList(SGA(config) for _ in range(config["LAYER"]))

    def forward(
        self,
        lang: Tensor,
        img: Tensor,
        lang_mask: Tensor | None = None,
        img_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        for layer in self.enc_list:
            lang = layer(lang, lang_mask)
        for layer in self.dec_list:
            img = layer(img, lang, img_mask, lang_mask)
        return lang, img


class SA(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        dim = config["HIDDEN_SIZE"]
        self.mhatt, self.ffn = MHAtt(config), FFN(config)
        self.norm1, self.norm2 = LayerNorm(dim), LayerNorm(dim)

    def forward(self, x: Tensor, x_mask: Tensor | None) -> Tensor:
        x = self.norm1(x + self.mhatt(x, x, x, x_mask))
        return self.norm2(x + self.ffn(x))


class SGA(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        dim = config["HIDDEN_SIZE"]
        self.mhatt1, self.mhatt2, self.ffn = MHAtt(config), MHAtt(config), FFN(config)
        self.norm1, self.norm2, self.norm3 = LayerNorm(dim), LayerNorm(dim), LayerNorm(dim)

    def forward(self, y: Tensor, x: Tensor, y_mask: Tensor | None, x_mask: Tensor | None) -> Tensor:
        y = self.norm1(y + self.mhatt1(y, y, y, y_mask))
        y = self.norm2(y + self.mhatt2(y, x, x, x_mask))
        return self.norm3(y + self.ffn(y))


class MHAtt(nn.Module):
    """Multi-head attention with its scores and shares as tensors."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        dim = config["HIDDEN_SIZE"]
        self.heads = config["MULTI_HEAD"]
        self.linear_v, self.linear_k = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.linear_q, self.linear_merge = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        q = self.split(self.linear_q(query))
        k, v = self.split(self.linear_k(key)), self.split(self.linear_v(value))
        scores = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(q.shape[3])
        if mask is not None:
            scores = scores.masked_fill(mask, -1e9)
        mixed = torch.matmul(F.softmax(scores, 3), v)
        return self.linear_merge(mixed.transpose(1, 2).flatten(2))

    def split(self, x: Tensor) -> Tensor:
        """(B, N, H) -> (B, heads, N, H / heads)."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class FFN(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.mlp = MLP(config["HIDDEN_SIZE"], config["FF_SIZE"], config["HIDDEN_SIZE"])

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)


class AttFlat(nn.Module):
    """Tokens to one vector by learned attention."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        dim, glimpses = config["HIDDEN_SIZE"], config["FLAT_GLIMPSES"]
        self.mlp = MLP(dim, config["FLAT_MLP_SIZE"], glimpses)
        self.linear_merge = nn.Linear(dim * glimpses, config["FLAT_OUT_SIZE"])

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, H), (B, 1, 1, N) -> (B, FLAT_OUT_SIZE) and the attention (B, N, G)."""
        scores = self.mlp(x).masked_fill(mask[:, 0, 0, :, None], -1e9)
        att = F.softmax(scores, 1)
        attended = [(att[:, :, g, None] * x).sum(1) for g in range(att.shape[2])]
        return self.linear_merge(torch.cat(attended, 1)), att


class LayerNorm(nn.Module):
    """With the unbiased deviation, to which epsilon is added."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.a_2, self.b_2 = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        mean, deviation = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        return self.a_2 * (x - mean) / (deviation + 1e-6) + self.b_2


def padding(tokens: Tensor) -> Tensor:
    """(B, N, D) -> (B, 1, 1, N), True where a token is all zeros."""
    return (tokens.abs().sum(-1) == 0)[:, None, None]
