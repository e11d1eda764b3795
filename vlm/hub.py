"""What the encoders that wrap another library's models share."""

from __future__ import annotations

import difflib
import os
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import torch
from torch import Tensor, nn

PATIENCE = 2.0
"""Seconds that the hub may take to answer before it counts as out of reach."""


@contextmanager
def hub_access(name: str) -> Iterator[None]:
    """Load the model `name` inside: from its folder, the hub, or the cache if there is no network.

    The hub's client asks an unreachable server again and again, up to 46 s, before it turns to
    the cache or gives up; here the server is asked once whether it is there.

    Args:
        name: a model of the hub or a local folder.

    Raises:
        OSError: `name` is not to be had; says where it was looked for and what to do.
    """
    from huggingface_hub import constants

    local = Path(name).is_dir()
    obstacle = None if local else _obstacle()
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or obstacle is not None
    try:
        yield
    except OSError as error:
        reason = _reason(error)
        if local:
            looked = f"looked in this folder, and got: {reason}. Check the files in it."
        elif obstacle:
            looked = (
                f"looked in the cache {constants.HF_HUB_CACHE} only, since {obstacle}. Run once "
                f"with a network, copy the cache from a machine that has one (set HF_HOME to move "
                f"it), name a local file or folder, or build from scratch with pretrained=False."
            )
        else:
            looked = (
                f"looked in the cache {constants.HF_HUB_CACHE} and at {constants.ENDPOINT}, and "
                f"got: {reason}. Check the name, and `hf auth login` if the model is not public."
            )
        raise OSError(f"{name}: the model could not be loaded; {looked}") from error
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def url_access(name: str, url: str) -> Iterator[None]:
    """Load `url` inside through `torch.hub`: from its cache, or from the server if it answers.

    Args:
        name: of the model, for the error.
        url: of the weights.

    Raises:
        OSError: neither; says where it was looked for and what to do.
    """
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    obstacle = None if cached.is_file() else _obstacle(url)
    advice = (
        "Run once with a network, copy the file there (set TORCH_HOME to move the cache), name a "
        "local file, or build from scratch with pretrained=False."
    )
    if obstacle:
        raise OSError(
            f"{name}: the weights could not be loaded; looked for {cached}, and {obstacle}. "
            f"{advice}"
        )
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{name}: the weights could not be loaded; looked for {cached} and at {url}, and got: "
            f"{_reason(error)}. {advice}"
        ) from error


def _reason(error: OSError) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


def _obstacle(url: str | None = None) -> str | None:
    """Why the hub, or the server of `url`, cannot be asked; None if it can."""
    from huggingface_hub import constants

    url = url or constants.ENDPOINT
    # The environment too: the constant is read once, when the hub's client is imported.
    switch = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    if constants.HF_HUB_OFFLINE or switch.upper() in {"1", "ON", "YES", "TRUE"}:
        return "HF_HUB_OFFLINE is set"
    try:
        urlopen(Request(url, method="HEAD"), timeout=PATIENCE).close()
    except HTTPError:
        return None  # any answer will do
    except OSError as error:
        # The client may know certificates that we do not.
        if isinstance(error, URLError) and isinstance(error.reason, ssl.SSLError):
            return None
        return f"{url} does not answer ({error})"
    return None


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: what may have been meant."""
    names = list(known)
    # Compared in lower case too: vit-b-32 is meant to be ViT-B-32.
    lower = {n.lower(): n for n in reversed(names)}
    near = difflib.get_close_matches(name, names, 3, 0.4)
    near += [lower[n] for n in difflib.get_close_matches(name.lower(), lower, 3, 0.6)]
    unique = list(dict.fromkeys(near))[:3]
    return f" Did you mean {' or '.join(unique)}?" if unique else ""


def prune(model: nn.Module, run: Callable[[], Tensor]) -> Tensor:
    """Run `model` once and remove from it what the result does not depend on.

    Poolers and heads that were not called become `nn.Identity`. What was called in vain must
    stay in place and is frozen. So every trainable parameter
    that is left gets a gradient, as DDP demands.

    Args:
        model: set to the mode in which it should run.
        run: calls the model and returns the tensor that counts.

    Returns:
        What `run` returned, detached.
    """
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
