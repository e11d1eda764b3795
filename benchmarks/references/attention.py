"""Attention over regions: scored by a merge (BLOCK repository), and MFB co-attention (openvqa)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from references.merges import merge_from


class GlimpseAttention(nn.Module):
    """Each region and the question go through a merge, for which the question is broadcast."""

    def __init__(self, fusion: dict[str, Any], mlp_glimpses: int = 0) -> None:
        super().__init__()
        self.mlp_glimpses = mlp_glimpses
        self.fusion = merge_from(fusion)
        if mlp_glimpses:
            self.linear0 = nn.Linear(fusion["output_dim"], 512)
            self.linear1 = nn.Linear(512, mlp_glimpses)

    def forward(self, q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """(B, Dq), (B, N, Dv) -> (B, G * Dv) and the attention (B, N, G)."""
        scores = self.fusion(q[:, None], v)
        if self.mlp_glimpses:
            scores = self.linear1(F.relu(self.linear0(scores)))
        return attend(scores, v)


class AttendThenMerge(nn.Module):
    """A network's fusion: glimpse attention, then a merge of what it attended to."""

    def __init__(self, attention: GlimpseAttention, merge: nn.Module) -> None:
        super().__init__()
        self.attention, self.merge = attention, merge

    def forward(self, q: Tensor, v: Tensor) -> Tensor:
        attended, _ = self.attention(q, v)
        return self.merge(q, attended)


class CoAttention(nn.Module):
    """The words attend to themselves, then the question to the regions; MFB or MFH merges."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.high_order = config["HIGH_ORDER"]
        image_dim = config["FEAT_SIZE"][config["DATASET"]]["FRCN_FEAT_SIZE"][1]
        hidden, text_dim = config["HIDDEN_SIZE"], config["LSTM_OUT_SIZE"]
        question_dim = config["Q_GLIMPSES"] * text_dim
        both = (config["I_GLIMPSES"] * image_dim, question_dim)
        self.q_att = nn.Module()
        self.q_att.mlp = MLP(text_dim, hidden, config["Q_GLIMPSES"])
        self.i_att = nn.Module()
        self.i_att.mfb = MFBBlock(config, image_dim, question_dim)
        self.i_att.mlp = MLP(config["MFB_O"], hidden, config["I_GLIMPSES"])
        if self.high_order:
            self.mfh1 = MFBBlock(config, *both)
            self.mfh2 = MFBBlock(config, *both, is_first=False)
        else:
            self.mfb = MFBBlock(config, *both)

    def forward(self, ques: Tensor, img: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, Dq), (B, N, Dv) -> (B, O) or (B, 2 O), and both attention maps."""
        question, q_att = attend(self.q_att.mlp(ques), ques)
        question = question[:, None]
        z, _ = self.i_att.mfb(img, question)
        image, i_att = attend(self.i_att.mlp(z), img)
        image = image[:, None]
        if self.high_order:
            first, product = self.mfh1(image, question)
            second, _ = self.mfh2(image, question, product)
            z = torch.cat([first, second], 2)
        else:
            z, _ = self.mfb(image, question)
        return z.squeeze(1), q_att, i_att


class MFBBlock(nn.Module):
    """MFB of every region and the question; one L2 norm over all regions and channels."""

    def __init__(
        self,
        config: dict[str, Any],
        img_feat_size: int,
        ques_feat_size: int,
        is_first: bool = True,
    ) -> None:
        super().__init__()
        self.groups = (config["MFB_O"], config["MFB_K"])
        wide = config["MFB_O"] * config["MFB_K"]
        self.is_first = is_first
        self.proj_i = nn.Linear(img_feat_size, wide)
        self.proj_q = nn.Linear(ques_feat_size, wide)

    def forward(
        self, img: Tensor, ques: Tensor, exp_prev: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(B, C, Dv), (B, 1, Dq), (B, C, O * K) -> (B, C, O) and the product (B, C, O * K)."""
        product = self.proj_i(img) * self.proj_q(ques)
        if not self.is_first:
            product = product * exp_prev
        z = product.view(*product.shape[:2], *self.groups).sum(3)
        z = z.sign() * z.abs().sqrt()
        return F.normalize(z.flatten(1)).view_as(z), product


class MLP(nn.Module):
    """linear(relu(fc.linear(x)))."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.fc = nn.Module()
        self.fc.linear = nn.Linear(in_dim, hidden_dim)
        self.linear = nn.Linear(hidden_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(F.relu(self.fc.linear(x)))


def attend(scores: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """(B, N, G), (B, N, D) -> the glimpses side by side (B, G * D), and the shares (B, N, G)."""
    shares = F.softmax(scores, 1)
    return (shares.mT @ tokens).flatten(1), shares
