"""Merges and fusions, importable with torch and einops alone."""

from vlm.core.features import Features
from vlm.fusion.attention import (
    Attention,
    CrossModalAttention,
    QueryAttention,
    RecordsAttention,
    attend,
    record_attention,
    trace_attention,
)
from vlm.fusion.ban import BAN
from vlm.fusion.base import Fusion, Merge
from vlm.fusion.counting import ObjectCounter
from vlm.fusion.cross_attention import CrossAttention
from vlm.fusion.dfaf import DFAF
from vlm.fusion.film import FiLM
from vlm.fusion.glimpse import GlimpseAttention, StackedAttention
from vlm.fusion.lxmert import LXMERT
from vlm.fusion.mac import MAC
from vlm.fusion.mcan import MCAN, AttentionalReduction
from vlm.fusion.merged_attention import MergedAttention
from vlm.fusion.merges import (
    GMU,
    MCB,
    MFB,
    MFH,
    MLB,
    Block,
    BlockTucker,
    ConcatMLP,
    LateFusion,
    Mutan,
    Product,
    Sum,
    TensorFusion,
    Tucker,
)
from vlm.fusion.mfb_co_attention import MFBCoAttention
from vlm.fusion.modality import DeepSets, ModalityAttention
from vlm.fusion.murel import MuRel
from vlm.fusion.parallel_co_attention import ParallelCoAttention
from vlm.fusion.perceiver import GatedCrossAttention, PerceiverResampler
from vlm.fusion.pixel_shuffle import PixelShuffle
from vlm.fusion.pooled import Pooled
from vlm.fusion.projector import Projector
from vlm.fusion.qformer import QFormer
from vlm.fusion.relation_network import RelationNetwork
from vlm.fusion.resampler import Resampler
from vlm.fusion.single_stream import SingleStream

__all__ = [
    "BAN",
    "DFAF",
    "GMU",
    "LXMERT",
    "MAC",
    "MCAN",
    "MCB",
    "MFB",
    "MFH",
    "MLB",
    "Attention",
    "AttentionalReduction",
    "Block",
    "BlockTucker",
    "ConcatMLP",
    "CrossAttention",
    "CrossModalAttention",
    "DeepSets",
    "Features",
    "FiLM",
    "Fusion",
    "GatedCrossAttention",
    "GlimpseAttention",
    "LateFusion",
    "MFBCoAttention",
    "Merge",
    "MergedAttention",
    "ModalityAttention",
    "MuRel",
    "Mutan",
    "ObjectCounter",
    "ParallelCoAttention",
    "PerceiverResampler",
    "PixelShuffle",
    "Pooled",
    "Product",
    "Projector",
    "QFormer",
    "QueryAttention",
    "RecordsAttention",
    "RelationNetwork",
    "Resampler",
    "SingleStream",
    "StackedAttention",
    "Sum",
    "TensorFusion",
    "Tucker",
    "attend",
    "record_attention",
    "trace_attention",
]
