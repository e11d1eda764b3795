"""Merges: two vectors in, one out."""

from vlm.fusion.merges.block import Block, BlockTucker
from vlm.fusion.merges.compact import MCB
from vlm.fusion.merges.gated import GMU
from vlm.fusion.merges.low_rank import MFB, MFH, MLB
from vlm.fusion.merges.simple import ConcatMLP, LateFusion, Product, Sum
from vlm.fusion.merges.tensor import TensorFusion
from vlm.fusion.merges.tucker import Mutan, Tucker

__all__ = [
    "GMU",
    "MCB",
    "MFB",
    "MFH",
    "MLB",
    "Block",
    "BlockTucker",
    "ConcatMLP",
    "LateFusion",
    "Mutan",
    "Product",
    "Sum",
    "TensorFusion",
    "Tucker",
]
