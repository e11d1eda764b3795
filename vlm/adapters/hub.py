"""Load a ViLT or BLIP model for VQA, from the hub, its cache, or a folder."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vlm.checkpoint.checkpoint import KEY, PREFIX, describe
from vlm.checkpoint.file import check_weights, write_checkpoint
from vlm.checkpoint.sharing import file_inside, read_json
from vlm.core.rust_panic import is_panic
from vlm.core.safe_config import stored_options
from vlm.inference import VQA
from vlm.model import VQAModel
from vlm.pretrained.availability import hub_access, nothing_fetched
from vlm.pretrained.bounded_build import Sparing
from vlm.pretrained.pruning import stored_config
from vlm.pretrained.tokenizer_growth import read_tokenizer
from vlm.pretrained.weights import read_weights
from vlm.text.subword import SubwordTokenizer


def load_from_hub(name: str, device: str | torch.device = "cpu") -> VQA:
    """A trained model that answers, ranks and is explained like our own.

    vlm itself reads four files of the repository or folder: `config.json`,
    `preprocessor_config.json`, `tokenizer.json` and the weights; nothing that they name.

    Args:
        name: name of a ViLT or BLIP model for VQA, such as `dandelin/vilt-b32-finetuned-vqa` or
            `Salesforce/blip-vqa-base`, or a folder with such a model.
        device: where to run.

    Raises:
        OSError: the model is unavailable; says where it was looked for and what to do.
        ValueError: a model of another kind, or one whose files are damaged.
    """
    with hub_access(name):
        config = read_json(_file(name, "config.json"))
        kind = str((config.get("architectures") or ["an unknown kind"])[0])
        if kind not in LOADERS:
            raise ValueError(
                f"{name}: the model is {kind:.80}; expected one of {', '.join(LOADERS)}, such as "
                f"dandelin/vilt-b32-finetuned-vqa or Salesforce/blip-vqa-base."
            )
        files = Files(*(_file(name, *names) for names in FILES))
    weights = read_weights(str(files.weights))
    check_weights(weights, files.weights.stat().st_size, files.weights)
    try:
        with nothing_fetched(), Sparing(weights):
            model = LOADERS[kind](files, config, weights)
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise ValueError(f"{name}: cannot build this model ({error!r:.500}).") from error
    return VQA(model.to(device), {"run": name, "data": name})


def convert(name: str, path: str | Path) -> None:
    """Convert a ViLT or BLIP model to a checkpoint for `vlm test`, `vlm ask` and `vlm explain`.

    Args:
        name: as for `load_from_hub`.
        path: the `.ckpt` file to write.
    """
    vqa = load_from_hub(name)
    weights = {PREFIX + key: value for key, value in vqa.model.state_dict().items()}
    content = {KEY: describe(vqa.model, vqa.about), "state_dict": weights, "global_step": 0}
    write_checkpoint(content, Path(path))


class Files(NamedTuple):
    """Paths of a model's files."""

    images: Path
    tokenizer: Path
    weights: Path


FILES = (
    ("preprocessor_config.json",),
    ("tokenizer.json",),
    ("model.safetensors", "pytorch_model.bin"),
)


def _file(name: str, *files: str) -> Path:
    """The first of these files that exists."""
    if Path(name).is_dir():
        found = [path for file in files if (path := file_inside(Path(name), file)).is_file()]
        if not found:
            raise FileNotFoundError(f"there is no {' or '.join(files)}")
        return found[0]
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    for file in files[:-1]:
        with suppress(EntryNotFoundError):
            return Path(hf_hub_download(name, file))
    return Path(hf_hub_download(name, files[-1]))


def _pieces(path: Path, max_length: int) -> SubwordTokenizer:
    backend = read_tokenizer(path.read_text(encoding="utf-8"), str(path))
    backend.no_truncation()
    backend.enable_padding(pad_id=backend.token_to_id("[PAD]") or 0, pad_token="[PAD]")
    return SubwordTokenizer(json=backend.to_str(), max_length=max_length)


def _vilt(files: Files, stored: dict[str, Any], weights: dict[str, Tensor]) -> VQAModel:
    from transformers import ViltConfig, ViltForQuestionAnswering

    from vlm.adapters.vilt import ViltAnswers, ViltFusion, ViltPatches, ViltWords

    made: Any = ViltConfig(**stored_options(stored), id2label=dict(stored["id2label"]))
    images, config, answers = read_json(files.images), stored_config(made), made.id2label
    shorter = images["size"]
    if isinstance(shorter, dict):  # else as older versions wrote it
        shorter = shorter["shortest_edge"]
    model = VQAModel(
        ViltPatches(config, shorter, images["image_mean"], images["image_std"]),
        ViltWords(config, _pieces(files.tokenizer, config["max_position_embeddings"])),
        ViltFusion(config["hidden_size"], config["hidden_size"], config),
        ViltAnswers(config["hidden_size"], [answers[i] for i in range(len(answers))]),
    )
    state = _renamed(ViltForQuestionAnswering, made, weights)
    positions = state.pop("vilt.embeddings.position_embeddings")
    state["vilt.embeddings.cls_token"] = state["vilt.embeddings.cls_token"] + positions[:, :1]
    state["vilt.embeddings.positions"] = positions[:, 1:]
    return _filled(
        model,
        state,
        {
            "vilt.embeddings.text_embeddings.": "text_encoder.text_embeddings.",
            "vilt.embeddings.patch_embeddings.": "image_encoder.patch_embeddings.",
            "vilt.embeddings.positions": "image_encoder.trained_positions",
            "vilt.embeddings.cls_token": "fusion.cls_token",
            "vilt.embeddings.token_type_embeddings.": "fusion.modality.",
            "vilt.": "fusion.",
            "classifier.": "head.classifier.",
        },
    )


def _blip(files: Files, stored: dict[str, Any], weights: dict[str, Tensor]) -> VQAModel:
    from transformers import BlipConfig, BlipForQuestionAnswering

    from vlm.adapters.blip import BlipAnswers, BlipDecoder, BlipFusion, BlipPatches, BlipWords
    from vlm.heads.generation.head import Generation

    made: Any = BlipConfig(
        vision_config=stored_options(stored["vision_config"]),
        text_config=stored_options(stored["text_config"]),
    )
    images = read_json(files.images)
    vision, text = stored_config(made.vision_config), stored_config(made.text_config)
    width = text["hidden_size"]
    questions = _pieces(files.tokenizer, min(64, text["max_position_embeddings"]))
    answers = BlipAnswers(
        questions.arguments["json"],
        text["bos_token_id"],
        text["sep_token_id"],
        text["vocab_size"],
    )
    model = VQAModel(
        BlipPatches(vision, images["image_mean"], images["image_std"]),
        BlipWords(text, questions),
        BlipFusion(vision["hidden_size"], width, text),
        Generation(width, partial(BlipDecoder, config=text, tokenizer=answers), min_length=0),
    )
    return _filled(
        model,
        _renamed(BlipForQuestionAnswering, made, weights),
        {
            "vision_model.": "image_encoder.vision_model.",
            "text_encoder.embeddings.": "text_encoder.embeddings.",
            "text_encoder.": "fusion.text_encoder.",
            "text_decoder.": "head.decoder.text_decoder.",
        },
    )


LOADERS = {"ViltForQuestionAnswering": _vilt, "BlipForQuestionAnswering": _blip}


def _renamed(kind: Any, config: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names of this version of transformers, tied ones included."""
    theirs = kind.from_pretrained(None, config=config, state_dict=weights, dtype=torch.float32)
    return theirs.state_dict()


def _filled(model: VQAModel, state: Mapping[str, Tensor], names: Mapping[str, str]) -> VQAModel:
    """Their weights by our names: the first beginning in `names` that fits is replaced."""
    weights = {}
    for key, value in state.items():
        old = next(old for old in names if key.startswith(old))
        weights[names[old] + key.removeprefix(old)] = value
    model.load_state_dict(weights)
    return model.eval()
