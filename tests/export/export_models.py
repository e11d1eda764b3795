"""Small models to export, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import vlm
from vlm.heads import AnswerHead, Classification
from vlm.image import ConvNet, ImageEncoder
from vlm.text import BagOfWords, TextEncoder

WORDS = ["what", "color", "is", "it", "red", "not", "image", "the"]
QUESTIONS = [
    "what color is it?",
    "is it red",
    "???",
    "wherefore is IT",
    "not\u200b the image isn't",
]


def make_vqa(
    fusion: Callable[[int, int], Any] = vlm.fusion.Pooled,
    head: Callable[..., AnswerHead] = Classification,
    image: ImageEncoder | None = None,
    text: TextEncoder | None = None,
) -> vlm.VQA:
    torch.manual_seed(3)
    image = image or ConvNet(image_size=16, widths=(5, 7))
    text = text or BagOfWords(WORDS, dim=11)
    joint = fusion(image.dim, text.dim)
    known = {"text_dim": text.dim, "answers": ["yes", "no", "red", "blue"]}
    taken = {k: v for k, v in known.items() if k in getattr(head, "takes", ("answers",))}
    model = vlm.VQAModel(image, text, joint, head(joint.out_dim, **taken)).eval()
    for parameter in model.parameters():  # what starts as zeros, such as positions, counts too
        torch.nn.init.normal_(parameter, std=0.1)
    return vlm.VQA(model)
