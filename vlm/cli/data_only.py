"""The data of a configuration, for commands that need no model."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vlm.cli.error_messages import explain
from vlm.cli.training_cli import VQACLI, ConciseParser, add_dataset
from vlm.core.errors import ConfigError
from vlm.data.datamodule import VQADataModule


class DataOnly(VQACLI):
    """Attributes:
    datamodule: of the configuration.
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

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def read_data(command: str, config: str, options: Sequence[str]) -> DataOnly:
    """Build the data; a wrong configuration ends the process with 2.

    Args:
        command: named in the error.
        config: a configuration of `vlm fit`.
        options: further options of `vlm fit`.
    """
    try:
        return DataOnly(["fit", "-c", config, *options])
    except ConfigError as error:
        message = explain(str(error))
        print(f"{command} ({config}): {message}", file=sys.stderr)
        sys.exit(2)
