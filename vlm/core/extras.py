"""Which of vlm's extras brings a package that is not installed."""

from __future__ import annotations

EXTRAS = {
    "train": """
        easy_vqa filelock fsspec jsonargparse lightning lightning_utilities matplotlib pyarrow
        pytorch_lightning rich scipy tensorboard torchmetrics yaml
    """,
    "encoders": "huggingface_hub open_clip timm tokenizers torchvision transformers",
    "export": "onnx onnxruntime onnxscript",
    "demo": "gradio jinja2 skimage uvicorn starlette",
    "serve": "fastapi prometheus_client python_multipart uvicorn",
    "explain": "captum",
    "lora": "peft",
    "tune": "optuna",
    "datasets": "datasets",
}
"""The packages of each extra, as they are imported."""


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """The sentence that names the extra and its command; None for a module of no extra."""
    name = (error.name or "").partition(".")[0]
    for extra, packages in EXTRAS.items():
        if name in packages.split():
            return f"{name} is not installed; run `pip install 'vlm-vqa[{extra}]'`."
    return None
