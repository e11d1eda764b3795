"""Models of the hub: fetched to its cache, and ViLT and BLIP for VQA in our parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vlm.adapters.folder import PATTERNS, is_image_text_to_text, own_code
from vlm.adapters.language_models import CLASSES, read_connected, write_back, write_parts
from vlm.checkpoint.checkpoint import (
    KEY,
    PREFIX,
    Checkpoint,
    describe,
    load_model,
    read_checkpoint,
)
from vlm.checkpoint.file import check_weights, write_checkpoint
from vlm.checkpoint.sharing import (
    CONFIG,
    WEIGHTS,
    file_inside,
    is_shared,
    read_json,
    read_shared,
)
from vlm.core.bundled import bundled_folder
from vlm.core.rust_panic import is_panic
from vlm.core.safe_config import stored_options
from vlm.model import VQAModel
from vlm.pretrained.availability import hub_access, nothing_fetched
from vlm.pretrained.bounded_build import Sparing
from vlm.pretrained.pruning import stored_config
from vlm.pretrained.tokenizer_growth import read_tokenizer
from vlm.pretrained.weights import read_weights
from vlm.text.subword import SubwordTokenizer

HUB = "hf:"
"""What stands before a name on the hub, where a path could stand too."""


def locate(path: str | Path, revision: str | None = None, whole: bool = True) -> Path:
    """The path itself, the folder of a bundled model, or for `hf:NAME` the folder of the hub's
    cache with the model's files, which are fetched first unless they are there. Nothing is read but
    these files, of one commit.

    Args:
        path: a path; the name of a bundled model, "easy_vqa" or "scenes", unless there is such a
            path; `hf:` and the name of a model on the hub, or `hf:` and a folder.
        revision: a branch, tag or commit on the hub; None for the main branch.
        whole: fetch models that are asked as they are (`is_whole`) too. If not, only their
            `config.json` is fetched, by which a reader of parts refuses them.

    Raises:
        OSError: the model is unavailable, or the name of a bundled one is misspelt; says where it
            was looked for and what to do.
        ValueError: a revision of what is not on the hub.
    """
    name = str(path).removeprefix(HUB)
    if name == str(path) or Path(name).is_dir():
        if revision is not None:
            raise ValueError(f"revision: got {revision!r} for {path}; expected a model hf:NAME.")
        found = bundled_folder(name) if name == str(path) else None
        return found or Path(name)
    from huggingface_hub import snapshot_download

    with hub_access(name):
        folder = _download(name, (CONFIG,), revision).parent
        if is_whole(folder):
            if whole:
                snapshot_download(
                    name, revision=folder.name, allow_patterns=list(PATTERNS), ignore_patterns="*/*"
                )
        else:
            for files in FILES if is_adapted(folder) else ((WEIGHTS,),):
                _download(name, files, folder.name)
    return folder


def is_adapted(folder: str | Path) -> bool:
    """Whether this is the folder of somebody else's model, as transformers writes it."""
    path = Path(folder) / CONFIG
    return path.is_file() and "architectures" in read_json(file_inside(path.parent, CONFIG))


def is_whole(folder: str | Path) -> bool:
    """Whether this is the folder of a model that is asked as it is, by transformers' own classes.

    Raises:
        ValueError: somebody else's model of any other kind than ViLT and BLIP for VQA.
    """
    if not is_adapted(folder):
        return False
    config = read_json(file_inside(Path(folder), CONFIG))
    if (kind := architecture(config)) in LOADERS:
        return False
    if not is_image_text_to_text(config):
        raise ValueError(
            f"{name_of(folder)}: the model is {kind:.80}; expected one of {', '.join(LOADERS)}, "
            f"such as dandelin/vilt-b32-finetuned-vqa, or an image-text-to-text model of "
            f"transformers, such as HuggingFaceTB/SmolVLM-256M-Instruct. {own_code(config)}".strip()
        )
    return True


def architecture(config: Mapping[str, Any]) -> str:
    """The name of the class that a `config.json` is of."""
    named = config.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else "an unknown kind"


def name_of(folder: str | Path) -> str:
    """In the hub's cache, the name of the model; else the folder."""
    folder = Path(folder)
    if folder.parent.name != "snapshots":
        return str(folder)
    return folder.parents[1].name.removeprefix("models--").replace("--", "/")


def read_folder(folder: str | Path, trust: bool = False) -> Checkpoint:
    """Read the folder of a shared model, or of a ViLT or BLIP model: see `read_shared` and
    `read_adapted`, which raise."""
    if not is_adapted(folder):
        return read_shared(folder, trust)
    model, about = read_adapted(folder)
    return Checkpoint(Path(folder), model.config, model.state_dict(), about, 0)


def read_stored(path: str | Path, trust: bool = False) -> Checkpoint:
    """Read what is there: a shared, ViLT or BLIP model (`read_folder`), or a run's checkpoint
    (`read_checkpoint`)."""
    return read_folder(path, trust) if is_shared(path) else read_checkpoint(path)


def read_adapted(folder: str | Path) -> tuple[VQAModel, dict[str, Any]]:
    """A ViLT or BLIP model for VQA in our parts, and where it is from. Four files of the folder are
    read: `config.json`, `preprocessor_config.json`, `tokenizer.json` and the weights; nothing that
    they name.

    Raises:
        OSError: a file is not there.
        ValueError: a model of another kind, or one whose files are damaged.
    """
    folder, name = Path(folder), name_of(folder)
    with hub_access(str(folder)):
        config = read_json(_found(folder, CONFIG))
        kind = architecture(config)
        if is_whole(folder):
            raise ValueError(
                f"{name}: {kind:.80} is asked as it is, by `vlm ask`, `demo`, `serve`, `predict`, "
                f"`report` and `explain`; expected parts of vlm, or ViLT or BLIP for VQA."
            )
        files = Files(*(_found(folder, *names) for names in FILES))
    weights = read_weights(str(files.weights))
    check_weights(weights, files.weights.stat().st_size, files.weights)
    try:
        with nothing_fetched(), Sparing(weights):
            model = LOADERS[kind](files, config, weights)
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise ValueError(f"{name}: cannot build this model ({error!r:.500}).") from error
    return model, {"run": name, "data": name}


def convert(name: str | Path, path: str | Path) -> None:
    """Convert a model of the hub (ViLT, BLIP, LLaVA or SmolVLM) to a checkpoint, which needs
    neither the hub nor transformers' files.

    For LLaVA and SmolVLM (Idefics3), a `.yaml` file beside the checkpoint names the parts and their
    first weights. With this file, `vlm fit` tunes the model, and `convert_back` then writes it in
    its original format.

    Args:
        name: a folder with such a model, or `hf:` and the model's name on the hub.
        path: the `.ckpt` file to write.

    Raises:
        OSError: a file is not there.
        ValueError: a model of another kind, a model with damaged files, or a file that already
            exists.
    """
    folder, path = locate(name), Path(path)
    beside = path.with_suffix(".yaml")
    parts: dict[str, Any] = {}
    connected = architecture(read_json(file_inside(folder, CONFIG))) in CLASSES
    for file in (path, beside) if connected else (path,):
        if file.exists():
            raise ValueError(f"{file}: exists; expected a new file. Move it, or take another path.")
    if connected:
        model, parts = read_connected(folder, name_of(folder))
        about = {"run": name_of(folder), "data": name_of(folder)}
    else:
        model, about = read_adapted(folder)
    weights = {PREFIX + key: value for key, value in model.state_dict().items()}
    content = {KEY: describe(model, about), "state_dict": weights, "global_step": 0}
    write_checkpoint(content, path)
    if parts:
        write_parts(parts, path, beside)


def convert_back(run: str | Path, source: str | Path, folder: str | Path) -> None:
    """Write a converted LLaVA or SmolVLM model in its original format, also after tuning.

    Args:
        run: checkpoint or run folder of the model; LoRA is added to its weights.
        source: the original model, a folder or `hf:` and its name on the hub. Its other files are
            copied.
        folder: a new or empty folder, which transformers reads.

    Raises:
        OSError: the original is not available.
        ValueError: a model of other parts or sizes than the original, or a folder that is not
            empty.
    """
    write_back(load_model(read_checkpoint(run)), locate(source), Path(folder))


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


def _found(folder: Path, *files: str) -> Path:
    """The first of these files that exists."""
    for file in files:
        if (path := file_inside(folder, file)).is_file():
            return path
    raise FileNotFoundError(f"there is no {' or '.join(files)}")


def _download(name: str, files: Sequence[str], revision: str | None) -> Path:
    """Fetch the first of these files that the hub has."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    for file in files[:-1]:
        with suppress(EntryNotFoundError):
            return Path(hf_hub_download(name, file, revision=revision))
    return Path(hf_hub_download(name, files[-1], revision=revision))


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
