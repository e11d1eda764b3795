"""What the encoders that wrap another library's models share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from traceback import walk_tb
from typing import Any

import torch
from torch import Tensor, nn

from vlm.core.safe_config import read_options, stored_options
from vlm.pretrained.availability import check_hub, hub_access


def config_of(plain: dict[str, Any]) -> Any:
    """A transformers configuration from its `to_dict()`."""
    from transformers import AutoConfig

    if "model_type" not in plain:
        raise ValueError(
            f"config: got {sorted(plain)[:5]} without 'model_type'; expected the to_dict() of a "
            f"Hugging Face configuration."
        )
    return AutoConfig.for_model(**read_options(plain))


def hub_tokenizer(name: str) -> Any:
    """The tokenizer of transformers, one with a Rust version, of a hub name or local folder."""
    check_hub(name)  # before the import, which takes seconds
    from transformers import AutoTokenizer

    with hub_access(name):
        # Left out, transformers asks at a terminal whether to run a model's own code.
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise ValueError(f"name: {name!r} has no `tokenizer.json`; choose a model that has one.")
    return tokenizer


def stored_config(config: Any) -> dict[str, Any]:
    """A transformers configuration as plain data, with the options that a stored model may have."""
    return stored_options(json.loads(config.to_json_string(use_diff=False)))


@contextmanager
def foreign_options(
    argument: str, options: Mapping[str, Any], name: str, ours: Mapping[str, str]
) -> Iterator[None]:
    """Report what fails while another library builds or first runs a model with a user's options.

    `argument` holds the options; those in `ours` (with the remedy) an encoder sets itself.
    """
    if found := sorted(key for key in ours if options.get(key)):
        raise ValueError(
            f"{argument}: got {found[0]}={options[found[0]]!r}; the encoder sets it itself. "
            f"{ours[found[0]]}"
        )
    try:
        yield
    except Exception as error:
        *_, (frame, _) = walk_tb(error.__traceback__)
        here = str(frame.f_globals.get("__name__")).startswith("vlm.")
        if here or isinstance(error, OSError) or not options:
            raise
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{argument}: got {dict(options)!r:.300}; {name} cannot be built or run with it "
            f"({said:.200}). Correct it, or leave it out."
        ) from error


def prune(model: nn.Module, run: Callable[[], Tensor]) -> Tensor:
    """Run `model` once and remove from it what the result does not depend on.

    Poolers and heads that were not called become `nn.Identity`. What was called in vain must
    stay in place and is frozen. So every trainable parameter that is left gets a gradient, as DDP
    demands. Gives back, detached, the tensor that counts, which `run` makes.
    """
    if torch.is_inference_mode_enabled():  # which tracks no dependence
        raise ValueError(
            "got an encoder to build in torch.inference_mode; expected it built outside. Build it "
            "first, and enter inference_mode to run it."
        )
    called: set[nn.Module] = set()

    def note(module: nn.Module, _: object) -> None:
        called.add(module)

    hooks = [module.register_forward_pre_hook(note) for module in model.modules()]
    try:
        with torch.enable_grad():
            output = run()
    finally:
        for hook in hooks:
            hook.remove()
    _prune(model, _leaves(output), called)
    return output.detach()


def _prune(module: nn.Module, used: set[int], called: set[nn.Module]) -> None:
    for name, child in list(module.named_children()):
        trainable = [p for p in child.parameters() if p.requires_grad]
        unused = trainable and not any(id(p) in used for p in trainable)
        if unused and called.isdisjoint(child.modules()):
            setattr(module, name, nn.Identity())
        else:
            _prune(child, used, called)
    for parameter in module.parameters(recurse=False):
        if id(parameter) not in used:
            parameter.requires_grad_(False)


def _leaves(output: Tensor) -> set[int]:
    """Ids of the parameters in the graph of `output`: no backward pass is computed."""
    seen, waiting, leaves = set(), [output.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        waiting.extend(before for before, _ in node.next_functions)
    return leaves
