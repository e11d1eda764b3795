"""Merges and fusions, importable with torch and einops alone."""

from vlm.features import Features
from vlm.fusion.attention import Attention, RecordsAttention, record_attention
from vlm.fusion.base import Fusion, Merge
from vlm.fusion.cross_attention import CrossAttention
from vlm.fusion.merges import ConcatMLP, Product
from vlm.fusion.pooled import Pooled

__all__ = [
    "Attention",
    "ConcatMLP",
    "CrossAttention",
    "Features",
    "Fusion",
    "Merge",
    "Pooled",
    "Product",
    "RecordsAttention",
    "record_attention",
]
