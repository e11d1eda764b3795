"""Trained models of other libraries in the places of our own parts.

So whatever works with a `VQA` works with them: answers, explanations, checkpoints and reports.
"""

from vlm.adapters.hub import convert, load_from_hub

__all__ = ["convert", "load_from_hub"]
