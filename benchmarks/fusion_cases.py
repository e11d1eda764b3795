"""What benchmarks/fusion.py compares: our fusions and their references at the sizes used for VQA.

Widths are equal, so that both sides have the same parameters and compute the same function, but
for the names and layout of the weights and for quirks that cost nothing (MCAN's unbiased
deviation, openvqa's joint norm, biases that cancel in a softmax).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from references import attention, ban, mcan, merges
from torch import nn

from vlm.fusion import (
    BAN,
    MCAN,
    MCB,
    MFB,
    MFH,
    MLB,
    Block,
    BlockTucker,
    ConcatMLP,
    GlimpseAttention,
    MFBCoAttention,
    Mutan,
    Sum,
    Tucker,
)
from vlm.fusion.base import MergeFactory

IMAGE, QUESTION, ANSWER = 2048, 4800, 3000  # regions of a ResNet, skip-thoughts, answers of VQA


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        ours: makes our module, called with (image, question).
        theirs: makes the reference, called with (question, image).
        image, question: shapes of the inputs.
    """

    ours: Callable[[], nn.Module]
    theirs: Callable[[], nn.Module]
    image: tuple[int, ...]
    question: tuple[int, ...]


def pooled(ours: MergeFactory, **theirs: Any) -> Case:
    theirs |= {"input_dims": (QUESTION, IMAGE), "output_dim": ANSWER}
    return Case(
        lambda: ours(IMAGE, QUESTION, ANSWER),
        lambda: merges.merge_from(theirs),
        (256, IMAGE),
        (256, QUESTION),
    )


def glimpses(ours: MergeFactory, **theirs: Any) -> Case:
    """Two glimpses scored by a merge, then merged by another of its kind."""
    score = theirs | {"input_dims": (QUESTION, IMAGE), "output_dim": 2}
    merge = theirs | {"input_dims": (QUESTION, 2 * IMAGE), "output_dim": ANSWER}
    return Case(
        lambda: GlimpseAttention(IMAGE, QUESTION, ours, partial(ours, out_dim=ANSWER)),
        lambda: attention.AttendThenMerge(
            attention.GlimpseAttention(score), merges.merge_from(merge)
        ),
        (64, 36, IMAGE),
        (64, QUESTION),
    )


def bilinear_attention(count: int) -> Case:
    return Case(
        # Words come at the network's own width, which the reference does not project.
        lambda: without(BAN(IMAGE, 1280, 1280, count), "text_projection"),
        lambda: ban.BAN(IMAGE, 1280, 1280, count),
        (64, 36, IMAGE),
        (64, 14, 1280),
    )


def mfb_co_attention(order: int) -> Case:
    config = {
        "HIGH_ORDER": order == 2,
        "FEAT_SIZE": {"vqa": {"FRCN_FEAT_SIZE": (36, IMAGE)}},
        "DATASET": "vqa",
        "LSTM_OUT_SIZE": 1024,
        "HIDDEN_SIZE": 1000,
        "MFB_O": 1000,
        "MFB_K": 5,
        "I_GLIMPSES": 2,
        "Q_GLIMPSES": 2,
    }
    return Case(
        # The reference ends before the last projection.
        lambda: without(
            MFBCoAttention(IMAGE, 1024, order * 1000, 1000, 5, order), "merge.out_projection"
        ),
        lambda: attention.CoAttention(config),
        (64, 36, IMAGE),
        (64, 14, 1024),
    )


def modular_co_attention(batch: int, regions: int) -> Case:
    config = {
        "IMG_FEAT_SIZE": IMAGE,
        "HIDDEN_SIZE": 512,
        "FF_SIZE": 2048,
        "LAYER": 6,
        "MULTI_HEAD": 8,
        "FLAT_MLP_SIZE": 512,
        "FLAT_GLIMPSES": 1,
        "FLAT_OUT_SIZE": 1024,
    }
    return Case(
        lambda: without(MCAN(IMAGE, 512, 1024, 512, num_layers=6, num_heads=8), "text_projection"),
        lambda: mcan.MCAN(config),
        (batch, regions, IMAGE),
        (batch, 14, 512),
    )


def without(module: nn.Module, name: str) -> nn.Module:
    module.set_submodule(name, nn.Identity())
    return module


PLAIN = {"activ_input": "", "activ_output": ""}
TANH = {"activ_input": "tanh", "activ_output": ""}
CASES = {
    "LinearSum": pooled(
        partial(Sum, hidden_dim=1200), cls="LinearSum", mm_dim=1200, activ_output=""
    ),
    "ConcatMLP": pooled(
        partial(ConcatMLP, hidden_dims=(1600, 1600)), cls="ConcatMLP", dimensions=(1600, 1600)
    ),
    "MLB": pooled(partial(MLB, hidden_dim=1200), cls="MLB", mm_dim=1200, **TANH),
    "MFB": pooled(
        partial(MFB, hidden_dim=1000, factor=5),
        cls="MFB",
        mm_dim=1000,
        factor=5,
        normalize=True,
        **PLAIN,
    ),
    "MFH": pooled(
        partial(MFH, hidden_dim=340, factor=5),
        cls="MFH",
        mm_dim=340,
        factor=5,
        normalize=True,
        **PLAIN,
    ),
    "MCB": pooled(
        partial(MCB, sketch_dim=16000, normalize=False), cls="MCB", mm_dim=16000, activ_output=""
    ),
    "Tucker": pooled(partial(Tucker, hidden_dim=235), cls="Tucker", mm_dim=235),
    "Mutan": pooled(partial(Mutan, hidden_dim=1600, rank=10), cls="Mutan", mm_dim=1600, rank=10),
    "BlockTucker": pooled(
        partial(BlockTucker, hidden_dim=1800, chunks=10), cls="BlockTucker", mm_dim=1800, chunks=10
    ),
    "Block": pooled(
        partial(Block, hidden_dim=1600, chunks=18, rank=15),
        cls="Block",
        mm_dim=1600,
        chunks=18,
        rank=15,
    ),
    "MLB-attention": glimpses(partial(MLB, hidden_dim=1200), cls="MLB", mm_dim=1200, **TANH),
    "Block-attention": glimpses(
        partial(Block, hidden_dim=1600, chunks=18, rank=15),
        cls="Block",
        mm_dim=1600,
        chunks=18,
        rank=15,
    ),
    "BAN-4": bilinear_attention(4),
    "BAN-8": bilinear_attention(8),
    "MFB-co-attention": mfb_co_attention(order=1),
    "MFH-co-attention": mfb_co_attention(order=2),
    "MCAN-36": modular_co_attention(64, 36),
    "MCAN-196": modular_co_attention(16, 196),
}
