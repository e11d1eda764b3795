"""Data sets: questions, pictures, samplers and loaders."""

from vlm.data.datamodule import VQADataModule
from vlm.data.easy_vqa import EasyVQA
from vlm.data.own import OwnData
from vlm.data.sets.clevr import CLEVR
from vlm.data.sets.coco_qa import COCOQA
from vlm.data.sets.daquar import DAQUAR
from vlm.data.sets.gqa import GQA
from vlm.data.sets.gqa_ood import GQAOOD
from vlm.data.sets.nlvr import NLVR
from vlm.data.sets.ok_vqa import AOKVQA, OKVQA
from vlm.data.sets.path_vqa import PathVQA
from vlm.data.sets.slake import SLAKE
from vlm.data.sets.tdiuc import TDIUC
from vlm.data.sets.text_vqa import TextVQA
from vlm.data.sets.visual7w import Visual7W
from vlm.data.sets.vizwiz import VizWiz
from vlm.data.sets.vqa import VQACP, VQAv1, VQAv2
from vlm.data.sets.vqa_rad import VQARAD

__all__ = [
    "AOKVQA",
    "CLEVR",
    "COCOQA",
    "DAQUAR",
    "GQA",
    "GQAOOD",
    "NLVR",
    "OKVQA",
    "SLAKE",
    "TDIUC",
    "VQACP",
    "VQARAD",
    "EasyVQA",
    "OwnData",
    "PathVQA",
    "TextVQA",
    "VQADataModule",
    "VQAv1",
    "VQAv2",
    "Visual7W",
    "VizWiz",
]
