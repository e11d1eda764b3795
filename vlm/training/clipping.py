"""Gradient clipping beside a fused optimiser in mixed precision, where Lightning refuses it.

A fused optimiser divides gradients by the gradient scaler's scale inside its step, so they cannot
be clipped before it. In bf16 there is no scaler, and nothing speaks against clipping.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.plugins import MixedPrecision, Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch.optim import Optimizer

from vlm.core.errors import ConfigError


def check_clipping(trainer: Trainer, optimizer: Optimizer) -> None:
    """Check that gradients can be clipped, if they are to be.

    Raises:
        ConfigError: a fused optimiser in fp16.
    """
    fused = any(group.get("fused") for group in optimizer.param_groups)
    scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
    if trainer.gradient_clip_val and fused and scaled:
        raise ConfigError(
            f"trainer.gradient_clip_val: got {trainer.gradient_clip_val} with "
            f"precision={trainer.precision} and model.optimizer.fused=true, whose gradients are "
            f"still scaled when they are clipped; expected model.optimizer.fused=false, or "
            f"trainer.precision=bf16-mixed."
        )


def clip_unscaled(
    trainer: Trainer, optimizer: Optimizer, value: float | None, algorithm: Any
) -> bool:
    """Clip gradients in mixed precision without a scaler; False where Lightning's own way works."""
    plugin = trainer.precision_plugin
    if not value or not isinstance(plugin, MixedPrecision) or plugin.scaler is not None:
        return False
    Precision.clip_gradients(plugin, optimizer, value, GradClipAlgorithmType(algorithm or "norm"))
    return True
