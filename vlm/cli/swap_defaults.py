"""A swapped part starts from its own defaults."""

from __future__ import annotations

from typing import Any

from jsonargparse import Namespace

from vlm.core.compat import class_swaps

_typehints = class_swaps()
_discard_nested = _typehints.ActionTypeHint.discard_init_args_on_class_path_change


def start_swaps_from_defaults() -> None:
    """Drop all `init_args` of a class when a later setting names another class.

    jsonargparse keeps those that the new class happens to share: after a fusion with
    `dropout: 0.3` in the configuration, `--model.fusion=Other` would silently train with that
    dropout, and a comparison would be unfair. It has no setting for this, so the functions that
    decide are replaced; `tests/training/test_cli.py` pins what we rely on.
    """
    _typehints.discard_init_args_on_class_path_change = _discard_all
    _typehints.ActionTypeHint.discard_init_args_on_class_path_change = staticmethod(_discard_below)


def _discard_all(parser_or_action: Any, previous: Any, value: Any) -> None:
    if previous and "init_args" in previous and previous["class_path"] != value["class_path"]:
        kept = _typehints.subclass_spec_as_namespace(previous).init_args
        for key in list(kept.keys()):
            del kept[key]


def _discard_below(parser_or_action: Any, previous: Namespace, value: Namespace | None) -> None:
    # A class without any argument set yet has nothing below it; the original would fail on it.
    if value is not None:
        _discard_nested(parser_or_action, previous, value)
