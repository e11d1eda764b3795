"""Ways to find what an answer rests on, under one protocol."""

from vlm.explain.methods.attention import Attention, AttentionGradient, Rollout
from vlm.explain.methods.base import Method, Relevance
from vlm.explain.methods.gradients import GradCAM, IntegratedGradients
from vlm.explain.methods.occlusion import Occlusion

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        Occlusion,
        IntegratedGradients,
        GradCAM,
        Attention,
        Rollout,
        AttentionGradient,
    )
}
"""By name; each can be made without arguments."""

__all__ = [
    "METHODS",
    "Attention",
    "AttentionGradient",
    "GradCAM",
    "IntegratedGradients",
    "Method",
    "Occlusion",
    "Relevance",
    "Rollout",
]
