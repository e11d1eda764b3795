"""Allow-lists for stored configurations, checked as a whole before anything is built.

A stranger may have written the configuration, so whatever is not listed is refused. Classes must be
parts of vlm. What a part passes to another library must be a number, a word that the library looks
up in its own list, or a kind of model that can be rebuilt without a network. None of these can name
a file, a server or code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from reprlib import repr  # shortens long and deep values
from typing import Any

HOMES = ("vlm.adapters", "vlm.fusion", "vlm.heads", "vlm.image", "vlm.text")
"""Where the classes of models live. Other modules of ours do more on import than define classes."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


ENCODERS = _names(
    """
    albert bart bert bert-generation big_bird bigbird_pegasus biogpt bloom camembert
    clip_text_model codegen cohere data2vec-text deberta deberta-v2 distilbert electra ernie
    eurobert falcon flaubert gemma gemma2 gemma3_text gpt2 gpt_neo gpt_neox gptj granite helium
    ibert jina_embeddings_v3 led llama longformer longt5 luke m2m_100 marian mbart megatron-bert
    mistral modernbert mpnet mt5 mvp nomic_bert olmo olmo2 olmo3 openai-gpt opt pegasus phi phi3
    plbart qwen2 qwen3 rembert roberta roberta-prelayernorm roc_bert roformer smollm3 splinter
    squeezebert stablelm starcoder2 t5 umt5 xglm xlm xlm-roberta xlm-roberta-xl xlnet
    """
)
"""Kinds of transformers' models (`model_type`) that encode texts. Not those that mix padding
into the words: convbert, fnet, mobilebert, nystromformer."""

DECODERS = _names(
    """
    bart bert bigbird_pegasus biogpt blenderbot blenderbot-small bloom codegen falcon gemma gemma2
    gemma3_text gpt2 gpt_neo gpt_neox gptj granite helium led llama longt5 m2m_100 marian mbart
    mistral mt5 mvp olmo olmo2 opt pegasus phi phi3 plbart prophetnet qwen2 qwen3 roberta smollm3
    stablelm starcoder2 t5 umt5 xglm
    """
)
"""Kinds of transformers' models that write texts."""

WORDS = _names(
    """
    aa_layer act_layer activation activation_function attention_layers attention_type
    attention_types attn_layer attn_type attn_types block_type block_types dense_act_fn
    downsample embed_norm_layer encoder_attention_type feed_forward_proj ff_activation
    force_dequant global_pool hidden_act hidden_activation interpolation layer_types mode
    model_type norm_layer normalization_type pad_type padding padding_mode pool_type
    pooler_hidden_act pos_embed pos_embed_type position_embedding_type proj_type rel_pos_type
    resize_mode rope_type stem_type timm_model_name timm_pool timm_proj token_mixers type
    weight_init
    """
)
"""Options that may be a word, which timm, transformers or open_clip look up in a list."""

UNREAD = _names(
    """
    _name_or_path architectures directionality dtype finetuning_task hf_tokenizer_name id2label
    label2id language license pooler_type prefix problem_type summary_activation summary_type
    task_specific_params tokenizer_class tokenizer_kwargs tokenizer_mode torch_dtype
    transformers_version
    """
)
"""Options that do not affect a model's layers. `read_options` drops them."""

DEEPEST, MOST = 64, 1_000_000
"""Most levels of nested lists and dicts (ours have about ten), and most lists and dicts in all."""

_WORD = re.compile(r"[A-Za-z0-9][\w.+-]*", re.ASCII)
_PACKAGE = Path(__file__).parents[1]

Check = Callable[[Any], None]
"""Raises a ValueError for a value that an argument may not have in a stored configuration."""


def check_config(
    value: Any,
    keys: Collection[str],
    trust: bool | Collection[str] = False,
) -> None:
    """Refuse a stored configuration that names anything but parts of vlm and plain data.

    Args:
        value: the configuration, or a value inside it.
        keys: that may stand beside a `class_path`.
        trust: allow classes from outside vlm: all, or those of these packages.

    Raises:
        ValueError: a class of another origin, unknown keys next to a `class_path`, or a value that
            is not plain data; says where.
    """
    left = MOST
    waiting: list[tuple[Any, str, int]] = [(value, "", 0)]
    while waiting:
        value, place, depth = waiting.pop()
        where = f"{place}: " if place else ""
        left -= 1
        if depth > DEEPEST or left < 0:
            raise ValueError(
                f"{where}more than {DEEPEST} levels deep, or more than {MOST:,} lists and objects; "
                f"expected a part's configuration."
            )
        if isinstance(value, dict):
            if "class_path" in value:
                _check_class(value, keys, trust, where)
            inner = list(value.items())
        elif isinstance(value, (list, tuple)):
            inner = [("", item) for item in value]
        else:
            inner = [("", value)]
        for key, item in inner:
            if not isinstance(key, str) or not _is_text(key):
                raise ValueError(f"{where}got the key {key!r:.80}; expected text.")
            if isinstance(item, (dict, list, tuple)):
                waiting.append((item, f"{place}.{key:.80}".strip(".")[-200:], depth + 1))
            elif isinstance(item, float) and not math.isfinite(item):
                raise ValueError(f"{where}{key:.80} is {item}; expected a finite number.")
            elif isinstance(item, str) and not _is_text(item):
                raise ValueError(f"{where}{key:.80} has half a surrogate pair; expected Unicode.")
            elif not (item is None or isinstance(item, (bool, int, float, str))):
                raise ValueError(f"{where}got {type(item).__name__}; expected plain data.")


def _is_text(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _check_class(
    config: dict[str, Any], keys: Collection[str], trust: bool | Collection[str], where: str
) -> None:
    path = config["class_path"]
    if not isinstance(path, str):
        raise ValueError(f"{where}class_path: got {repr(path)}; expected a class as text.")
    if unknown := sorted(map(str, config.keys() - set(keys))):
        raise ValueError(
            f"{where}{path:.80}: got the unknown keys {', '.join(unknown):.200}; this version of "
            f"vlm expects {', '.join(sorted(keys))}."
        )
    if not isinstance(config.get("init_args", {}), dict):
        raise ValueError(f"{where}{path:.80}: init_args: expected an object of arguments by name.")
    if not isinstance(config.get("factory", False), bool):
        raise ValueError(
            f"{where}{path:.80}: factory: got {repr(config['factory'])}; expected true."
        )
    if is_ours(path) or (trust if isinstance(trust, bool) else path.partition(".")[0] in trust):
        return
    raise ValueError(
        f"{where}{path:.80} is not a class of vlm's parts. Loading it runs its code: if you trust "
        "the origin of this file, use trust=True in Python, or --trust if the command has it."
    )


def is_ours(path: str) -> bool:
    """Whether a class path leads to a module of ours that defines parts. Imports nothing.

    >>> is_ours("vlm.fusion.Product"), is_ours("vlm.__main__.Product"), is_ours("os.system")
    (True, False, False)
    """
    module, _, name = path.rpartition(".")
    if not name.isidentifier() or not any(f"{module}.".startswith(f"{home}.") for home in HOMES):
        return False
    folders = module.split(".")
    if not all(folder.isidentifier() for folder in folders) or len(path) > 200:
        return False
    place = _PACKAGE.joinpath(*folders[1:])
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def nothing(value: Any) -> None:
    """An argument with which a part fetches weights or opens a file."""
    if value is not None and value is not False:
        raise ValueError(f"got {repr(value)}, which would be fetched or opened; {_ALL_IT_NEEDS}")


def text(value: Any) -> None:
    """An argument that holds a whole tokenizer."""
    if not isinstance(value, str):
        raise ValueError(f"got {repr(value)}; expected text. {_ALL_IT_NEEDS.capitalize()}")


def word(value: Any) -> None:
    """A name from another library's own list, without slashes and colons."""
    if value is not None and not (isinstance(value, str) and _WORD.fullmatch(value)):
        raise ValueError(f"got {repr(value)}; expected a name from the library's own list.")


def options(value: Any, but: Collection[str] = ()) -> None:
    """Options of another library's model, by name, or None; those in `but` the library reads
    itself."""
    if value is None:
        return
    if not isinstance(value, dict):
        raise ValueError(f"got {repr(value)}; expected options by name.")
    for key, item in value.items():
        if key in but or (key.startswith("_") and key not in UNREAD):
            raise ValueError(f"got {key:.80}, which {_MAY_LOAD}")
        if key not in UNREAD:
            _check_option(key, item)


def _check_option(key: str, item: Any) -> None:
    if isinstance(item, str) and not (key.rpartition(".")[2] in WORDS and _WORD.fullmatch(item)):
        raise ValueError(f"got {key:.80}: {repr(item)}, which {_MAY_LOAD}")
    if isinstance(item, dict):
        if "model_type" in item:
            raise ValueError(f"got the model {key:.80} inside another, which {_MAY_LOAD}")
        for name, inner in item.items():
            _check_option(f"{key}.{name}", inner)
    elif isinstance(item, (list, tuple)):
        for inner in item:
            _check_option(key, inner)


def model_of(kinds: Collection[str]) -> Check:
    """A check of a configuration of transformers, which must be of one of these kinds."""

    def check(config: Any) -> None:
        if not isinstance(config, dict):
            raise ValueError(f"got {repr(config)}; expected a configuration: {_ALL_IT_NEEDS}")
        check_kind(config.get("model_type"), kinds)
        options(config)

    return check


def check_kind(kind: Any, kinds: Collection[str]) -> None:
    """Refuse a kind of transformers' models that cannot be rebuilt without a network.

    Raises:
        ValueError: names the kinds that can.
    """
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(
            f"got the model_type {repr(kind)}; expected one that can be rebuilt offline: "
            f"{', '.join(sorted(kinds))}."
        )


def read_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options without those that do not affect a model's layers."""
    return {key: value for key, value in config.items() if key not in UNREAD}


def stored_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a stored configuration may have; hub models have more."""
    return {key: value for key, value in read_options(config).items() if _is_allowed(key, value)}


def _is_allowed(key: str, value: Any) -> bool:
    try:
        options({key: value})
    except ValueError:
        return False
    return True


_ALL_IT_NEEDS = "a stored model must contain all it needs."
_MAY_LOAD = (
    "may load more than the file holds; expected numbers or listed words. Remove it, or use "
    "--trust (trust=True in Python) if you trust the origin of this file."
)
