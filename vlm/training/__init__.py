"""Training with Lightning: the task, its schedule and its reports."""

from vlm.training.schedule import WarmupCosine
from vlm.training.task import VQATask

__all__ = ["VQATask", "WarmupCosine"]
