"""The LightningCLI: what is linked, what each run is given, and where its files go."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import vlm.datasets
import vlm.fusion
import vlm.heads
import vlm.image
import vlm.text
from vlm.adapters.hub import read_folder
from vlm.checkpoint.checkpoint import (
    Checkpoint,
    check_origin,
    load_weights,
    model_differences,
    read_checkpoint,
)
from vlm.checkpoint.sharing import is_shared
from vlm.cli.check import check_names
from vlm.cli.parser import ConciseParser
from vlm.cli.part_config import as_namespace, as_plain, reads_choices, takes, with_functions
from vlm.cli.swap_defaults import start_swaps_from_defaults
from vlm.core.errors import ConfigError
from vlm.data.datamodule import VQADataModule
from vlm.datasets.base import Dataset
from vlm.model import PARTS
from vlm.training.fault_tolerance.checkpoint_dir import BEST
from vlm.training.fault_tolerance.signals import handlers_kept, leave_at_signals
from vlm.training.fit import LINKED, train
from vlm.training.readable import READABLE
from vlm.training.resume_checks import lora_differences, refuse, refuse_two_beginnings
from vlm.training.run_dir import (
    RunOptions,
    checkpoint_in,
    choose_folder,
    new_folder,
    write_config,
)
from vlm.training.silence import silence
from vlm.training.task import VQATask
from vlm.training.trackers import with_defaults
from vlm.training.trainer import DEFAULTS, make_trainer

# jsonargparse finds the short names of classes that are imported.
_DATASETS = [getattr(vlm.datasets, name) for name in vlm.datasets.__all__]


def add_dataset(parser: LightningArgumentParser) -> None:
    """Add the group `dataset`, which becomes the first argument of the data module."""
    parser.add_subclass_arguments(
        Dataset, "dataset", required=True, help="the questions, with their vocabulary and metric"
    )
    parser.link_arguments("dataset", "data.dataset", apply_on="instantiate")


class VQACLI(LightningCLI):
    """`fit`, `validate`, `test` and `predict` of a `VQATask` on a `VQADataModule`."""

    def __init__(self, args: Sequence[str]) -> None:
        check_names(args[0], args[1:])
        self.checkpoint: Checkpoint | None = None
        self._command = shlex.join(["vlm", *args])
        start_swaps_from_defaults()
        silence()
        with handlers_kept():
            super().__init__(
                VQATask,
                VQADataModule,
                trainer_defaults=DEFAULTS,
                save_config_callback=None,  # `train` writes it into the run's folder
                parser_class=ConciseParser,
                # Our checkpoints carry their own configuration; see `before_instantiate_classes`.
                load_from_checkpoint_support=False,
                seed_everything_default=0,
                args=list(args),
            )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        # `RunReport` prints the table.
        return {name: skip | {"verbose"} for name, skip in LightningCLI.subcommands().items()}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(RunOptions, "run")
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
        for source, part, argument, value in (
            ("model.image_encoder", "fusion", "image_dim", lambda encoder: encoder.dim),
            ("model.text_encoder", "fusion", "text_dim", lambda encoder: encoder.dim),
            ("model.image_encoder", "head", "image_dim", lambda encoder: encoder.dim),
            ("model.text_encoder", "head", "text_dim", lambda encoder: encoder.dim),
            ("model.fusion", "head", "in_dim", lambda fusion: fusion.out_dim),
            ("data", "text_encoder", "words", self._words),
            ("data", "head", "answers", self._answers),
        ):
            target = f"model.{part}.init_args.{argument}"
            parser.link_arguments(source, target, compute_fn=value, apply_on="instantiate")
        parser.link_arguments(
            "data", "model.max_images", compute_fn=self._max_images, apply_on="instantiate"
        )
        add_dataset(parser)  # last, or the image encoder would be made before the text encoder

    def _words(self, data: VQADataModule) -> list[str]:
        if self.checkpoint:
            return self.checkpoint.words
        return data.words_with_choices if reads_choices(self._head()) else data.words

    def _answers(self, data: VQADataModule) -> list[str]:
        if self.checkpoint:
            return self.checkpoint.answers
        # The data set may well have no vocabulary, where the head needs none.
        return data.answers if takes(self._head(), "answers") else []

    def _max_images(self, data: VQADataModule) -> int:
        if self.checkpoint:
            return int(self.checkpoint.model["fusion"].get("max_images", 1))
        return data.max_images

    def _head(self) -> Any:
        return as_plain(self.config[self.subcommand].model.head)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        # The original warns whenever `args` are given; ours always are.
        self.config = parser.parse_args(args)

    def instantiate_classes(self) -> None:
        # A part's own check of its arguments: a page of traceback would add nothing. Errors of the
        # training itself keep theirs.
        try:
            super().instantiate_classes()
        except ValueError as error:
            reason: BaseException = error  # and what the parser's own errors were raised from
            while isinstance(reason.__cause__, (ValueError, OSError)):
                reason = reason.__cause__
            if isinstance(reason, READABLE):
                raise reason from error
            raise ConfigError(str(reason)) from error

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        if self.subcommand == "fit":
            leave_at_signals()
        config.model.seed = int(config.seed_everything)  # which `true` has drawn by now
        _refuse_linked(config.model)
        try:
            self._run = RunOptions(**vars(config.run))
        except ValueError as error:
            raise ConfigError(str(error)) from error
        path = config.get("ckpt_path")
        shared = self.subcommand != "fit" and is_shared(path or "")
        if self.subcommand == "fit":
            self.run_folder, path = choose_folder(self._run, self.plain_config, path)
        else:
            self.run_folder = new_folder(self._run, str(self.subcommand))
            path = checkpoint_in(path, BEST) if path and not shared else path
        config.ckpt_path = str(path) if path else None
        config.trainer.logger = with_defaults(config.trainer.logger, self._run, self.run_folder)
        if path:
            self.checkpoint = read_folder(path) if shared else read_checkpoint(path)
            if not shared:
                self._compare_models(self.checkpoint)
            # The checkpoint's parts: its tokenizer, and nothing that would be downloaded again.
            for part in PARTS:
                stored = with_functions(self.checkpoint.model[part], config.model[part])
                config.model[part] = as_namespace(stored)
                lora = self.checkpoint.model[part].get("lora")
                config.model.tuning[part].lora = Namespace(**lora) if lora else None
        elif self.subcommand != "fit":
            raise ConfigError(
                f"{self.subcommand}: got no --ckpt_path, so the model would be random. Name a run: "
                f"`vlm {self.subcommand} RUN`."
            )

    def _compare_models(self, checkpoint: Checkpoint) -> None:
        """Refuse a checkpoint of another model than the configuration asks for."""
        config, fits = self.config[self.subcommand].model, self.subcommand == "fit"
        asked = {part: as_plain(config[part]) for part in PARTS}
        check_origin(checkpoint, asked)
        tuning = as_plain(config.tuning)
        differences = model_differences(checkpoint.model, asked)
        differences += lora_differences(checkpoint, tuning, fits)
        refuse(checkpoint.path, differences, "model")
        if fits:
            refuse_two_beginnings(checkpoint, tuning)

    def plain_config(self) -> dict[str, Any]:
        """The configuration of the command, as plain data."""
        parser = self._parser(self.subcommand)
        config: dict[str, Any] = yaml.safe_load(
            parser.dump(self.config[self.subcommand], skip_none=False)
        )
        return config

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.config_init[self.subcommand]
        options = {**config.trainer, **kwargs}
        return make_trainer(self._run, self.run_folder, self.model, str(self.subcommand), **options)

    def _run_subcommand(self, subcommand: str) -> None:
        config = self.plain_config()
        if subcommand == "fit":
            self.run_folder, _ = train(
                self.trainer,
                self.model,
                self.datamodule,
                self._run,
                self.run_folder,
                config,
                self.checkpoint,
                self._command,
            )
            return
        if self.trainer.is_global_zero:  # or fail before the evaluation
            self.run_folder.mkdir(parents=True, exist_ok=True)
            write_config(self.run_folder, config)
        if self.checkpoint and is_shared(self.checkpoint.path):  # Lightning cannot read it
            source = str(self.checkpoint.path)
            load_weights(self.model.model, self.checkpoint.weights, source)
            self.model.about = self.checkpoint.about
            self.config_init[subcommand].ckpt_path = None
        super()._run_subcommand(subcommand)


def _refuse_linked(model: Namespace) -> None:
    for part, sources in LINKED.items():
        arguments = model[part].get("init_args") or {}
        for name, source in sources.items():
            if value := arguments.get(name):
                raise ConfigError(
                    f"model.{part}.{name}: got {value!r:.99}, but it comes from {source}; remove "
                    "this option."
                )


class Untrained(VQACLI):
    """Everything of a training but the training itself.

    Attributes:
        asked_logger: configuration of `trainer.logger` as given: `plain_config` has names and
            places of this run in it.
    """

    def before_instantiate_classes(self) -> None:
        self.asked_logger = self.plain_config()["trainer"]["logger"]
        super().before_instantiate_classes()

    def _run_subcommand(self, subcommand: str) -> None:
        pass
