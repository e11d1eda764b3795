"""Modular co-attention (MCAN), as defined by its authors' network (arXiv 1906.10770).

The authors' layer norm has the unbiased deviation, to which epsilon is added; here it is PyTorch's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from references.attention import MLP
from references.pieces import Attention


class MCAN(nn.Module):
    """What lies between the encoders and the classifier: words and regions to one vector."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.img_feat_linear = nn.Linear(config["IMG_FEAT_SIZE"], config["HIDDEN_SIZE"])
        self.backbone = EncoderDecoder(config)
        self.attflat_img, self.attflat_lang = AttFlat(config), AttFlat(config)
        self.proj_norm = nn.LayerNorm(config["FLAT_OUT_SIZE"])

    def forward(self, lang: Tensor, img: Tensor) -> Tensor:
        """(B, T, H), (B, N, Dv) -> (B, FLAT_OUT_SIZE); tokens of zeros are padding."""
        return self.fuse(lang, lang.any(-1), img)

    def fuse(self, lang: Tensor, lang_mask: Tensor, img: Tensor) -> Tensor:
        """Masks (B, T) and (B, N) are True where a token is real."""
        img_mask = img.any(-1)
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
        return self.proj(self.fuse(lang, ques != 0, img))


class EncoderDecoder(nn.Module):
    """Self-attention layers over the words, then guided layers over the regions."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.enc_list = nn.ModuleList(SA(config) for _ in range(config["LAYER"]))
        self.dec_list = nn.ModuleList(SGA(config) for _ in range(config["LAYER"]))

    def forward(
        self, lang: Tensor, img: Tensor, lang_mask: Tensor, img_mask: Tensor
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
        self.mhatt, self.ffn = Attention(dim, config["MULTI_HEAD"]), FFN(config)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor, x_mask: Tensor) -> Tensor:
        x = self.norm1(x + self.mhatt(x, x_mask))
        return self.norm2(x + self.ffn(x))


class SGA(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        dim, heads = config["HIDDEN_SIZE"], config["MULTI_HEAD"]
        self.mhatt1, self.mhatt2 = Attention(dim, heads), Attention(dim, heads, dim)
        self.ffn = FFN(config)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor, y: Tensor, x_mask: Tensor, y_mask: Tensor) -> Tensor:
        x = self.norm1(x + self.mhatt1(x, x_mask))
        x = self.norm2(x + self.mhatt2(x, y_mask, y))
        return self.norm3(x + self.ffn(x))


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
        """(B, N, H), (B, N) -> (B, FLAT_OUT_SIZE) and the attention (B, N, G)."""
        att = self.mlp(x).masked_fill(~mask[..., None], -torch.inf).softmax(1)
        return self.linear_merge((att.mT @ x).flatten(1)), att
