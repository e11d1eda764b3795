"""LoRA: a part keeps its weights, and learns a small correction of some of its layers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import nn


@dataclass(frozen=True)
class LoRA:
    """Low-rank adaptation: W + (alpha / rank) B A in place of the weights W (arXiv 2106.09685).

    A and B are trained, and B starts at zero (Hu et al. 2021). The rest of the part stays as it is.

    Args:
        rank: rank of the correction, the number of rows of A.
        alpha: weight of the correction, before its division by the rank.
        dropout: fraction of the correction's input dropped in training, in [0, 1).
        layers: names of linear or convolution layers, or their endings ("qkv", "mlp.fc1"). None
            takes the linear layers of attention and all convolutions without groups.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> how = vlm.training.PartTuning(lora=vlm.training.LoRA(rank=4, alpha=8))
        >>> tuning = vlm.training.Tuning(image_encoder=how)
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    layers: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.layers, str):
            raise ValueError(f"lora: layers: got {self.layers!r}; expected a list of names.")
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"lora: got rank={self.rank}, alpha={self.alpha}, dropout={self.dropout}; expected "
                f"a positive rank and alpha, and a share of dropout below 1."
            )

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """Make it from plain data of a file.

        Raises:
            ValueError: data of another form.
        """
        try:
            return cls(**config)
        except TypeError as error:
            raise ValueError(
                f"lora: got {config!r}; expected rank, alpha, dropout, layers."
            ) from error


def add_lora(part: Any, lora: LoRA) -> None:
    """Put corrections into a part, in place; nothing else in it is trained from now on. `part.lora`
    keeps them, so that `part.config` builds the same again.

    Raises:
        ValueError: no layer to correct.
        ImportError: peft is not installed.
    """
    names = [name for name in _candidates(part) if _chosen(part, name, lora)]
    if not names:
        expected = lora.layers or "linear layers of attention, or convolutions without groups"
        has = ", ".join(_candidates(part)[:5])
        hint = f"it has {has}; name some in lora.layers" if has else "it has none"
        raise ValueError(
            f"lora: {type(part).__name__} has no layer that LoRA can correct; expected "
            f"{expected}: {hint}."
        )
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        raise ImportError(
            "lora: needs the package peft, which is not installed; "
            "run `pip install 'vlm-vqa[lora]'`."
        ) from error
    # peft would read a part's own `config` as one of transformers.
    inside = nn.ModuleDict({"part": part})
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft divides any number
        lora_dropout=lora.dropout,
        target_modules="|".join(re.escape(f"part.{name}") for name in names),
    )
    inject_adapter_in_model(config, inside)
    part.train_new()
    part.lora = lora


def merge_lora(part: Any) -> None:
    """Add the corrections to the weights: a plain part again, with the same output."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    merged: tuple[str, ...] = ()
    for name, layer in list(part.named_modules()):
        if not isinstance(layer, BaseTunerLayer) or name.startswith(merged):
            continue
        above, _, last = name.rpartition(".")
        if hasattr(layer, "unload_and_optionally_merge_module"):  # nn.MultiheadAttention
            plain = layer.unload_and_optionally_merge_module(
                merge=True, safe_merge=False, adapter_names=None
            )
        else:
            layer.merge()
            plain = layer.get_base_layer()
        setattr(part.get_submodule(above), last, plain)
        merged += (name + ".",)  # what an attention has inside is merged with it
    part.lora = None


def _candidates(part: nn.Module) -> list[str]:
    """Names of the layers that could be corrected."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention)
    names = [name for name, module in part.named_modules() if isinstance(module, kinds)]
    # The projection inside an `nn.MultiheadAttention` is corrected with it.
    return [
        name
        for name in names
        if not isinstance(part.get_submodule(name.rpartition(".")[0]), nn.MultiheadAttention)
    ]


def _chosen(part: nn.Module, name: str, lora: LoRA) -> bool:
    if lora.layers is not None:
        return f".{name}".endswith(tuple(f".{end}" for end in lora.layers))
    module = part.get_submodule(name)
    if isinstance(module, nn.Linear):
        return re.search("attn|attention", name, re.IGNORECASE) is not None
    return getattr(module, "groups", 1) == 1
