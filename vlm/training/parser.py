"""The parser of the training commands."""

from __future__ import annotations

from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser


class ConfigError(ValueError):
    """A configuration that cannot be used, in one line."""


class ConciseParser(LightningArgumentParser):
    """Says what is wrong in a line, instead of after a page of usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # `--trainer.max_epoch` must not pass for `--trainer.max_epochs` on the command line when
        # the same key is an error in a file.
        super().__init__(*args, allow_abbrev=False, **kwargs)

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
        raise ConfigError(message) from ex
