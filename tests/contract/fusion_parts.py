"""Merges and fusions to check: one for each configuration in which a class can work."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

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
    Merge,
    MergedAttention,
    MFBCoAttention,
    ModalityAttention,
    MuRel,
    Mutan,
    ObjectCounter,
    ParallelCoAttention,
    PixelShuffle,
    Pooled,
    Product,
    Projector,
    QFormer,
    RelationNetwork,
    Resampler,
    SingleStream,
    StackedAttention,
    Sum,
    TensorFusion,
    Tucker,
)

# Sizes are different primes, so that a mix-up always shows. One line per configuration in which
# a class can work; a new public class needs at least one.
MERGES: dict[type, list[Callable[[], Merge]]] = {
    Product: [
        lambda: Product(13, 11, out_dim=17),
        lambda: Product(13, 11, out_dim=17, activation="tanh", dropout=0.3),
    ],
    ConcatMLP: [
        lambda: ConcatMLP(13, 11, out_dim=17, hidden_dims=(19, 23)),
        lambda: ConcatMLP(13, 11, out_dim=17, hidden_dims=(), dropout=0.3),
        lambda: ConcatMLP(13, 11, out_dim=17, hidden_dims=(19,), activation="gelu", dropout=0.3),
    ],
    GMU: [lambda: GMU(13, 11, out_dim=17)],
    LateFusion: [lambda: LateFusion(13, 11, out_dim=17, hidden_dims=(19, 23), dropout=0.3)],
    TensorFusion: [
        lambda: TensorFusion(13, 11, out_dim=17, hidden_dim=7),
        lambda: TensorFusion(13, 11, 17, 7, hidden_dims=()),
        lambda: TensorFusion(13, 11, 17, 7, hidden_dims=(19, 23), dropout=0.3),
    ],
    Sum: [
        lambda: Sum(13, 11, out_dim=17, hidden_dim=19),
        lambda: Sum(13, 11, 17, 19, "tanh", "relu", normalize=True, dropout=0.3),
    ],
    MLB: [
        lambda: MLB(13, 11, out_dim=17, hidden_dim=19),
        lambda: MLB(13, 11, 17, 19, "relu", "gelu", normalize=True, dropout=0.3),
    ],
    MFB: [
        lambda: MFB(13, 11, out_dim=17, hidden_dim=7, factor=3),
        lambda: MFB(13, 11, 17, 7, 3, "tanh", "relu", normalize=False, dropout=0.3),
    ],
    MFH: [
        lambda: MFH(13, 11, out_dim=17, hidden_dim=7, factor=3),
        lambda: MFH(13, 11, 17, 7, 3, 3, "tanh", "relu", normalize=False, dropout=0.3),
    ],
    MCB: [
        lambda: MCB(13, 11, out_dim=17, sketch_dim=23),
        lambda: MCB(13, 11, 17, 22, "relu", normalize=False, dropout=0.3),
    ],
    Tucker: [
        lambda: Tucker(13, 11, out_dim=17, hidden_dim=7),
        lambda: Tucker(13, 11, out_dim=17, hidden_dim=7, normalize=True, dropout=0.3),
    ],
    Mutan: [
        lambda: Mutan(13, 11, out_dim=17, hidden_dim=7, rank=3),
        lambda: Mutan(13, 13, 17, 7, rank=3, shared=True, normalize=True, dropout=0.3),
    ],
    BlockTucker: [
        lambda: BlockTucker(13, 11, out_dim=17, hidden_dim=19, chunks=4),
        lambda: BlockTucker(13, 11, 17, 19, 7, normalize="after_cat", dropout=0.3),
    ],
    Block: [
        lambda: Block(13, 11, out_dim=17, hidden_dim=19, chunks=4, rank=3),
        lambda: Block(13, 13, 17, 18, 6, 3, shared=True, normalize="after_cat", dropout=0.3),
    ],
}


FUSIONS: dict[type, list[Callable[[], Fusion]]] = {
    Pooled: [
        lambda: Pooled(13, 11, partial(Product, out_dim=17)),
        lambda: Pooled(13, 11, partial(ConcatMLP, out_dim=17, hidden_dims=(19,))),
    ],
    MuRel: [
        # A sum at the end, since gradcheck multiplies the steepness of Block's square roots near 0
        # by what follows.
        lambda: MuRel(
            13, 11, 7, 2, partial(Block, hidden_dim=17, chunks=4, rank=3), last_merge=Sum
        ),
        lambda: MuRel(
            7, 11, 7, 1, partial(MLB, hidden_dim=17), partial(MLB, hidden_dim=19), "mean"
        ),
    ],
    ModalityAttention: [lambda: ModalityAttention(13, 11, out_dim=17)],
    DeepSets: [
        lambda: DeepSets(13, 11, out_dim=17, element_dim=7, hidden_dims=(19, 23)),
        lambda: DeepSets(13, 11, 17, 7, hidden_dims=(), pooling="mean", attention_dim=5),
        lambda: DeepSets(13, 11, 17, 7, (19,), pooling="sum", attention_dim=5, dropout=0.3),
    ],
    GlimpseAttention: [
        lambda: GlimpseAttention(
            13, 11, partial(Block, hidden_dim=19, chunks=4, rank=3), partial(MLB, out_dim=17)
        ),
        lambda: GlimpseAttention(
            13, 11, partial(Mutan, out_dim=7, hidden_dim=5), partial(Sum, out_dim=17), 3, mlp_dim=23
        ),
        lambda: GlimpseAttention(13, 11, merge=partial(Sum, out_dim=17), counter=ObjectCounter(7)),
    ],
    StackedAttention: [
        lambda: StackedAttention(13, 11, out_dim=17),
        lambda: StackedAttention(13, 11, 17, hops=3, score=partial(MFB, hidden_dim=7)),
    ],
    CrossAttention: [
        lambda: CrossAttention(13, 11, out_dim=6, num_layers=2, num_heads=3, feedforward_dim=17),
        lambda: CrossAttention(13, 11, out_dim=10, num_heads=2, feedforward_dim=17, dropout=0.3),
    ],
    MCAN: [
        lambda: MCAN(13, 11, out_dim=17, dim=6, num_layers=2, num_heads=3),
        lambda: MCAN(13, 11, out_dim=7, dim=10, num_layers=2, num_heads=2, cascade="stacking"),
    ],
    LXMERT: [
        lambda: LXMERT(13, 11, out_dim=6, num_layers=2, num_heads=3, feedforward_dim=17),
        lambda: LXMERT(13, 11, out_dim=10, num_layers=1, num_heads=2, feedforward_dim=19),
    ],
    MergedAttention: [
        lambda: MergedAttention(13, 11, out_dim=6, num_layers=2, num_heads=3, feedforward_dim=17),
    ],
    SingleStream: [
        lambda: SingleStream(13, 11, out_dim=6, num_layers=2, num_heads=3, feedforward_dim=17),
    ],
    BAN: [
        lambda: BAN(13, 11, out_dim=17, glimpses=2, rank_factor=3),
        lambda: BAN(13, 11, out_dim=7, glimpses=1, rank_factor=1, dropout=0.3),
        lambda: BAN(13, 11, out_dim=17, glimpses=2, counter=ObjectCounter(objects=13, pieces=5)),
    ],
    ParallelCoAttention: [
        lambda: ParallelCoAttention(13, 11, out_dim=17, hidden_dim=19),
        lambda: ParallelCoAttention(13, 11, out_dim=17, hidden_dim=19, dropout=0.3),
    ],
    MFBCoAttention: [
        lambda: MFBCoAttention(13, 11, out_dim=17, hidden_dim=7, factor=3, glimpses=2),
        lambda: MFBCoAttention(
            13, 11, out_dim=17, hidden_dim=7, factor=3, order=2, glimpses=1, dropout=0.3
        ),
    ],
    DFAF: [
        lambda: DFAF(13, 11, out_dim=6, num_layers=2, num_heads=3),
        lambda: DFAF(13, 11, out_dim=10, num_layers=1, num_heads=2, dropout=0.3),
    ],
    QFormer: [
        lambda: QFormer(13, 11, out_dim=6, queries=5, num_layers=3, num_heads=3),
        lambda: QFormer(13, 11, out_dim=10, queries=3, num_heads=2, cross_every=1, dropout=0.3),
    ],
    GatedCrossAttention: [
        lambda: GatedCrossAttention(13, 11, out_dim=6, latents=5, resampler_layers=2, num_heads=3),
        lambda: GatedCrossAttention(
            13, 11, out_dim=10, latents=3, num_layers=1, num_heads=2, dropout=0.3
        ),
    ],
    Projector: [
        lambda: Projector(13, 11, out_dim=17),
        lambda: Projector(13, 11, out_dim=17, num_layers=1),
        lambda: Projector(13, 11, out_dim=17, bias=False),
    ],
    PixelShuffle: [
        lambda: PixelShuffle(13, 11, out_dim=17, columns=5),
        lambda: PixelShuffle(13, 11, out_dim=17, factor=3, columns=6),
    ],
    Resampler: [
        lambda: Resampler(13, 11, out_dim=6, latents=5, num_layers=1, num_heads=3),
        lambda: Resampler(13, 11, out_dim=10, latents=3, num_heads=2, dropout=0.3),
    ],
    FiLM: [lambda: FiLM(13, 11, out_dim=17, num_layers=3)],
    RelationNetwork: [
        lambda: RelationNetwork(13, 11, out_dim=17, pair_dims=(19, 23), hidden_dims=(7,)),
        lambda: RelationNetwork(13, 11, 17, pair_dims=(19,), hidden_dims=(), dropout=0.3),
    ],
    MAC: [
        lambda: MAC(13, 11, out_dim=17, steps=3),
        lambda: MAC(13, 11, out_dim=7, steps=1, dropout=0.3),
    ],
}
