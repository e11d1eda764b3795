"""Which words and which parts of the image an answer rests on, and whether that is true."""

from vlm.explain.drawing import draw, heat_map
from vlm.explain.explainer import explain, methods_for
from vlm.explain.explanation import Explanation
from vlm.explain.methods import (
    METHODS,
    Attention,
    AttentionGradient,
    GradCAM,
    IntegratedGradients,
    Method,
    Occlusion,
    Rollout,
)

__all__ = [
    "METHODS",
    "Attention",
    "AttentionGradient",
    "Explanation",
    "GradCAM",
    "IntegratedGradients",
    "Method",
    "Occlusion",
    "Rollout",
    "draw",
    "explain",
    "heat_map",
    "methods_for",
]
