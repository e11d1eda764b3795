"""Script: try every kind of model under an audit hook that watches files and sockets.

Prints one line of JSON: the numbers of models refused and built, and the failures.
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import transformers
from shared_models import bag, pieces, put_together
from torch import nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

import vlm
from vlm.checkpoint.checkpoint import Checkpoint, CheckpointError, load_model
from vlm.core.part import build
from vlm.core.safe_config import DECODERS, ENCODERS
from vlm.heads import Classification, HuggingFaceDecoder, SubwordAnswers
from vlm.image import ConvNet
from vlm.pretrained.pruning import stored_config
from vlm.text import HuggingFaceEncoder, SubwordTokenizer

SMALL = dict.fromkeys(
    [
        "num_hidden_layers",
        "num_layers",
        "encoder_layers",
        "decoder_layers",
        "num_decoder_layers",
        "n_layer",
        "n_layers",
        "num_encoder_layers",
        "num_attention_heads",
        "n_head",
        "n_heads",
        "num_heads",
        "encoder_attention_heads",
        "decoder_attention_heads",
        "num_encoder_attention_heads",
        "num_decoder_attention_heads",
        "num_key_value_heads",
    ],
    2,
) | dict.fromkeys(["hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size"], 32)
SMALL |= dict.fromkeys(["ffn_dim", "intermediate_size", "d_ff", "n_inner", "encoder_ffn_dim"], 48)
SMALL |= {"decoder_ffn_dim": 48, "hidden_dim": 48, "head_dim": 16, "d_kv": 16}
SMALL |= {"vocab_size": 60, "max_position_embeddings": 64, "n_positions": 64, "pad_token_id": 1}
SMALL |= {"bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
OWN: dict[str, dict[str, Any]] = {
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 8},
    "codegen": {"rotary_dim": 8, "n_head": 4},
}
NAMES = (
    "someone/model", "hf-hub:someone/model", "hf_hub:someone/model", "local-dir:/etc",
    "https://127.0.0.1/model", "/etc/passwd", "../../etc/passwd", "bert-base-uncased",
)  # fmt: skip
KEYS = (
    "backbone", "backbone_config", "text_config", "vision_config", "encoder", "decoder",
    "auto_map", "_name", "attn_implementation", "_attn_implementation", "quantization_config",
    "base_model_name_or_path", "hf_model_name", "timm_model", "architecture", "pretrained",
    "adapter", "kernel_config", "tokenizer", "hidden_act",
)  # fmt: skip
TIMM = ("checkpoint_path", "cache_dir", "pretrained_cfg", "pretrained_cfg_overlay", "act_layer")
CLIP = ("timm_model_name", "hf_model_name", "timm_pool", "pool_type", "custom", "timm_model_path")

failures: list[str] = []
counts = {"refused": 0, "built": 0}
made: list[str] = []
watching = False
HOMES = tuple(
    os.path.realpath(path)
    for path in {*sysconfig.get_paths().values(), sys.base_prefix, *vlm.__path__}
)
HOMES += (os.path.dirname(transformers.__path__[0]),)
OWN_SOCKETS = ("socket.__new__", "socket.gethostname")
HARMLESS = ("/proc/", "/sys/", "/dev/null", "/dev/urandom", "/etc/localtime", "/usr/share/zoneinfo")


def hook(event: str, args: Any) -> None:
    if not watching:
        return
    if (
        event.startswith("socket.") and event not in ("socket.__new__", "socket.gethostname")
    ) or event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"):
        failures.append(f"{event} {args!r:.200}")
    elif event == "open" and isinstance(args[0], (str, bytes)):
        path = os.path.realpath(os.fsdecode(args[0]))
        if not path.startswith((*HOMES, *HARMLESS)):
            failures.append(f"open {path}")


@cache
def _whole() -> dict[str, Any]:
    return put_together(ConvNet(image_size=32, widths=(5, 7)), bag(), Classification).model.config


def stored(**parts: Any) -> dict[str, Any]:
    return _whole() | parts


def part(path: str, /, **arguments: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": arguments}


def hugging_face(config: Any) -> dict[str, Any]:
    tokenizer = part("vlm.text.SubwordTokenizer", json=pieces(), max_length=10)
    return part("vlm.text.HuggingFaceEncoder", config=config, tokenizer=tokenizer)


def writer(config: Any) -> dict[str, Any]:
    tokenizer = part("vlm.heads.SubwordAnswers", json=pieces("yes"), begin="[PAD]", end="[UNK]")
    decoder = part("vlm.heads.HuggingFaceDecoder", config=config, tokenizer=tokenizer)
    return part("vlm.heads.Generation", in_dim=13, decoder=decoder | {"factory": True})


def nested(name: str) -> list[Any]:
    return [name, [name], {"name_or_path": name}, {"model_type": "bert", "_name_or_path": name}]


def crafted() -> Iterator[tuple[str, dict[str, Any]]]:
    """Configurations that must be refused."""
    for kind in CONFIG_MAPPING_NAMES:
        if kind not in ENCODERS:
            yield kind, stored(text_encoder=hugging_face({"model_type": kind}))
        if kind not in DECODERS:
            yield kind, stored(head=writer({"model_type": kind}))
    for key in KEYS:
        for value in nested("someone/model"):
            for kind in ("bert", "gpt2", "t5"):
                config = {"model_type": kind, key: value}
                yield f"{kind}: {key}={value}", stored(text_encoder=hugging_face(config))
    for name in NAMES:
        for cls in ("HuggingFaceEncoder", "OpenClipTextEncoder", "SubwordTokenizer"):
            yield f"{cls} {name}", stored(text_encoder=part(f"vlm.text.{cls}", name=name))
        tokenizer = part("vlm.text.VectorTokenizer", vectors=name)
        yield name, stored(text_encoder=part("vlm.text.BagOfWords", words=[], tokenizer=tokenizer))
        head = part("vlm.heads.HuggingFaceDecoder", name=name) | {"factory": True}
        yield name, stored(head=part("vlm.heads.Generation", in_dim=13, decoder=head))
        for cls in ("Timm", "Torchvision", "OpenClipImage"):
            image = part(f"vlm.image.{cls}Encoder", name=name)
            if name != "bert-base-uncased" or cls == "OpenClipImage":
                yield f"{cls} {name}", stored(image_encoder=image)
            image = part(f"vlm.image.{cls}Encoder", name="resnet18", pretrained=name)
            yield f"{cls} pretrained {name}", stored(image_encoder=image)
        for key in TIMM:
            for value in (name, {"hf_hub_id": name}, {"file": name}, [name]):
                if key != "act_layer" or "bert-base-uncased" not in value:
                    image = part("vlm.image.TimmEncoder", name="resnet18", model_args={key: value})
                    yield f"timm {key}={value}", stored(image_encoder=image)
        for key in CLIP:
            if name == "bert-base-uncased" and key != "hf_model_name":
                continue
            for tower, encoder in (("vision_cfg", "image"), ("text_cfg", "text")):
                cls = f"vlm.{encoder}.OpenClip{encoder.capitalize()}Encoder"
                config = {"embed_dim": 8, tower: {key: name}, "preprocess_cfg": {}}
                yield (
                    f"open_clip {key}={name}",
                    stored(**{f"{encoder}_encoder": part(cls, config=config)}),
                )
    yield "pretrained", stored(image_encoder=part("vlm.image.TimmEncoder", pretrained=True))


def allowed() -> Iterator[tuple[str, Any]]:
    """Stored configurations of small models of every kind that may be rebuilt."""
    for kinds, made_by in ((ENCODERS, encoder), (DECODERS, decoder)):
        for kind in sorted(kinds):
            cls = CONFIG_MAPPING[kind]
            known = json.loads(cls().to_json_string(use_diff=False))
            small = {key: value for key, value in SMALL.items() if key in known} | OWN.get(kind, {})
            try:
                config = cls(**small)
            except Exception:
                config = cls()
            yield kind, lambda config=config, made_by=made_by: made_by(stored_config(config))


def encoder(config: dict[str, Any]) -> Any:
    tokenizer = SubwordTokenizer(json=pieces(), max_length=10)
    return HuggingFaceEncoder(config=config, tokenizer=tokenizer)


def decoder(config: dict[str, Any]) -> Any:
    tokenizer = SubwordAnswers(json=pieces("yes"), begin="[PAD]", end="[UNK]")
    return HuggingFaceDecoder(7, config=config, tokenizer=tokenizer, max_length=4)


def refuse(name: str, config: dict[str, Any]) -> None:
    made.clear()
    try:
        load_model(Checkpoint(Path("a.ckpt"), json.loads(json.dumps(config)), {}, {}, 0))
        failures.append(f"{name}: loaded")
    except CheckpointError as error:
        counts["refused"] += 1
        if made:
            failures.append(f"{name}: made {made[0]} before it was refused ({error})")
    except BaseException as error:
        failures.append(f"{name}: {error!r:.300}")


def rebuild(name: str, make: Any) -> None:
    try:
        config = json.loads(json.dumps(make().config))
        build(config)
        counts["built"] += 1
    except Exception as error:
        failures.append(f"{name}: {error!r:.300}")


def main(few: bool) -> None:
    global watching
    transformers.logging.set_verbosity_error()
    old = nn.Module.__init__

    def noted(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        made.append(type(self).__name__)
        old(self, *args, **kwargs)

    everything = list(crafted())
    rebuilt = (
        list(allowed())
        if not few
        else [item for item in allowed() if item[0] in ("bert", "gpt2", "t5")]
    )
    for _, make in rebuilt[:1]:
        make()
    sys.addaudithook(hook)
    nn.Module.__init__ = noted  # type: ignore[method-assign]
    watching = True
    for name, config in everything:
        refuse(name, config)
    for name, make in rebuilt:
        rebuild(name, make)
    watching = False
    print(json.dumps({**counts, "failures": failures[:30], "failed": len(failures)}))


if __name__ == "__main__":
    main("--few" in sys.argv)
