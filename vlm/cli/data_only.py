"""The data of a configuration, for commands that need no model."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vlm.cli.error_messages import explain
from vlm.cli.training_cli import ConciseParser, Untrained, add_dataset
from vlm.core.errors import ConfigError
from vlm.data.datamodule import VQADataModule


class DataOnly(Untrained):
    """Attributes:
    datamodule: data module of the configuration.
    """

    def _set_seed(self) -> None:
        pass

    def before_instantiate_classes(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        parser = ConciseParser()
        parser.add_class_arguments(VQADataModule, "data")
        add_dataset(parser)
        given = self.config.fit
        config = parser.parse_object({"dataset": given.dataset, "data": given.data})
        try:
            self.datamodule = parser.instantiate_classes(config).data
        except ValueError as error:
            raise ConfigError(str(error)) from error


@contextmanager
def config_checked(command: str, config: str) -> Iterator[None]:
    """Inside, a wrong configuration ends the process with 2, and one line."""
    try:
        yield
    except ConfigError as error:
        print(f"vlm {command} ({config}): {explain(str(error))}", file=sys.stderr)
        sys.exit(2)


def read_data(command: str, config: str | Path, options: Sequence[str]) -> DataOnly:
    """Build the data; a wrong configuration ends the process with 2."""
    with config_checked(command, str(config)):
        return DataOnly(["fit", "-c", str(config), *options])
