"""Trained models of other libraries as parts of vlm.

Whatever works with a `VQA` works with them: answers, explanations, checkpoints and reports.
"""

from vlm.adapters.hub import convert

__all__ = ["convert"]
