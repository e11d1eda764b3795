"""Attention masks of transformers' models that are made without a look at their values."""

from __future__ import annotations

from typing import Any

NAME = "vlm"


def always_mask(model: Any) -> None:
    """Let a model of transformers make its attention mask whether or not there is padding.

    By itself it leaves the mask out for a batch without padding, and to find that out, each forward
    pass waits for the device. The output is the same. Models without SDPA stay as they are.

    Args:
        model: a `PreTrainedModel`.
    """
    if model.get_correct_attn_implementation(None) == "sdpa":
        model.attention_mask_registration = _Registration()
        model.set_attn_implementation(NAME)


class _Registration:
    """The kind of mask under `NAME`, registered again where a model that has it is unpickled."""

    def __init__(self) -> None:
        from transformers import AttentionInterface, AttentionMaskInterface

        make = AttentionMaskInterface()["sdpa"]

        def mask(*args: Any, **options: Any) -> Any:
            skips = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
            return make(*args, **options | skips)

        AttentionInterface.register(NAME, AttentionInterface()["sdpa"])
        AttentionMaskInterface.register(NAME, mask)

    def __reduce__(self) -> tuple[type[_Registration], tuple[()]]:
        return _Registration, ()
