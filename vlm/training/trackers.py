"""Experiment trackers: Lightning's loggers, with our defaults, and what a run sends them."""

from __future__ import annotations

import csv
import inspect
from collections.abc import Iterable
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
from lightning.pytorch.loggers import (
    CometLogger,
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)

from vlm.core.errors import ConfigError
from vlm.datasets.several import shown
from vlm.evaluation.report import Report
from vlm.training.run_dir import RunOptions

SAMPLES = 20
"""Answered questions that a tracker gets, spread evenly over the split."""
_COLUMNS = ("id", "image", "question", "answers", "answer", "score")
_PACKAGES = {"MLFlowLogger": "mlflow", "WandbLogger": "wandb", "CometLogger": "comet_ml"}


def with_defaults(loggers: Any, run: RunOptions, folder: Path) -> Any:
    """The configuration of `trainer.logger` with our values where the user gave none.

    Projects and experiments are named as the run (`run.name`), and their runs as its folder. MLflow
    writes to a database in `run.folder`, unless it is given another place.

    Args:
        loggers: as the command line's parser gives it: one logger, a list, a truth value or None.
        run: options of the run.
        folder: of the run.

    Raises:
        ConfigError: a tracker whose package is not installed.
    """
    if isinstance(loggers, list):
        return [with_defaults(logger, run, folder) for logger in loggers]
    if isinstance(loggers, bool) or loggers is None:
        return loggers
    cls = resolve_name(loggers.class_path)
    package = _PACKAGES.get(cls.__name__)
    if package is not None and find_spec(package) is None:
        raise ConfigError(
            f"trainer.logger: got {cls.__name__}, and {package} is not installed; run `pip install "
            f"{package}`."
        )
    parameters = inspect.signature(cls).parameters
    defaults = _defaults(cls, run, folder)
    uri = "tracking_uri"
    if uri in defaults and loggers.init_args[uri] != parameters[uri].default:
        del defaults["artifact_location"]  # of a server, which has a place of its own
    for name, value in defaults.items():
        if name not in parameters:  # of those that it passes on
            loggers.dict_kwargs = {name: value} | (loggers.get("dict_kwargs") or {})
        elif loggers.init_args[name] == parameters[name].default:
            loggers.init_args[name] = value
    return loggers


def _defaults(cls: type, run: RunOptions, folder: Path) -> dict[str, Any]:
    name, place = folder.name, Path(run.folder).absolute()
    if issubclass(cls, MLFlowLogger):
        named = {"experiment_name": run.name, "run_name": name}
        if inspect.signature(cls).parameters["tracking_uri"].default is not None:
            return named  # MLFLOW_TRACKING_URI
        place.mkdir(parents=True, exist_ok=True)
        store = {"tracking_uri": f"sqlite:///{place}/mlflow.db"}
        return named | store | {"artifact_location": (place / "mlflow").as_uri()}
    if issubclass(cls, WandbLogger):
        return {"project": run.name, "name": name, "save_dir": str(folder)}
    if issubclass(cls, CometLogger):
        return {"project": run.name, "name": name}
    if issubclass(cls, (CSVLogger, TensorBoardLogger)):
        return {"name": "", "version": name}  # in the `save_dir` that they cannot do without
    return {}


def send_config(loggers: Iterable[Logger], config: dict[str, Any], continued: bool) -> None:
    """Give trackers a run's configuration; that of files is in its folder already.

    MLflow refuses to change that of a run, so one that a training continues under keeps its own.
    """
    for logger in loggers:
        if isinstance(logger, (CSVLogger, TensorBoardLogger)):
            continue
        if continued and isinstance(logger, MLFlowLogger):
            run = logger.experiment.get_run(logger.run_id)
            if run.data.params:
                continue
        logger.log_hyperparams(config)


def send_report(loggers: Iterable[Logger], report: Report) -> None:
    """Give trackers a report as a text, and some answers as a table.

    MLflow, W&B, Comet and TensorBoard get them; Lightning's other loggers have no way to take them.
    """
    text, rows = str(report), _samples(report)
    answers = StringIO()
    csv.writer(answers).writerows([_COLUMNS, *rows])
    names = f"{report.split}_report", f"{report.split}_answers"
    for logger in loggers:
        if isinstance(logger, MLFlowLogger):
            logger.experiment.log_text(logger.run_id, text, f"{names[0]}.txt")
            logger.experiment.log_text(logger.run_id, answers.getvalue(), f"{names[1]}.csv")
        elif isinstance(logger, WandbLogger):
            logger.log_text(names[0], ["report"], [[text]])
            logger.log_text(names[1], list(_COLUMNS), [list(map(str, row)) for row in rows])
        elif isinstance(logger, CometLogger):
            logger.experiment.log_asset_data(text, name=f"{names[0]}.txt")
            logger.experiment.log_table(f"{names[1]}.csv", rows, list(_COLUMNS))
        elif isinstance(logger, TensorBoardLogger):
            for name, content in zip(names, (text, answers.getvalue()), strict=True):
                indented = "".join(f"    {line}\n" for line in content.splitlines())  # as it is
                logger.experiment.add_text(name, indented)


def _samples(report: Report) -> list[tuple[Any, ...]]:
    results = report.results
    count = min(SAMPLES, len(results.scores))
    chosen = np.linspace(0, len(results.scores) - 1, count).astype(int)
    table = results.table.take(chosen)
    columns = [table[name].to_pylist() for name in _COLUMNS[:4]]
    columns[1] = list(map(shown, columns[1]))
    columns[3] = [" | ".join(given) for given in columns[3]]
    said = [[values[row] for row in chosen] for values in (results.answers, results.scores)]
    return list(zip(*columns, *said, strict=True))
