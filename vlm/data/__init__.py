"""Data sets: questions, pictures, samplers and loaders."""

from vlm.data.datamodule import EasyVQA, VQADataModule

__all__ = ["EasyVQA", "VQADataModule"]
