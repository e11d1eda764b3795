"""Training with Lightning: the task, how its parts are tuned, its schedules and its reports."""

from vlm.core.lora import LoRA
from vlm.training.distillation import Distillation
from vlm.training.finetuning.plan import PartTuning, Tuning
from vlm.training.schedule import WarmupCosine, WarmupLinear, WarmupSteps
from vlm.training.task import VQATask

__all__ = [
    "Distillation",
    "LoRA",
    "PartTuning",
    "Tuning",
    "VQATask",
    "WarmupCosine",
    "WarmupLinear",
    "WarmupSteps",
]
