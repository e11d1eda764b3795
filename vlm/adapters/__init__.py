"""Trained models of other libraries: ViLT, BLIP, LLaVA and SmolVLM as parts of vlm, so that
whatever works with a `VQA` works with them, and image-text-to-text models of transformers as they
are.
"""

from vlm.adapters.hub import convert, convert_back
from vlm.adapters.image_text_to_text import ImageTextToText
from vlm.adapters.language_models import VisionTower

__all__ = ["ImageTextToText", "VisionTower", "convert", "convert_back"]
