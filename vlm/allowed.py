"""What a stored configuration may name: checked as a whole, before anything of it is imported."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

HOMES = ("vlm.adapters", "vlm.fusion", "vlm.heads", "vlm.image", "vlm.text")
"""Where the classes of models live. Other modules of ours do more on import than define classes."""

FETCHING = {
    "attn_implementation": "code of the hub",
    "_attn_implementation": "code of the hub",
    "auto_map": "code of the hub",
    "cache_dir": "files of this machine",
    "checkpoint_path": "files of this machine",
    "hf_model_name": "a model of the hub",
    "pretrained_cfg": "files of this machine",
    "pretrained_cfg_overlay": "files of this machine",
    "trust_remote_code": "code of the hub",
    "use_kernels": "code of the hub",
}
"""Options of timm, transformers and open_clip that no part of ours stores, and what they load."""

DEEPEST = 64
"""Levels of lists and dicts inside each other; ours have about ten."""

_PACKAGE = Path(__file__).parent


def check_config(
    value: Any,
    keys: Collection[str],
    trust: bool | Collection[str] = False,
    place: str = "",
    depth: int = 0,
) -> None:
    """Refuse a stored configuration that names anything but parts of vlm and plain data.

    Args:
        value: the configuration, or a value inside it.
        keys: that may stand beside a `class_path`.
        trust: allow classes from outside vlm: all, or those of these packages.
        place: where the value stands, for the errors.
        depth: how deep.

    Raises:
        ValueError: a class of another origin or unknown keys beside it, an option that loads more
            than the file holds, or a value that is no plain data; says where it stands.
    """
    where = f"{place}: " if place else ""
    if depth > DEEPEST:
        raise ValueError(f"{where}more than {DEEPEST} levels deep; wanted a part's configuration.")
    if isinstance(value, dict):
        if "class_path" in value:
            _check_class(value, keys, trust, where)
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{where}got the key {key!r}; wanted texts.")
            if key in FETCHING and item is not None and trust is not True:
                raise ValueError(
                    f"{where}{key} would load {FETCHING[key]}; a stored model brings all it needs. "
                    f"Remove it, or say --trust (trust=True in Python) if you trust the origin of "
                    f"this file."
                )
            inner = key if not place else f"{place}.{key}"
            check_config(item, keys, trust, inner, depth + 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            # Lists of words are long and flat.
            if not isinstance(item, (str, int, float)):
                check_config(item, keys, trust, place, depth + 1)
    elif not (value is None or isinstance(value, (bool, int, float, str))):
        raise ValueError(f"{where}got {type(value).__name__}; wanted plain data.")


def _check_class(
    config: dict[str, Any], keys: Collection[str], trust: bool | Collection[str], where: str
) -> None:
    path = config["class_path"]
    if not isinstance(path, str):
        raise ValueError(f"{where}class_path: got {path!r}; wanted a class as text.")
    if unknown := sorted(map(str, config.keys() - set(keys))):
        raise ValueError(
            f"{where}{path}: got {', '.join(unknown)} beside it; this version of vlm knows "
            f"{', '.join(sorted(keys))}."
        )
    if not isinstance(config.get("init_args", {}), dict):
        raise ValueError(f"{where}{path}: init_args are no object of arguments by name.")
    if not isinstance(config.get("factory", False), bool):
        raise ValueError(f"{where}{path}: factory: got {config['factory']!r}; wanted true.")
    if is_ours(path) or (trust if isinstance(trust, bool) else path.partition(".")[0] in trust):
        return
    raise ValueError(
        f"{where}{path} is not a class of vlm's parts. Loading it runs its code: say --trust "
        f"(trust=True in Python) if you trust the origin of this file."
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
    if not all(folder.isidentifier() for folder in folders):
        return False
    place = _PACKAGE.joinpath(*folders[1:])
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()
