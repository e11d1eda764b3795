"""The LightningCLI: what is linked, what each run is given, and where its files go."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

import vlm.datasets
import vlm.fusion
import vlm.heads
import vlm.image
import vlm.text
from vlm import __version__
from vlm.checkpoint.checkpoint import (
    Checkpoint,
    CheckpointError,
    check_origin,
    load_weights,
    model_differences,
    packages_of,
    read_checkpoint,
)
from vlm.checkpoint.sharing import is_shared, read_shared
from vlm.cli.check import check_names
from vlm.cli.parser import ConciseParser
from vlm.cli.part_config import as_namespace, as_plain, reads_choices, takes, with_functions
from vlm.cli.silence import silence
from vlm.cli.swap_defaults import start_swaps_from_defaults
from vlm.core.compat import drop_signal_handlers
from vlm.core.errors import ConfigError
from vlm.core.part import check_parts
from vlm.data.compatibility import check_fits
from vlm.data.datamodule import VQADataModule
from vlm.model import PARTS
from vlm.training.distributed.strategy import (
    as_list,
    check_processes,
    check_strategy,
    half_precision,
)
from vlm.training.fault_tolerance.checkpoint_dir import BEST, LAST
from vlm.training.fault_tolerance.checkpoint_io import WholeFiles
from vlm.training.fault_tolerance.checkpointing import Guard
from vlm.training.fault_tolerance.signals import handlers_kept, leave_at_signals
from vlm.training.fault_tolerance.watchdog import Watchdog
from vlm.training.finetuning.plan import check_plan
from vlm.training.readable import READABLE, root
from vlm.training.resume_checks import lora_differences, refuse_two_beginnings
from vlm.training.run_dir import (
    CHECKPOINTS,
    RunOptions,
    continue_metrics,
    fact_differences,
    facts,
    folder_of,
    folder_of_checkpoint,
    last_checkpoint,
    new_folder,
)
from vlm.training.run_lock import training_in
from vlm.training.run_report import RunReport
from vlm.training.task import VQATask
from vlm.training.trainer_options import (
    check_callbacks,
    check_options,
    check_test_limit,
    trainer_options,
)

# jsonargparse finds the short names of classes that are imported.
_DATASETS = [getattr(vlm.datasets, name) for name in vlm.datasets.__all__]


class VQACLI(LightningCLI):
    """`fit`, `validate`, `test` and `predict` of a `VQATask` on a `VQADataModule`."""

    def __init__(self, args: Sequence[str]) -> None:
        check_names(args[0], args[1:])
        self.checkpoint: Checkpoint | None = None
        start_swaps_from_defaults()
        silence()
        with handlers_kept(), ExitStack() as self._held:
            super().__init__(
                VQATask,
                VQADataModule,
                subclass_mode_data=True,
                trainer_defaults={
                    "use_distributed_sampler": False,  # ours already gives each process its share
                    "num_sanity_val_steps": 0,
                    "enable_model_summary": False,  # RunReport's table says more
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
        for part, reader, width in (
            ("image_encoder", "fusion", "image_dim"),
            ("text_encoder", "fusion", "text_dim"),
            ("text_encoder", "head", "text_dim"),
        ):
            parser.link_arguments(
                f"model.{part}",
                f"model.{reader}.init_args.{width}",
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
            compute_fn=self._words,
            apply_on="instantiate",
        )
        parser.link_arguments(
            "data",
            "model.head.init_args.answers",
            compute_fn=self._answers,
            apply_on="instantiate",
        )

    def _words(self, data: VQADataModule) -> list[str]:
        if self.checkpoint:
            return self.checkpoint.words
        return data.words_with_choices if reads_choices(self._head()) else data.words

    def _answers(self, data: VQADataModule) -> list[str]:
        if self.checkpoint:
            return self.checkpoint.answers
        # The data may well have no vocabulary, where the head wants none.
        return data.answers if takes(self._head(), "answers") else []

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
            reason = root(error)
            if isinstance(reason, READABLE):
                raise reason from error
            raise ConfigError(str(reason)) from error

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        if self.subcommand == "fit":
            leave_at_signals()
        shared = self.subcommand != "fit" and is_shared(config.get("ckpt_path") or "")
        if config.get("ckpt_path") and Path(config.ckpt_path).is_dir() and not shared:
            name = LAST if self.subcommand == "fit" else BEST
            config.ckpt_path = str(Path(config.ckpt_path) / CHECKPOINTS / name)
        try:
            options = RunOptions(**vars(config.run))
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self.run_folder = self._choose_folder(options)
        if path := config.get("ckpt_path"):
            self.checkpoint = read_shared(path) if shared else read_checkpoint(path)
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
        self._refuse([*differences, *lora_differences(checkpoint, tuning, fits)], "model")
        if fits:
            refuse_two_beginnings(checkpoint, tuning)

    def _choose_folder(self, options: RunOptions) -> Path:
        """The run's folder; a run that is continued keeps its own, and its configuration there."""
        config = self.config[self.subcommand]
        if self.subcommand != "fit":
            return new_folder(options, str(self.subcommand))
        if options.resume == "auto":
            if config.ckpt_path:
                raise ConfigError(
                    f"run.resume: got auto, and --ckpt_path={config.ckpt_path}; wanted one of them."
                )
            folder = folder_of(self._plain_config())
            config.ckpt_path = str(last_checkpoint(folder) or "") or None
        elif config.ckpt_path:
            folder = folder_of_checkpoint(Path(config.ckpt_path)) or new_folder(options, "fit")
        else:
            folder = new_folder(options, "fit")
        if (folder / "config.yaml").is_file():
            self.save_config_callback = None
        return folder

    def _plain_config(self) -> dict[str, Any]:
        parser = self._parser(self.subcommand)
        config: dict[str, Any] = yaml.safe_load(
            parser.dump(self.config[self.subcommand], skip_none=False)
        )
        return config

    def _refuse(self, differences: list[str], what: str) -> None:
        """Refuse to go on where the user asks for another model or training."""
        assert self.checkpoint is not None
        if differences:
            raise CheckpointError(
                f"{self.checkpoint.path} holds another {what} than the configuration asks for:\n  "
                + "\n  ".join(differences)
                + "\nUse the run's own config.yaml."
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        run = self.config_init[self.subcommand].run
        config = self.config_init[self.subcommand].trainer
        fits = self.subcommand == "fit"
        scheduled = self.model.schedule is not None
        check_options(config, str(self.subcommand), fits and run.test, scheduled)
        if fits:
            check_callbacks(config, self.model.model.head)
        check_strategy(config.strategy, config.callbacks)
        guard = Guard(
            self.run_folder / CHECKPOINTS,
            run.monitor,
            run.checkpoint_steps,
            run.checkpoint_minutes,
            saves=fits and config.enable_checkpointing is not False,
            resumes=run.resume is not None,
        )
        extra: list[Callback] = [RunReport(self.run_folder), guard]
        if run.stall_minutes is not None:
            extra.append(Watchdog(run.stall_minutes))
        bars = [c for c in as_list(config.callbacks) if isinstance(c, ProgressBar)]
        if config.enable_progress_bar is not False and not bars:
            extra.append(TQDMProgressBar(refresh_rate=20))
        self.trainer_defaults["callbacks"] = extra
        # Not part of the configuration that is saved, so that it can be used again for another run.
        kwargs["default_root_dir"] = str(self.run_folder)
        kwargs["enable_checkpointing"] = True  # the guard has a place; whether it saves is its own
        kwargs["plugins"] = [*as_list(config.plugins), WholeFiles()]
        if half := half_precision(config.precision, config.strategy, config.accelerator):
            kwargs["precision"] = None
            kwargs["plugins"].append(half)
        if config.logger in (None, True):
            place: dict[str, Any] = {"save_dir": self.run_folder, "name": "", "version": ""}
            kwargs["logger"] = [CSVLogger(**place), TensorBoardLogger(**place)]
        with trainer_options(config):
            trainer = super().instantiate_trainer(**kwargs)
        drop_signal_handlers(trainer)
        check_processes(trainer, config.sync_batchnorm)
        return trainer

    def after_instantiate_classes(self) -> None:
        fits, first = self.subcommand == "fit", self.trainer.is_global_zero
        if first and not fits:
            self.run_folder.mkdir(parents=True, exist_ok=True)  # or fail before the evaluation
        if self.checkpoint and not fits:
            self.model.about = self.checkpoint.about
            if is_shared(self.checkpoint.path):  # Lightning cannot read it
                source = str(self.checkpoint.path)
                load_weights(self.model.model, self.checkpoint.weights, source)
                self.config_init[self.subcommand].ckpt_path = None
            return
        self.model.about = {
            "vocabulary": self._vocabulary(),
            "run": str(self.run_folder),
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "vlm": __version__,
            "torch": str(torch.__version__),
            "data": f"{type(self.datamodule).__module__}.{type(self.datamodule).__name__}",
        }
        if fits:
            try:
                # Or the checkpoints could be neither continued nor tested.
                check_parts(self.model.model.config, packages_of(self.model.model.config))
                check_plan(self.model.layers, self.model.tuning, self.trainer.max_epochs)
            except ValueError as error:
                raise ConfigError(str(error)) from error
            # First: a run is continued with the questions that are left.
            for split in ("train", "validation"):
                self.datamodule.skip_unreadable(split)
            training = facts(self._plain_config(), self.datamodule, self.trainer)
            if self.checkpoint:
                stored = self.checkpoint.about.get("training", {})
                self._refuse(fact_differences(stored, training), "training")
            if first:
                self._held.enter_context(training_in(self.run_folder))
            if self.checkpoint:
                self.model.continues = self.checkpoint.path
                self.model.about["seconds"] = self.checkpoint.about.get("seconds", 0.0)
                for logger in self.trainer.loggers:
                    if isinstance(logger, CSVLogger):
                        continue_metrics(logger, self.checkpoint.step)
            self.model.about["training"] = training
            self.model.seed = int(self.config_init.fit.seed_everything)
            if self.config_init.fit.run.test:
                # Known now, and not after the training that comes first.
                check_fits(self.datamodule, "test", self.model.model)
                check_test_limit(self.datamodule, self.trainer)

    def _vocabulary(self) -> dict[str, Any] | None:
        """About the model's vocabulary: the checkpoint's, where the model is from one."""
        if self.checkpoint:
            return self.checkpoint.about.get("vocabulary")
        if self.model.model.head.vocabulary is None:
            return None
        return self.datamodule.describe_answers()

    def after_fit(self) -> None:
        # Each process named the folder by its own clock; the files are in that of the first.
        self.run_folder = Path(self.trainer.strategy.broadcast(str(self.run_folder)))
        if self.config_init[self.subcommand].run.test:
            folder = self.run_folder / CHECKPOINTS
            saved = (str(folder / name) for name in (BEST, LAST) if (folder / name).exists())
            self.trainer.test(
                self.model, datamodule=self.datamodule, ckpt_path=next(saved, None), verbose=False
            )
