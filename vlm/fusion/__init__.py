"""Merges and fusions, importable with torch and einops alone."""

from vlm.features import Features
from vlm.fusion.attention import (
    Attention,
    CrossModalAttention,
    RecordsAttention,
    attend,
    record_attention,
)
from vlm.fusion.base import Fusion, Merge
from vlm.fusion.cross_attention import CrossAttention
from vlm.fusion.merges import ConcatMLP, Product
from vlm.fusion.pooled import Pooled

__all__ = [
    "Attention",
    "ConcatMLP",
    "CrossAttention",
    "CrossModalAttention",
    "Features",
    "Fusion",
    "Merge",
    "Pooled",
    "Product",
    "RecordsAttention",
    "attend",
    "record_attention",
]
