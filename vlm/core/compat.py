"""Every reach into the private parts of another library, with a check that fails loudly.

A private name may go with any release, and an assignment to a name that is gone changes nothing,
silently. So each reach is a function here that looks for what it needs first, and upper bounds in
`pyproject.toml` keep out the releases that were never tried. This module itself imports no library.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Collection, Mapping
from functools import cache, wraps
from operator import attrgetter
from pkgutil import resolve_name
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

Found = TypeVar("Found")

SUPPORTED = {
    "datasets": ">=4.1,<6",
    "gradio": ">=6.31,<7",
    "huggingface_hub": ">=1.33,<3",
    "jsonargparse": ">=4.53,<4.54",
    "lightning": ">=2.6.6,<2.7",
    "starlette": ">=1.0,<2",
    "torch": ">=2.14,<3",
    "torchvision": ">=0.29,<0.30",
}
"""The versions of each library whose private parts are known, as in `pyproject.toml`."""
CHECKS: dict[str, Callable[..., Any]] = {}
"""Every reach by its name; each raises `CompatibilityError` if its library has changed."""


class CompatibilityError(ImportError):
    """Another library no longer has a private part that vlm needs.

    The message names the library, what is gone, the version found and the supported ones.
    """


def reaches_into(library: str) -> Callable[[Callable[..., Found]], Callable[..., Found]]:
    """Make a function a check in `CHECKS`, whose failures become a `CompatibilityError`.

    It runs without arguments too.
    """

    def decorate(find: Callable[..., Found]) -> Callable[..., Found]:
        @wraps(find)
        def found(*args: Any) -> Found:
            try:
                return find(*args)
            except ModuleNotFoundError as error:
                if (error.name or "").partition(".")[0] == library:
                    try:
                        importlib.import_module(library)
                    except ModuleNotFoundError:
                        raise error from None  # an extra that is not installed
                raise _changed(library, error) from error
            except (ImportError, AttributeError, TypeError) as error:
                raise _changed(library, error) from error

        CHECKS[find.__name__] = found
        return found

    return decorate


def _changed(library: str, error: Exception) -> CompatibilityError:
    version = importlib.metadata.version(library)
    return CompatibilityError(
        f"{library}: got version {version}, which has changed a private part ({error}); expected "
        f"{SUPPORTED[library]}. Install one of these versions, or a newer vlm."
    )


def _private(place: str, *attributes: str) -> Callable[[], Any]:
    """A check that finds one private part ("package.module", or "package.module:name"), and looks
    for the attributes, whose names may have dots, that are needed there."""

    def find() -> Any:
        found = resolve_name(place)
        if attributes:
            attrgetter(*attributes)(found)
        return found

    find.__name__ = place
    return reaches_into(place.replace(":", ".").partition(".")[0])(find)


# torch

trees = _private(
    "torch.utils._pytree",
    *("tree_flatten", "tree_leaves", "tree_map", "tree_map_only", "tree_unflatten"),
)
"""torch's functions on nested containers of tensors."""
pickled_names = _private("torch._weights_only_unpickler:get_globals_in_pkl")
"""torch's function that lists the names in a pickle without running it."""
dispatch_mode = _private(
    "torch.utils._python_dispatch:TorchDispatchMode", "_should_skip_dynamo", "__torch_dispatch__"
)
"""torch's base class of what sees every operation."""
batch_norm = _private("torch.nn.modules.batchnorm:_BatchNorm")
"""The base class of torch's batch normalisations."""


def __getattr__(name: str) -> Any:
    """`tree_map` and its like as names of this module."""
    if name.startswith("tree_"):
        return getattr(trees(), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@reaches_into("torch")
def _versions_of_modules() -> None:
    from torch import nn

    _ = nn.Module().state_dict()._metadata  # type: ignore[attr-defined]  # draws no weights


def copy_module_versions(state: Mapping[str, Any], into: Any) -> None:
    """Give a state dict the versions of modules that another has beside its tensors."""
    _versions_of_modules()
    into._metadata = state._metadata  # type: ignore[attr-defined]  # no type has it


# Hugging Face

datasets_config = _private("datasets:config", "HF_HUB_OFFLINE", "HF_DATASETS_CACHE")
"""The settings of `datasets`, of which `HF_HUB_OFFLINE` may be assigned."""


@reaches_into("huggingface_hub")
def hub_constants() -> Any:
    """The hub client's settings, of which `HF_HUB_OFFLINE` may be assigned."""
    from huggingface_hub import constants

    _ = constants.HF_HUB_OFFLINE, constants.HF_HUB_CACHE, constants.ENDPOINT
    if "HF_HUB_OFFLINE" not in constants.is_offline_mode.__code__.co_names:
        raise AttributeError("is_offline_mode does not read HF_HUB_OFFLINE")
    return constants


# jsonargparse

class_swaps = _private(
    "jsonargparse._typehints",
    "discard_init_args_on_class_path_change",
    "ActionTypeHint.discard_init_args_on_class_path_change",
    "subclass_spec_as_namespace",
)
"""The module of jsonargparse that decides which arguments a swapped class keeps."""


@reaches_into("jsonargparse")
def try_integers_first(parser: Any = None) -> None:
    """Let the options of a parser that take `int` or `float` try `int` first.

    `typing` takes `Optional[Union[int, float]]` for the equal `Optional[Union[float, int]]` of any
    library that was imported earlier, and jsonargparse tries the types in their order. So
    `--trainer.limit_val_batches=1` could mean 1.0, all batches.
    """
    checked = parser is None
    if checked:
        from jsonargparse import ArgumentParser

        parser = ArgumentParser()
        parser.add_argument("--number", type=float | int)
    for action in parser._actions:
        types = get_args(hint := getattr(action, "_typehint", None))
        if get_origin(hint) in (Union, UnionType) and {int, float} <= set(types):
            rest = [kind for kind in types if kind is not int]
            rest.insert(rest.index(float), int)
            action._typehint = Union[tuple(rest)]  # noqa: UP007  `|` takes no unresolved name
    if checked and isinstance(parser.parse_args(["--number=1"]).number, float):
        raise AttributeError("an option does not read its types from `_typehint`")


@reaches_into("torch")
def is_view(operation: Any = None) -> bool:
    """Whether an operation of ATen gives views of its arguments, or changes them in place."""
    if operation is None:
        import torch

        operation = torch.ops.aten.add.Tensor
    return any(result.alias_info for result in operation._schema.returns)


# Lightning

_signal_connector = _private(
    "lightning.pytorch.trainer.connectors.signal_connector:_SignalConnector",
    "register_signal_handlers",
)
_script_launcher = _private("lightning.pytorch.strategies.launchers:_SubprocessScriptLauncher")
forking_launcher = _private("lightning.pytorch.strategies.launchers:_MultiProcessingLauncher")
"""The launcher that forks or spawns its processes."""


def drop_signal_handlers(trainer: Any) -> None:
    """Disable Lightning's signal handlers, which exit with code 0 and save nothing."""
    _signal_connector()
    trainer._signal_connector.register_signal_handlers = lambda: None


def spare_this_process(trainer: Any) -> None:
    """Stop Lightning from killing this process when a program that it started ends with an error
    code."""
    if isinstance(trainer.strategy.launcher, _script_launcher()):
        trainer.strategy.launcher.procs.clear()


@reaches_into("lightning")
def averaging_settings(callback: Any = None) -> dict[str, Any]:
    """What a `WeightAveraging` was made with, by name, as far as it keeps that in private."""
    from lightning.pytorch.callbacks import WeightAveraging

    callback = callback or WeightAveraging()
    return {"use_buffers": callback._use_buffers, **callback._kwargs}


@reaches_into("lightning")
@cache
def _sharded_checkpoints() -> None:
    from lightning.pytorch.strategies import ModelParallelStrategy

    _ = ModelParallelStrategy()._save_distributed_checkpoint


def saves_pieces(strategy: Any) -> bool:
    """Whether a `ModelParallelStrategy` writes a checkpoint in pieces."""
    _sharded_checkpoints()
    return bool(strategy._save_distributed_checkpoint)


# torchvision


@reaches_into("torchvision")
def _operations(policy: Any = None) -> dict[str, Any]:
    if policy is None:
        from torchvision.transforms.v2 import TrivialAugmentWide

        policy = TrivialAugmentWide
    found: dict[str, Any] = policy._AUGMENTATION_SPACE
    if "_AUGMENTATION_SPACE" not in policy.forward.__code__.co_names:
        raise AttributeError("forward does not read _AUGMENTATION_SPACE")
    return found


def leave_operations_out(policy: Any, names: Collection[str]) -> None:
    """Let an automatic augmentation of torchvision draw none of the operations with these names."""
    operations = _operations(policy)
    policy._AUGMENTATION_SPACE = {k: v for k, v in operations.items() if k not in names}


# Gradio and its server


@reaches_into("gradio")
def _session_limits(page: Any = None) -> Any:
    if page is None:
        import gradio

        page = gradio.Blocks()
    queue = page._queue
    _ = page.state_holder.capacity, queue.pending_messages_per_session.max_size
    _ = queue.sleep_when_free, queue.progress_update_sleep_when_free
    return queue.pending_messages_per_session


def limit_sessions(page: Any, sessions: int) -> None:
    """Limit the sessions whose last values and unfetched results Gradio keeps."""
    page.state_holder.capacity = _session_limits(page).max_size = sessions


def look_less_often(page: Any, seconds: float) -> None:
    """Let Gradio look for work once in this many seconds. By default an idle page looks 1,000 times
    a second, which was measured to take 6 % of a core."""
    _session_limits(page)
    page._queue.sleep_when_free = page._queue.progress_update_sleep_when_free = seconds


_spooled_forms = _private("starlette.formparsers:MultiPartParser", "spool_max_size")


def keep_in_memory(parser: Any, most: int) -> None:
    """Let starlette's parser of forms write no temporary file below `most` bytes."""
    _spooled_forms()
    parser.spool_max_size = most
