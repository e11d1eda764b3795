"""What every swappable part has in common: it remembers the arguments it was made with.

A checkpoint stores `part.config`, plain data in the `class_path` / `init_args` form of the
configuration files, and `build` makes it again from that: offline, and without the training
code. Values are plain data, further parts, or factories of parts (a class or a
`functools.partial` of one, as a merge inside a fusion is given).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from functools import cache, partial
from itertools import chain
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from torch import nn

from vlm.core.lora import LoRA, add_lora
from vlm.core.safe_config import Check, check_config, is_ours
from vlm.core.validation import did_you_mean, nearest, shorten

KEYS = ("class_path", "init_args", "factory", "lora", "max_images")
"""What a stored configuration of a part may have."""


class Configured:
    """An object that remembers its constructor's arguments.

    Attributes:
        arguments: the constructor's arguments by name. A class whose constructor would fetch
            something (pretrained weights) edits them, so that it is rebuilt without doing so.
        made_as: its class.
        stored: checks (`vlm.core.safe_config`) of the stored arguments that reach another library
            or a file; an argument left out counts as None.
    """

    arguments: dict[str, Any]
    made_as: type
    stored: ClassVar[Mapping[str, Check]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # `__new__` below hides the signature of `__init__` from `help` and the command line.
        signature = inspect.signature(cls.__init__)
        own = signature.replace(parameters=list(signature.parameters.values())[1:])  # but `self`
        cls.__signature__ = own  # type: ignore[attr-defined]  # `inspect` reads it

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        made = super().__new__(cls)
        # `bind_partial`: copies and unpickled objects come through here with no arguments.
        bound = inspect.signature(cls).bind_partial(*args, **kwargs)
        bound.apply_defaults()  # stored too, so that a default may change without harm
        _check_factories(cls, bound.arguments)
        _check_options(cls, bound.arguments)
        object.__setattr__(made, "arguments", _copied(_by_name(bound)))
        # FSDP2 puts a class of its own in the place of a module's.
        object.__setattr__(made, "made_as", cls)
        return made

    def __repr__(self) -> str:
        known = inspect.signature(type(self)).parameters
        given = (  # compared as texts, since arrays have no one truth value
            f"{name}={shorten(value, 200)}"
            for name, value in self.arguments.items()
            if name in known and repr(value) != repr(known[name].default)
        )
        return f"{type(self).__name__}({', '.join(given)})"

    @property
    def config(self) -> dict[str, Any]:
        """Plain data from which `build` makes this again, without its weights."""
        return _describe(self)


class Part(Configured, nn.Module):
    """Base of image encoders, text encoders, merges, fusions and heads.

    Attributes:
        lora: the corrections of its layers that are trained in its place
            (`vlm.core.lora.add_lora`).
    """

    lora: LoRA | None = None
    __repr__ = nn.Module.__repr__

    def layer_names(self) -> list[list[str]]:
        """Names of its parameters, layer by layer from the input to the output; unless
        a class says otherwise, one layer with all of them."""
        names = [name for name, _ in self.named_parameters()]
        return [names] if names else []

    def train_new(self) -> None:
        """Let gradients reach what is trained even in a frozen part, since no weights come with it;
        unless a class says otherwise, nothing."""


def _check_factories(cls: type, arguments: Mapping[str, Any]) -> None:
    """Refuse a built part, or what cannot build one, where the class builds the part itself."""
    for name in _factories(cls) & arguments.keys():
        given = arguments[name]
        for value in given.values() if isinstance(given, Mapping) else [given]:
            if value is not None and (isinstance(value, Configured) or not callable(value)):
                got = type(value).__name__ if isinstance(value, Configured) else repr(value)
                raise TypeError(
                    f"{cls.__name__}: {name}: got {got}{', already built' * callable(value)}; "
                    f"expected a class, or functools.partial of one with its other arguments: "
                    f"{cls.__name__} sets the widths."
                )


def _check_options(cls: type, arguments: Mapping[str, Any]) -> None:
    """Refuse a value that is not among the few of the argument's type, a `Literal`."""
    for name, known in _options(cls).items():
        if name in arguments and arguments[name] not in known:
            few = ", ".join(map(str, known))
            raise ValueError(f"{name}: got {arguments[name]!r:.80}; expected one of {few}.")


@cache
def _hints(cls: type) -> dict[str, Any]:
    try:
        return get_type_hints(cls.__init__)  # type: ignore[misc]  # of this class
    except NameError:  # types that only a type checker imports
        return {}


@cache
def _options(cls: type) -> dict[str, tuple[Any, ...]]:
    """The values of each argument whose type is a `Literal`, or a `Literal` and None."""
    options = {}
    for name, hint in _hints(cls).items():
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if all(get_origin(kind) is Literal or kind is NoneType for kind in kinds):
            values = (get_args(kind) or (None,) for kind in kinds)
            options[name] = tuple(chain.from_iterable(values))
    return {name: known for name, known in options.items() if known != (None,)}


@cache
def _factories(cls: type) -> frozenset[str]:
    """The arguments of a constructor that build parts, by their types."""
    return frozenset(name for name, hint in _hints(cls).items() if _makes_parts(hint))


def _makes_parts(hint: Any) -> bool:
    """Whether a type is, or has inside it, a callable that returns a part."""
    if get_origin(hint) is Callable:
        made = get_args(hint)[-1]
        return isinstance(made, type) and issubclass(made, Configured)
    return any(map(_makes_parts, get_args(hint)))


def _by_name(bound: inspect.BoundArguments) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            if value:
                raise ValueError(
                    f"*{name}: got {value!r}; a part can only be rebuilt from arguments with names."
                )
        elif kind is inspect.Parameter.VAR_KEYWORD:
            arguments |= value
        else:
            arguments[name] = value
    return arguments


def _copied(value: Any) -> Any:
    """Lists and dicts of one's own: the caller may change those that were given."""
    if type(value) is dict:
        return {name: _copied(item) for name, item in value.items()}
    return [_copied(item) for item in value] if type(value) is list else value


def _describe(value: Any) -> Any:
    if isinstance(value, Configured):
        arguments = {name: _describe(item) for name, item in value.arguments.items()}
        config: dict[str, Any] = {"class_path": _path(value.made_as), "init_args": arguments}
        if (lora := getattr(value, "lora", None)) is not None:
            config["lora"] = asdict(lora)
        if (most := getattr(value, "max_images", 1)) > 1:
            config["max_images"] = most
        return config
    if isinstance(value, type):
        return {"class_path": _path(value), "factory": True}
    if isinstance(value, partial):
        cls = factory_class(value)
        arguments = {name: _describe(item) for name, item in value.keywords.items()}
        return {"class_path": _path(cls), "init_args": arguments, "factory": True}
    if isinstance(value, dict):
        return {name: _describe(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_describe(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(
        f"A part was made with {value!r}, which a checkpoint cannot store: expected numbers, "
        f"strings, lists, dicts, parts, or a class (or functools.partial of one) as a factory."
    )


def factory_class(factory: Any) -> type:
    """The class that a factory makes an object of.

    Raises:
        ValueError: a factory that is no class and no partial of one with arguments by name.
    """
    if isinstance(factory, type):
        return factory
    if isinstance(factory, partial):
        # The command line wraps the class in helper functions and passes it last.
        *helpers, cls = factory.func, *factory.args
        if isinstance(cls, type) and all(callable(helper) for helper in helpers):
            return cls
    raise ValueError(
        f"{factory}: give a class, or functools.partial of one with its arguments by name, not by "
        f"position."
    )


def _path(cls: Any) -> str:
    module = cls.__module__
    # `vlm.fusion.Product` and not the file it happens to live in: files may be reorganised.
    while module.startswith("vlm.") and (public := module.rpartition(".")[0]) != "vlm":
        if getattr(importlib.import_module(public), cls.__name__, None) is not cls:
            break
        module = public
    return f"{module}.{cls.__qualname__}"


def check_parts(config: Any, trust: bool | Collection[str] = False) -> None:
    """Refuse a stored configuration of more than parts of vlm, before anything is built.

    Args:
        config: as for `build`, or several by name.
        trust: allow classes from outside vlm: all, with any arguments, or those of these packages.

    Raises:
        ValueError: as `build` does; says where.
    """
    # The whole first: nothing is imported if one class is foreign.
    check_config(config, KEYS, trust)
    if trust is not True:
        _check_arguments(config, "")


def _check_arguments(value: Any, place: str) -> None:
    if isinstance(value, dict):
        if "class_path" in value and is_ours(value["class_path"]):
            cls, arguments = _import(value["class_path"]), value.get("init_args", {})
            where = f"{place}: " if place else ""
            try:
                inspect.signature(cls).bind_partial(**arguments)
            except TypeError as error:
                raise ValueError(f"{where}{_unfit(value, error)}") from error
            for name, check in cls.stored.items():
                try:
                    check(arguments.get(name))
                except ValueError as error:
                    raise ValueError(f"{where}{cls.__name__}.{name}: {error}") from error
        for name, item in value.items():
            if name != "class_path":
                _check_arguments(item, f"{place}.{name}".strip("."))
    elif isinstance(value, (list, tuple)):
        for item in value:
            if isinstance(item, (dict, list, tuple)):
                _check_arguments(item, place)


def _unfit(config: dict[str, Any], error: TypeError) -> str:
    return (
        f"{config['class_path']}: its stored arguments {sorted(config.get('init_args', {}))!s:.300}"
        f" do not fit this version of the class ({error})."
    )


def build(config: dict[str, Any], trust: bool = False) -> Any:
    """Make an object from its `config`.

    Args:
        config: `class_path`, `init_args`, for a factory `factory: true`, and `lora` and
            `max_images` if it has them.
        trust: also import classes from outside `vlm`. A configuration that names a class runs
            that class's code: say True only for files of your own.

    Raises:
        ValueError: a foreign class without `trust`, an unknown class, or arguments that do not fit
            or may load more than the file holds.
    """
    check_parts(config, trust)
    if not isinstance(config, dict) or "class_path" not in config:
        raise ValueError(f"got {str(config)[:60]!r}; expected a part's class_path and init_args.")
    return _rebuild(config)


def _rebuild(value: Any) -> Any:
    if isinstance(value, list):
        return [_rebuild(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "class_path" not in value:
        return {name: _rebuild(item) for name, item in value.items()}
    cls = _import(value["class_path"])
    arguments = {k: _rebuild(item) for k, item in value.get("init_args", {}).items()}
    if value.get("factory"):
        return partial(cls, **arguments) if arguments else cls
    try:
        made = cls(**arguments)
    except TypeError as error:
        raise ValueError(_unfit(value, error)) from error
    if "max_images" in value:
        if not hasattr(made, "take_images"):
            raise ValueError(f"{value['class_path']}: got max_images, which only fusions have.")
        made.take_images(value["max_images"])
    if "lora" in value:
        add_lora(made, LoRA.from_config(value["lora"]))
    return made


def _import(path: str) -> Any:
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except (ModuleNotFoundError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be imported ({error}). Install its package, or add the folder of its "
            f"file to PYTHONPATH."
        ) from error
    cls = getattr(module, name, None)
    if not (isinstance(cls, type) and issubclass(cls, Configured)):
        names = [n for n in dir(module) if isinstance(getattr(module, n), type)]
        near = nearest(name, names)
        hint = did_you_mean(near and f"{module_name}.{near}")
        raise ValueError(f"{path} is not a part of vlm.{hint}")
    return cls
