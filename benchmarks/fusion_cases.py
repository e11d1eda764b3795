"""What benchmarks/fusion.py compares: our fusions and their references at the sizes used for VQA.

Widths are equal, so that both sides have the same parameters and compute the same function, but
for the names and layout of the weights and for quirks that cost nothing (MCAN's unbiased
deviation, openvqa's joint norm, biases that cancel in a softmax). Of fusions from later papers the
sizes are those of one layer at width 512.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from references import attention, ban, mcan, merges, networks, transformers
from torch import nn

from vlm.fusion import (
    BAN,
    DFAF,
    GMU,
    LXMERT,
    MAC,
    MCAN,
    MCB,
    MFB,
    MFH,
    MLB,
    Block,
    BlockTucker,
    ConcatMLP,
    CrossAttention,
    DeepSets,
    FiLM,
    Fusion,
    GatedCrossAttention,
    GlimpseAttention,
    LateFusion,
    MergedAttention,
    MFBCoAttention,
    ModalityAttention,
    MuRel,
    Mutan,
    ParallelCoAttention,
    Pooled,
    Product,
    Projector,
    QFormer,
    RelationNetwork,
    SingleStream,
    StackedAttention,
    Sum,
    TensorFusion,
    Tucker,
)
from vlm.fusion.base import MergeFactory

IMAGE, QUESTION, ANSWER = 2048, 4800, 3000  # regions of a ResNet, skip-thoughts, answers of VQA
TEXT, DIM, HEADS, HIDDEN = 768, 512, 8, 2048
BLOCK = {"type": "block", "mm_dim": 128, "chunks": 8, "rank": 5, "output_dim": 256}


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        ours: makes our module, called with (image, question).
        theirs: makes the reference, called with (question, image).
        image, question: shapes of the inputs.
        masks: the reference takes the masks of question and image too.
    """

    ours: Callable[[], nn.Module]
    theirs: Callable[[], nn.Module]
    image: tuple[int, ...]
    question: tuple[int, ...]
    masks: bool = False

    def at(self, tokens: int) -> Case:
        """The case with `tokens` for each image, and fewer images in turn; merges do not change."""
        if len(self.image) == 2:
            return self
        images, number, dim = self.image
        images = max(1, round(images * number / tokens))
        return replace(self, image=(images, tokens, dim), question=(images, *self.question[1:]))


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
        (16, 36, IMAGE),
        (16, QUESTION),
    )


def bilinear_attention(count: int) -> Case:
    return Case(
        # Words come at the network's own width, which the reference does not project.
        lambda: without(BAN(IMAGE, 1280, 1280, count), "text_projection"),
        lambda: ban.BAN(IMAGE, 1280, 1280, count),
        (16, 36, IMAGE),
        (16, 14, 1280),
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
        (16, 36, IMAGE),
        (16, 14, 1024),
    )


def modular_co_attention() -> Case:
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
        (16, 36, IMAGE),
        (16, 14, 512),
    )


def vectors(ours: Callable[..., nn.Module], theirs: Callable[..., nn.Module], *sizes: int) -> Case:
    """Both take the widths of image and question, then `sizes`."""
    made = [partial(make, IMAGE, TEXT, *sizes) for make in (ours, theirs)]
    return Case(made[0], made[1], (256, IMAGE), (256, TEXT))


def tokens(
    ours: Callable[..., Fusion],
    theirs: Callable[..., nn.Module],
    *sizes: int,
    question: tuple[int, ...] = (14, TEXT),
) -> Case:
    """The same for a fusion of 36 image tokens and of words, or of one vector for the question."""
    made = [partial(make, IMAGE, TEXT, *sizes) for make in (ours, theirs)]
    return Case(made[0], made[1], (16, 36, IMAGE), (16, *question), masks=True)


def relations() -> Case:
    merge = partial(Block, hidden_dim=128, chunks=8, rank=5)
    return Case(
        lambda: MuRel(256, TEXT, 256, 2, merge, merge),
        lambda: networks.MuRel(256, TEXT, 2, BLOCK),
        (4, 36, 256),
        (4, TEXT),
        masks=True,
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
    "MCAN": modular_co_attention(),
    "GMU": vectors(GMU, networks.GMU, DIM),
    "Product": vectors(Product, networks.Product, DIM),
    "Pooled": vectors(
        lambda image, text, dim: Pooled(image, text, partial(Product, out_dim=dim)),
        networks.Product,
        DIM,
    ),
    "LateFusion": vectors(LateFusion, networks.LateFusion, DIM),
    "TensorFusion": vectors(
        lambda image, text, dim, width, hidden: TensorFusion(image, text, dim, width, (hidden,)),
        networks.TensorFusion,
        DIM,
        32,
        128,
    ),
    "ModalityAttention": vectors(ModalityAttention, networks.ModalityAttention, DIM),
    "DeepSets": vectors(
        lambda image, text, dim, hidden: DeepSets(image, text, dim, dim, (hidden,)),
        networks.DeepSets,
        DIM,
        DIM,
    ),
    "CrossAttention": tokens(CrossAttention, transformers.CrossAttention, DIM, 1, HEADS, HIDDEN),
    "LXMERT": tokens(LXMERT, transformers.LXMERT, DIM, 1, HEADS, HIDDEN),
    "MergedAttention": tokens(MergedAttention, transformers.MergedAttention, DIM, 1, HEADS, HIDDEN),
    "SingleStream": tokens(SingleStream, transformers.SingleStream, DIM, 1, HEADS, HIDDEN),
    "QFormer": tokens(QFormer, transformers.QFormer, DIM, 16, 2, HEADS),
    "GatedCrossAttention": tokens(
        lambda image, text, dim, latents, layers, heads: GatedCrossAttention(
            image, text, dim, latents, 1, layers, heads
        ),
        transformers.Flamingo,
        DIM,
        16,
        1,
        HEADS,
    ),
    "Projector": tokens(Projector, networks.Projector, DIM),
    "FiLM": tokens(FiLM, networks.FiLM, DIM, 2, question=(TEXT,)),
    "RelationNetwork": tokens(
        lambda image, text, dim, hidden: RelationNetwork(
            image, text, dim, (hidden,) * 4, (hidden,)
        ),
        networks.RelationNetwork,
        DIM,
        256,
        question=(TEXT,),
    ),
    "MAC": tokens(MAC, networks.MAC, DIM, 4),
    "MuRel": relations(),
    "DFAF": tokens(
        lambda image, text, dim, heads: DFAF(image, text, dim, 1, heads),
        networks.DFAF,
        DIM,
        HEADS,
    ),
    "ParallelCoAttention": tokens(ParallelCoAttention, networks.ParallelCoAttention, DIM, DIM),
    "StackedAttention": tokens(
        StackedAttention,
        lambda image, text, dim, hops: networks.StackedAttention(image, text, dim, hops, 256),
        DIM,
        2,
        question=(TEXT,),
    ),
}
