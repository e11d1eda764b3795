"""The parser of the training commands."""

from __future__ import annotations

import re
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from vlm.core.compat import try_integers_first
from vlm.core.errors import ConfigError
from vlm.core.validation import did_you_mean, nearest
from vlm.training.fit import LINKED


class ConciseParser(LightningArgumentParser):
    """Says what is wrong in a line, instead of after a page of usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # `--trainer.max_epoch` must not pass for `--trainer.max_epochs` on the command line when
        # the same key is an error in a file.
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def add_class_arguments(
        self, theclass: type, nested_key: str | None = None, *args: Any, **kwargs: Any
    ) -> list[str]:
        linked = LINKED.get((nested_key or "").removeprefix("model."))
        if linked:  # only the help of a part adds one under this key
            kwargs["skip"] = {*kwargs.get("skip", ()), *linked}
        added = super().add_class_arguments(theclass, nested_key, *args, **kwargs)
        try_integers_first(self)
        return added

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().parse_args(*args, **kwargs)
        except ConfigError:
            raise
        except Exception as error:  # of a file that is no text, or a value nobody thought of
            reason = (str(error).splitlines() or [""])[0]
            raise ConfigError(
                f"the configuration cannot be read ({type(error).__name__}: {reason:.300})"
            ) from error

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        # A part has a parser of its own, so these are the options of its class and no others.
        found = re.search(r"^(?:Option '|unrecognized arguments: --)([\w.]+)", message)
        if found and (near := nearest(found[1], self._own_options())):
            message += f".{did_you_mean(near)}"
        elif found and message.startswith("Option"):
            message += f"; expected one of {', '.join(self._own_names())}"
        raise ConfigError(_without_false_loop(message, ex)) from ex

    def _own_options(self) -> list[str]:
        names = self._own_names()
        return names + [f"init_args.{name}" for name in names]

    def _own_names(self) -> list[str]:
        return [action.dest for action in self._actions if not action.dest.endswith("help")]


def _without_false_loop(message: str, error: BaseException | None) -> str:
    """The mistake in a part's file, in the place of the loop that jsonargparse reports.

    Where a file does not fit its class it is read once more while it still counts as being read,
    and that second error hides the first.
    """
    while error is not None:
        loop = re.fullmatch(r"Config file loop detected: .* -> (.*)", str(error))
        if loop and error.__context__ is not None:
            return message.replace(loop[0], f"{loop[1]}: {error.__context__}")
        error = error.__cause__
    return message
