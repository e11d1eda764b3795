"""Which words and which parts of the image an answer rests on, and whether that is true."""

from vlm.explain.agreement import Agreement, agreement
from vlm.explain.contours import overlay
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
from vlm.explain.page import to_html

__all__ = [
    "METHODS",
    "Agreement",
    "Attention",
    "AttentionGradient",
    "Explanation",
    "GradCAM",
    "IntegratedGradients",
    "Method",
    "Occlusion",
    "Rollout",
    "agreement",
    "draw",
    "explain",
    "heat_map",
    "methods_for",
    "overlay",
    "to_html",
]
