"""Load a ViLT or BLIP model for VQA, from the hub, its cache, or a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlm.checkpoint import KEY, PREFIX, describe
from vlm.checkpoint_file import write_checkpoint
from vlm.hub import stored_config
from vlm.inference import VQA
from vlm.model import VQAModel
from vlm.reach import hub_access


def load_from_hub(name: str, device: str | torch.device = "cpu") -> VQA:
    """A trained model that answers, ranks and is explained like our own.

    Args:
        name: of a ViLT or BLIP model for VQA, such as `dandelin/vilt-b32-finetuned-vqa` or
            `Salesforce/blip-vqa-base`, or of a folder with such a model.
        device: where to run.

    Raises:
        OSError: the model is not to be had; says where it was looked for and what to do.
        ValueError: a model of another kind.
    """
    with hub_access(name):
        config = json.loads(_file(name, "config.json").read_text(encoding="utf-8"))
        kind = (config.get("architectures") or ["an unknown kind"])[0]
        if kind not in LOADERS:
            raise ValueError(
                f"{name}: the model is {kind}; wanted one of {', '.join(LOADERS)}, such as "
                f"dandelin/vilt-b32-finetuned-vqa or Salesforce/blip-vqa-base."
            )
        model = LOADERS[kind](name)
    return VQA(model.to(device), {"run": name, "data": name})


def convert(name: str, path: str | Path) -> None:
    """Write such a model as a checkpoint of ours, for `vlm test`, `vlm ask` and `vlm explain`.

    Args:
        name: as for `load_from_hub`.
        path: the `.ckpt` file to write.
    """
    vqa = load_from_hub(name)
    weights = {PREFIX + key: value for key, value in vqa.model.state_dict().items()}
    content = {KEY: describe(vqa.model, vqa.about), "state_dict": weights, "global_step": 0}
    write_checkpoint(content, Path(path))


def _file(name: str, file: str) -> Path:
    if Path(name).is_dir():
        return Path(name) / file
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(name, file))


def _vilt(name: str) -> VQAModel:
    from transformers import ViltForQuestionAnswering
    from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

    from vlm.adapters.vilt import ViltAnswers, ViltFusion, ViltPatches, ViltWords
    from vlm.text.subword import SubwordTokenizer

    theirs = ViltForQuestionAnswering.from_pretrained(name, dtype=torch.float32)
    images = ViltImageProcessorPil.from_pretrained(name)
    config = _plain(theirs.config)
    answers: Any = theirs.config.id2label
    model = VQAModel(
        ViltPatches(
            config, images.size["shortest_edge"], list(images.image_mean), list(images.image_std)
        ),
        ViltWords(config, SubwordTokenizer(name, max_length=config["max_position_embeddings"])),
        ViltFusion(config["hidden_size"], config["hidden_size"], config),
        ViltAnswers(config["hidden_size"], [answers[i] for i in range(len(answers))]),
    )
    state = theirs.state_dict()
    positions = state.pop("vilt.embeddings.position_embeddings")
    state["vilt.embeddings.cls_token"] = state["vilt.embeddings.cls_token"] + positions[:, :1]
    state["vilt.embeddings.positions"] = positions[:, 1:]
    return _filled(
        model,
        state,
        {
            "vilt.embeddings.text_embeddings.": "text_encoder.text_embeddings.",
            "vilt.embeddings.patch_embeddings.": "image_encoder.patch_embeddings.",
            "vilt.embeddings.positions": "image_encoder.positions",
            "vilt.embeddings.cls_token": "fusion.cls_token",
            "vilt.embeddings.token_type_embeddings.": "fusion.modality.",
            "vilt.": "fusion.",
            "classifier.": "head.classifier.",
        },
    )


def _blip(name: str) -> VQAModel:
    from transformers import BlipForQuestionAnswering
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    from vlm.adapters.blip import BlipAnswers, BlipDecoder, BlipFusion, BlipPatches, BlipWords
    from vlm.heads.generation import Generation
    from vlm.text.subword import SubwordTokenizer

    theirs = BlipForQuestionAnswering.from_pretrained(name, dtype=torch.float32)
    images = BlipImageProcessorPil.from_pretrained(name)
    vision, text = _plain(theirs.config.vision_config), _plain(theirs.config.text_config)
    width = text["hidden_size"]
    questions = SubwordTokenizer(name, max_length=min(64, text["max_position_embeddings"]))
    answers = BlipAnswers(
        questions.arguments["json"],
        text["bos_token_id"],
        text["sep_token_id"],
        text["vocab_size"],
    )
    model = VQAModel(
        BlipPatches(vision, list(images.image_mean), list(images.image_std)),
        BlipWords(text, questions),
        BlipFusion(vision["hidden_size"], width, text),
        Generation(width, partial(BlipDecoder, config=text, tokenizer=answers), min_length=0),
    )
    return _filled(
        model,
        theirs.state_dict(),
        {
            "vision_model.": "image_encoder.vision_model.",
            "text_encoder.embeddings.": "text_encoder.embeddings.",
            "text_encoder.": "fusion.text_encoder.",
            "text_decoder.": "head.decoder.text_decoder.",
        },
    )


LOADERS = {"ViltForQuestionAnswering": _vilt, "BlipForQuestionAnswering": _blip}


def _plain(config: Any) -> dict[str, Any]:
    """Plain data from which transformers makes the configuration again."""
    left_out = ("architectures", "dtype", "transformers_version", "id2label", "label2id")
    return {k: v for k, v in stored_config(config).items() if k not in left_out}


def _filled(model: VQAModel, state: Mapping[str, Tensor], names: Mapping[str, str]) -> VQAModel:
    """Their weights by our names: the first beginning in `names` that fits is replaced."""
    weights = {}
    for key, value in state.items():
        old = next(old for old in names if key.startswith(old))
        weights[names[old] + key.removeprefix(old)] = value
    model.load_state_dict(weights)
    return model.eval()
