"""The LightningCLI: what is linked, what each run is given, and where its files go."""

from __future__ import annotations

import inspect
import logging
import re
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

import vlm.data
import vlm.fusion
import vlm.heads
import vlm.image
import vlm.text  # noqa: F401  imported so that short class names are known
from vlm import __version__
from vlm.checkpoint import Checkpoint, CheckpointError, model_differences, read_checkpoint
from vlm.data.datamodule import VQADataModule
from vlm.data.questions import DataError
from vlm.image.transform import ImageError
from vlm.training.defaults import start_swaps_from_defaults
from vlm.training.explain_error import explain
from vlm.training.run_report import RunReport
from vlm.training.task import VQATask

MONITORED = "val_"
PARTS_OF_MODEL = ("image_encoder", "text_encoder", "fusion", "head")


@dataclass
class RunOptions:
    """Where a run's files go and how it ends.

    Args:
        folder: the run gets a folder of its own in here, named by name and time.
        name: of the runs of this configuration.
        monitor: the best checkpoint is the one with the lowest (a loss) or highest of this.
        test: after `fit`, test the best checkpoint, once.
    """

    folder: str = "runs"
    name: str = "vqa"
    monitor: str = "val_accuracy"
    test: bool = False


READABLE = (CheckpointError, DataError, ImageError)
"""Errors whose message says it all."""


class ConfigError(ValueError):
    """A configuration that cannot be used, in one line."""


class ConciseParser(LightningArgumentParser):
    """Says what is wrong in a line, instead of after a page of usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # `--trainer.max_epoch` must not pass for `--trainer.max_epochs` on the command line when
        # the same key is an error in a file.
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ConfigError(message) from ex


class VQACLI(LightningCLI):
    """`fit`, `validate`, `test` and `predict` of a `VQATask` on a `VQADataModule`."""

    def __init__(self, args: Sequence[str]) -> None:
        self.checkpoint: Checkpoint | None = None
        start_swaps_from_defaults()
        # Pictures in memory need no workers; evaluation needs none of fit's callbacks.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint.*")
        # Of Lightning's own calls of torch, and its advertisements: no user of ours can act on it.
        warnings.filterwarnings("ignore", ".*treespec, LeafSpec.*")
        logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_no_tips)
        super().__init__(
            VQATask,
            VQADataModule,
            subclass_mode_data=True,
            trainer_defaults={
                "use_distributed_sampler": False,  # ours already gives each process its share
                "num_sanity_val_steps": 0,
                "max_epochs": 10,
            },
            save_config_kwargs={"overwrite": True},
            parser_class=ConciseParser,
            # Our checkpoints carry their own configuration; see `before_instantiate_classes`.
            load_from_checkpoint_support=False,
            seed_everything_default=0,
            args=list(args),
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(RunOptions, "run")
        for part, width in (("image_encoder", "image_dim"), ("text_encoder", "text_dim")):
            parser.link_arguments(
                f"model.{part}",
                f"model.fusion.init_args.{width}",
                compute_fn=lambda encoder: encoder.dim,
                apply_on="instantiate",
            )
        parser.link_arguments(
            "model.fusion",
            "model.head.init_args.in_dim",
            compute_fn=lambda fusion: fusion.out_dim,
            apply_on="instantiate",
        )
        parser.link_arguments(
            "data",
            "model.text_encoder.init_args.words",
            compute_fn=lambda data: self.checkpoint.words if self.checkpoint else data.words,
            apply_on="instantiate",
        )
        parser.link_arguments(
            "data",
            "model.head.init_args.answers",
            compute_fn=lambda data: self.checkpoint.answers if self.checkpoint else data.answers,
            apply_on="instantiate",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        # The original warns whenever `args` are given; ours always are.
        self.config = parser.parse_args(args)

    def instantiate_classes(self) -> None:
        # A part's own check of its arguments: a page of traceback would add nothing. Errors of the
        # training itself keep theirs.
        try:
            super().instantiate_classes()
        except ValueError as error:
            root = _root(error)
            if isinstance(root, READABLE):
                raise root from error
            raise ConfigError(str(root)) from error

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        if path := config.get("ckpt_path"):
            self.checkpoint = read_checkpoint(path)
            asked = {part: _plain(config.model[part]) for part in PARTS_OF_MODEL}
            if differences := model_differences(self.checkpoint.model, asked):
                raise CheckpointError(
                    f"{path} holds another model than the configuration asks for:\n  "
                    + "\n  ".join(differences)
                    + "\nUse the run's own config.yaml."
                )
            # The checkpoint's parts: its tokenizer, and nothing that would be downloaded again.
            for part in PARTS_OF_MODEL:
                config.model[part] = _namespace(self.checkpoint.model[part])
        elif self.subcommand != "fit":
            raise ConfigError(
                f"{self.subcommand}: got no --ckpt_path, so the model would be random; give a "
                f"run's checkpoints/best.ckpt."
            )
        if not config.run.monitor.startswith(MONITORED):
            raise ConfigError(
                f"run.monitor: got {config.run.monitor!r}; wanted a figure of the validation part, "
                f"val_accuracy or val_loss."
            )
        self.run_folder = _new_folder(config.run, str(self.subcommand))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        run = self.config_init[self.subcommand].run
        config = self.config_init[self.subcommand].trainer
        extra: list[Callback] = [RunReport(self.run_folder)]
        if config.enable_progress_bar is not False:
            extra.append(TQDMProgressBar(refresh_rate=20))
        if self.subcommand == "fit" and config.enable_checkpointing is not False:
            extra.append(
                ModelCheckpoint(
                    dirpath=self.run_folder / "checkpoints",
                    filename="best",
                    monitor=run.monitor,
                    mode="min" if run.monitor.endswith("loss") else "max",
                    save_last=True,
                    enable_version_counter=False,
                )
            )
        self.trainer_defaults["callbacks"] = extra
        # Not part of the configuration that is saved, so that it can be used again for another run.
        kwargs["default_root_dir"] = str(self.run_folder)
        if config.logger in (None, True):
            place: dict[str, Any] = {"save_dir": self.run_folder, "name": "", "version": ""}
            kwargs["logger"] = [CSVLogger(**place), TensorBoardLogger(**place)]
        return super().instantiate_trainer(**kwargs)

    def after_instantiate_classes(self) -> None:
        if self.checkpoint and self.subcommand != "fit":
            self.model.about = self.checkpoint.about
        else:
            self.model.about = {
                "vocabulary": self._vocabulary(),
                "run": str(self.run_folder),
                "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "vlm": __version__,
                "torch": str(torch.__version__),
                "data": f"{type(self.datamodule).__module__}.{type(self.datamodule).__name__}",
            }
            if self.subcommand == "fit" and self.config_init.fit.run.test:
                # Known now, and not after the training that comes first.
                self.datamodule.check_answers("test")

    def _vocabulary(self) -> dict[str, Any] | None:
        """About the model's answers: the checkpoint's, where the model is from one."""
        if self.checkpoint:
            return self.checkpoint.about.get("vocabulary")
        return self.datamodule.describe_answers()

    def after_fit(self) -> None:
        if self.config_init[self.subcommand].run.test:
            self.trainer.test(
                self.model, datamodule=self.datamodule, ckpt_path="best", verbose=False
            )


def _no_tips(record: logging.LogRecord) -> bool:
    return "Tip:" not in record.getMessage()


def _new_folder(run: RunOptions, subcommand: str) -> Path:
    suffix = "" if subcommand == "fit" else f"-{subcommand}"
    folder = Path(run.folder) / run.name / (time.strftime("%Y%m%d-%H%M%S") + suffix)
    number = 1
    while folder.exists():
        number += 1
        folder = folder.with_name(f"{folder.name.split('.')[0]}.{number}")
    return folder


def _plain(value: Any) -> Any:
    return value.as_dict() if isinstance(value, Namespace) else value


def _namespace(config: Any) -> Any:
    """A part's stored configuration in the form that the parser gives."""
    if isinstance(config, dict) and "class_path" in config:
        arguments = {k: _namespace(v) for k, v in config.get("init_args", {}).items()}
        return Namespace(class_path=config["class_path"], init_args=Namespace(**arguments))
    return config


def run(arguments: Sequence[str]) -> None:
    """Run a training command.

    Mistakes of the user end in a short message, with exit code 2 for those of the configuration
    and 1 for those of the data and of checkpoints.
    """
    try:
        VQACLI(arguments)
    except ConfigError as error:
        files = re.findall(r"(?:^| )(?:-c|--config)[ =](\S+)", " ".join(arguments))
        where = f" ({', '.join(files)})" if files else ""
        print(f"vlm{where}: {explain(str(error), option_names())}", file=sys.stderr)
        sys.exit(2)
    except READABLE as error:
        print(f"vlm: {_without_traceback(str(error))}", file=sys.stderr)
        sys.exit(1)


def _without_traceback(message: str) -> str:
    """A loader worker's error arrives with its traceback, whose last line is the error itself."""
    if "Original Traceback" not in message:
        return message
    return message.strip().splitlines()[-1].partition(": ")[2]


def _root(error: BaseException) -> BaseException:
    """What the parser's own errors were raised from: the reason, without its surroundings."""
    while isinstance(error.__cause__, (ValueError, OSError)):
        error = error.__cause__
    return error


def option_names() -> list[str]:
    """The options of `fit`, for suggestions."""
    names = [
        "ckpt_path",
        "seed_everything",
        *(f"run.{name}" for name in RunOptions.__annotations__),
    ]
    names += [f"model.{name}" for name in inspect.signature(VQATask).parameters]
    names += [f"data.{name}" for name in inspect.signature(VQADataModule).parameters]
    return names + [f"trainer.{name}" for name in inspect.signature(Trainer).parameters]
