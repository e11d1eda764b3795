"""Mistakes in the trainer's options, which Lightning raises with a page of traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from vlm.training.explain_error import closest, did_you_mean
from vlm.training.parser import ConfigError


@contextmanager
def trainer_options(options: Any) -> Iterator[None]:
    """While a trainer is made, what is wrong with its options is told in one line.

    Args:
        options: of the trainer; those that have names are checked here, where the nearest is known.

    Raises:
        ConfigError: an option that Lightning does not know, or refuses.
    """
    strategies, accelerators = StrategyRegistry, AcceleratorRegistry
    _check_name("strategy", options.strategy, ["auto", *strategies.available_strategies()])
    known = ["auto", "gpu", *accelerators.available_accelerators()]
    _check_name("accelerator", options.accelerator, known)
    if options.accumulate_grad_batches < 1:
        raise ConfigError(
            f"trainer.accumulate_grad_batches: got {options.accumulate_grad_batches}; wanted a "
            f"positive integer."
        )
    try:
        yield
    except MisconfigurationException as error:
        raise ConfigError(f"trainer: {error}") from error


def _check_name(option: str, asked: Any, known: list[str]) -> None:
    if isinstance(asked, str) and asked.lower() not in known:
        near = did_you_mean(closest(asked, known))
        names = f"Lightning's names{near}" if near else f"{', '.join(known)}."
        raise ConfigError(f"trainer.{option}: got {asked!r}; wanted one of {names}")
