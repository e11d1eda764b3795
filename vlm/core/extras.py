"""Which of vlm's extras brings a package that is not installed."""

from __future__ import annotations

from importlib.util import find_spec

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


def missing_from(extra: str) -> str | None:
    """The sentence about the first package of an extra that is not installed; None if all are."""
    missing = (name for name in EXTRAS[extra].split() if find_spec(name) is None)
    return next((_sentence(name, extra) for name in missing), None)


def missing_extra(error: ModuleNotFoundError, command: str = "") -> str | None:
    """The sentence that names the extra to install, and the extra called as `command` if that is
    incomplete too; None for a module of no extra."""
    name = (error.name or "").partition(".")[0]
    for extra, packages in EXTRAS.items():
        if name in packages.split():
            own = [command] if command in EXTRAS and missing_from(command) else []
            return _sentence(name, *dict.fromkeys((extra, *own)))
    return None


def _sentence(name: str, *extras: str) -> str:
    return f"{name} is not installed; run `pip install 'vlm-vqa[{','.join(extras)}]'`."
