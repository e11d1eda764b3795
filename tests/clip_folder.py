"""A tiny CLIP in open_clip's own folder layout, for the tests of both towers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

VIT = {"image_size": 24, "patch_size": 8, "width": 14, "head_width": 7, "layers": 3}
RESNET = {"image_size": 64, "width": 8, "head_width": 8, "layers": [1, 1, 1, 1]}
TIMM = {
    "image_size": 64,
    "timm_model_name": "resnet10t",
    "timm_pool": "avg",
    "timm_proj": "linear",
}
TEXT = {"context_length": 11, "vocab_size": 49408, "width": 22, "heads": 2, "layers": 2}
PREPROCESS = {
    "mean": [0.3, 0.5, 0.7],
    "std": [0.2, 0.3, 0.5],
    "interpolation": "bilinear",
    "resize_mode": "longest",
}


def save_clip(
    folder: Path, vision: dict[str, Any] = VIT, text: dict[str, Any] = TEXT, **parts: Any
) -> tuple[str, Any]:
    """Save a tiny CLIP; returns the folder's path and the model as open_clip loads it."""
    folder.mkdir(exist_ok=True)
    config = {"embed_dim": 13, "vision_cfg": vision, "text_cfg": text} | parts
    stored = {"model_cfg": config, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(stored))
    name = f"local-dir:{folder}"
    model = open_clip.create_model(name, load_weights=False)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))  # zeros would hide errors
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return str(folder), open_clip.create_model(name).eval()
