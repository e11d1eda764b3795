"""From a data set to batches: images, samplers and loaders."""

from vlm.data.datamodule import VQADataModule

__all__ = ["VQADataModule"]
