"""The callback that writes what a run leaves behind."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from vlm.core.terminal import WIDTH, new_console
from vlm.core.validation import counted
from vlm.datasets.baselines import compute_floors
from vlm.datasets.vocabulary import vocabulary_in_words
from vlm.evaluation.report import Report, plot_curves
from vlm.heads.multi_task import answering
from vlm.training.finetuning.summary import parts_table
from vlm.training.trackers import send_report

FEW_STEPS = 20
"""An epoch with fewer steps trains little, and is mostly validation and saving."""

_SPLITS = {TrainerFn.VALIDATING: "validation", TrainerFn.TESTING: "test"}


class RunReport(Callback):
    """Curves after `fit`, a table after `validate` and `test`, answers after `predict`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.console = new_console(width=WIDTH)
        self._started: float | None = None
        self._before = 0.0
        self._evaluated = False
        self._named = False

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        # Lightning's table would stand below ours.
        trainer.validate_loop.verbose = trainer.test_loop.verbose = False
        self._evaluated = False

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._started = time.perf_counter()
        self._before = pl_module.about.get("seconds", 0.0)  # of what is continued
        if trainer.is_global_zero:
            self.console.print(f"Answers: {describe_answers(pl_module)}.", soft_wrap=True)
            images, accumulated = pl_module.data.images_per_batch, trainer.accumulate_grad_batches
            self.console.print(
                f"A step: {counted(images, 'image')} x {counted(trainer.world_size, 'process')} x "
                f"{counted(accumulated, 'batch')} = "
                f"{counted(images * trainer.world_size * accumulated, 'image')} "
                f"with their questions, on {trainer.strategy.root_device.type}.",
                soft_wrap=True,
            )
            steps = math.ceil(trainer.num_training_batches / accumulated)
            if steps < FEW_STEPS:
                self.console.print(
                    f"Few steps: an epoch has {steps:,}, the training "
                    f"{trainer.estimated_stepping_batches:,}. For more, lower "
                    "data.images_per_batch or raise trainer.max_epochs.",
                    soft_wrap=True,
                )
            epochs, precision = trainer.max_epochs, str(trainer.precision)
            self.console.print(parts_table(pl_module, epochs, precision))

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        self._note_seconds(pl_module)
        if self._started is None:
            done = (
                "All epochs are already trained"
                if trainer.global_step
                else "The time limit was reached"
            )
            self.console.print(f"{done}; no step was taken.")
        else:
            seconds, epochs = pl_module.about["seconds"], trainer.current_epoch
            self.console.print(f"Trained {counted(epochs, 'epoch')} in {seconds:.1f} s.")
        metrics = self.folder / "metrics.csv"
        if metrics.is_file():
            plot_curves(metrics, self.folder / "curves.png")
        self._name_folder()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        self._note_seconds(pl_module)  # which the module then stores

    def _note_seconds(self, pl_module: Any) -> None:
        if self._started is not None:
            seconds = self._before + time.perf_counter() - self._started
            pl_module.about["seconds"] = round(seconds, 2)

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._evaluated = True  # a loop that has nothing to do ends without a word

    on_validation_end = on_predict_end = on_test_end

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        # Not earlier: a progress bar that is not closed yet would share lines with what is printed.
        if not self._evaluated:
            return
        if split := _SPLITS.get(TrainerFn(stage)):
            self._report(trainer, pl_module, split)
        elif stage == TrainerFn.PREDICTING:
            self._write_answers(trainer, pl_module)

    def _write_answers(self, trainer: Trainer, pl_module: Any) -> None:
        evaluation = pl_module.evaluation
        limit = trainer.limit_predict_batches  # a float is a share, an int a number of batches
        results = evaluation.finish(partial=not (isinstance(limit, float) and limit == 1))
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / "predictions.jsonl"
            results.write(path)
            self.console.print(f"Wrote the answers to {path}", soft_wrap=True)

    def _report(self, trainer: Trainer, pl_module: Any, split: str) -> None:
        if not trainer.is_global_zero:
            return
        results, data = pl_module.evaluation.results, pl_module.data
        head = answering(pl_module.model.head)
        floors = compute_floors(
            data.dataset,
            data.table("train"),
            results.table,
            None if head.vocabulary is None else head.vocabulary.answers,
            head.takes_choices,
        )
        report = Report(results, split, floors, describe_answers(pl_module), pl_module.about)
        report.print(self.console)
        report.write(self.folder)
        send_report(trainer.loggers, report)
        self._name_folder()

    def _name_folder(self) -> None:
        if not self._named:  # after the training already
            self.console.print(f"Run folder: {self.folder}", soft_wrap=True)
        self._named = True


def describe_answers(pl_module: Any) -> str:
    """What the model can answer, in words; of a vocabulary its size, hash and source."""
    head = answering(pl_module.model.head)
    answers = head.vocabulary
    if answers is None:
        return "the set of each question's choices" if head.takes_choices else "free text"
    about = pl_module.about.get("vocabulary") or {}
    return vocabulary_in_words(about | {"size": len(answers), "hash": answers.hash})
