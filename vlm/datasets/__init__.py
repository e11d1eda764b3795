"""Data sets: their questions, vocabularies and metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlm.core.lazy import lazy_names

if TYPE_CHECKING:
    from vlm.datasets.base import Dataset
    from vlm.datasets.clevr import CLEVR
    from vlm.datasets.coco_qa import COCOQA
    from vlm.datasets.custom import CustomDataset
    from vlm.datasets.daquar import DAQUAR
    from vlm.datasets.easy_vqa import EasyVQA
    from vlm.datasets.generated.scenes import Scenes
    from vlm.datasets.generated.shapes import SHAPES
    from vlm.datasets.generated.sort_of_clevr import SortOfCLEVR
    from vlm.datasets.generated.sqoop import SQOOPLite
    from vlm.datasets.gqa import GQA
    from vlm.datasets.gqa_ood import GQAOOD
    from vlm.datasets.mixture import Mixture
    from vlm.datasets.nlvr import NLVR
    from vlm.datasets.nlvr2 import NLVR2
    from vlm.datasets.ok_vqa import AOKVQA, OKVQA
    from vlm.datasets.path_vqa import PathVQA
    from vlm.datasets.slake import SLAKE
    from vlm.datasets.tdiuc import TDIUC
    from vlm.datasets.text_vqa import TextVQA
    from vlm.datasets.visual7w import Visual7W
    from vlm.datasets.visual_genome import VisualGenome
    from vlm.datasets.vizwiz import VizWiz
    from vlm.datasets.vqa import VQACP, VQAv1, VQAv2
    from vlm.datasets.vqa_rad import VQARAD

__all__ = [
    "AOKVQA",
    "CLEVR",
    "COCOQA",
    "DAQUAR",
    "GQA",
    "GQAOOD",
    "NLVR",
    "NLVR2",
    "OKVQA",
    "SHAPES",
    "SLAKE",
    "TDIUC",
    "VQACP",
    "VQARAD",
    "CustomDataset",
    "Dataset",
    "EasyVQA",
    "Mixture",
    "PathVQA",
    "SQOOPLite",
    "Scenes",
    "SortOfCLEVR",
    "TextVQA",
    "VQAv1",
    "VQAv2",
    "Visual7W",
    "VisualGenome",
    "VizWiz",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "AOKVQA": "ok_vqa",
        "CLEVR": "clevr",
        "COCOQA": "coco_qa",
        "DAQUAR": "daquar",
        "GQA": "gqa",
        "GQAOOD": "gqa_ood",
        "NLVR": "nlvr",
        "NLVR2": "nlvr2",
        "OKVQA": "ok_vqa",
        "SLAKE": "slake",
        "TDIUC": "tdiuc",
        "VQACP": "vqa",
        "VQARAD": "vqa_rad",
        "CustomDataset": "custom",
        "Dataset": "base",
        "EasyVQA": "easy_vqa",
        "Mixture": "mixture",
        "PathVQA": "path_vqa",
        "SHAPES": "generated.shapes",
        "SQOOPLite": "generated.sqoop",
        "Scenes": "generated.scenes",
        "SortOfCLEVR": "generated.sort_of_clevr",
        "TextVQA": "text_vqa",
        "VQAv1": "vqa",
        "VQAv2": "vqa",
        "Visual7W": "visual7w",
        "VisualGenome": "visual_genome",
        "VizWiz": "vizwiz",
    },
)
