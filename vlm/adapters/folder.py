"""Read an image-text-to-text model from its folder, as any stranger's: no code, no pickles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlm.adapters.image_text_to_text import ImageTextToText
from vlm.checkpoint.file import check_weights
from vlm.checkpoint.sharing import CONFIG, WEIGHTS, file_inside, read_json
from vlm.core.rust_panic import is_panic
from vlm.pretrained.availability import hub_access, nothing_fetched
from vlm.pretrained.bounded_build import Sparing

INDEX = f"{WEIGHTS}.index.json"
PATTERNS = ("*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt", "model*.safetensors")
"""The files of a model on the hub that are fetched, of its first level."""


def is_image_text_to_text(config: dict[str, Any]) -> bool:
    """Whether transformers itself has the class of a `config.json`."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as NAMES,
    )

    return str(config.get("model_type")) in NAMES


def read_image_text_to_text(
    folder: Path, name: str, device: str | torch.device = "cpu", prompt: str | None = None
) -> ImageTextToText:
    """The model of a folder, in float32 on a CPU and as it is stored elsewhere.

    Args:
        folder: with `config.json`, the processor's files, the tokenizer, and weights in
            .safetensors files, of which `model.safetensors.index.json` lists several.
        name: of the model, for errors.
        device: where it runs.
        prompt: as for `ImageTextToText`.

    Raises:
        OSError: a file is not there.
        ValueError: weights that are pickles, damaged or of another model, or what transformers
            cannot build from these files alone.
    """
    with hub_access(str(folder)):
        config = read_json(file_inside(folder, CONFIG))
        _check_attention(config, name)
        weights = _weights(folder, name)
    try:
        with nothing_fetched(), Sparing(weights):
            model, processor = _build(folder, weights, device)
        return ImageTextToText(
            model.to(device), processor, prompt, about={"run": name, "data": name}
        )
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        own = f" {_OWN_CODE}" if "trust_remote_code" in str(error) or "auto_map" in config else ""
        raise ValueError(f"{name}: cannot build this model ({error!s:.500}).{own}") from error


def own_code(config: dict[str, Any]) -> str:
    """The sentence about a model that comes with code; empty for others."""
    return _OWN_CODE if "auto_map" in config else ""


_OWN_CODE = (
    "It wants to run Python files of its own, which vlm never does; use a release in transformers' "
    "own format, whose name often ends in -hf."
)


def _check_attention(value: Any, name: str) -> None:
    """Refuse a configuration that names compiled code of the hub for its attention."""
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        if key.endswith("attn_implementation") and "/" in str(inner):
            raise ValueError(f"{name}: {key}: got {inner!r:.80}, code of the hub; remove it.")
        _check_attention(inner, name)


def _weights(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of all weight files, mapped and checked."""
    from safetensors.torch import load_file

    files = [WEIGHTS]
    if not file_inside(folder, WEIGHTS).is_file() and file_inside(folder, INDEX).is_file():
        listed = read_json(folder / INDEX).get("weight_map")
        if not isinstance(listed, dict) or not listed:
            raise ValueError(f"{name}: {INDEX}: weight_map: got {listed!r:.80}; expected files.")
        files = sorted(set(map(str, listed.values())))
    weights: dict[str, Tensor] = {}
    for file in files:
        path = file_inside(folder, file)
        if not path.is_file():
            pickles = [found.name for found in sorted(folder.glob("*.bin"))]
            more = f" {pickles[0]} is a pickle, which can run code and is not read." * bool(pickles)
            raise ValueError(f"{name}: there is no {file}; expected safetensors.{more}")
        try:
            found = load_file(path)
        except Exception as error:  # a false header can raise anything
            raise ValueError(f"{path}: not a safetensors file ({error!r:.300}).") from error
        check_weights(found, path.stat().st_size, path)
        weights |= found
    return weights


def _build(folder: Path, weights: dict[str, Tensor], device: str | torch.device) -> tuple[Any, Any]:
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING as CLASSES
    from transformers import AutoConfig, AutoProcessor, GenerationConfig

    own = {"trust_remote_code": False, "local_files_only": True}
    config = AutoConfig.from_pretrained(folder, **own)
    kind: Any = CLASSES[type(config)]
    stored: Any = torch.float32 if torch.device(device).type == "cpu" else "auto"
    model, found = kind.from_pretrained(
        None, config=config, state_dict=weights, dtype=stored, output_loading_info=True
    )
    wrong = [*found["missing_keys"], *(str(key) for key in found["mismatched_keys"])]
    if wrong:
        raise ValueError(f"its weights do not fit its config.json: {', '.join(wrong[:3])}")
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model, AutoProcessor.from_pretrained(folder, **own)
