"""The callback that writes what a run leaves behind."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console

from vlm.data.floors import compute_floors
from vlm.training.report import plot_curves, print_report, report_rows, write_report

CONSOLE_WIDTH = 110


class RunReport(Callback):
    """Curves after `fit`, a table after `validate` and `test`, answers after `predict`.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.console = Console(width=CONSOLE_WIDTH)
        self._started = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._started = time.perf_counter()

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        seconds = time.perf_counter() - self._started
        pl_module.about["seconds"] = round(seconds, 2)
        self.console.print(f"Trained {trainer.current_epoch} epochs in {seconds:.1f} s.")
        metrics = self.folder / "metrics.csv"
        if metrics.is_file():
            plot_curves(metrics, self.folder / "curves.png")
        self._name_folder()

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._report(trainer, pl_module, "validation")

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._report(trainer, pl_module, "test")

    def on_predict_end(self, trainer: Trainer, pl_module: Any) -> None:
        evaluation = pl_module.evaluation
        limit = trainer.limit_predict_batches  # a float is a share, an int a number of batches
        evaluation.finish(partial=not (isinstance(limit, float) and limit == 1))
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / "predictions.jsonl"
            evaluation.write(path)
            self.console.print(f"Wrote the answers to {path}", soft_wrap=True)

    def _report(self, trainer: Trainer, pl_module: Any, split: str) -> None:
        if not trainer.is_global_zero:
            return
        evaluation, head = pl_module.evaluation, pl_module.model.head
        answers = head.vocabulary
        floors = compute_floors(pl_module.data.table("train"), evaluation.table, answers.answers)
        rows = report_rows(evaluation, floors)
        about = (
            f"95 % interval over {rows[0]['over']} (bootstrap). Floors: the most frequent training "
            f"answer; the most frequent to the same question. Ceiling: the best that the "
            f"{len(answers)} answers of the vocabulary ({answers.hash}, from the training "
            f"questions) can reach; {floors.unanswerable} questions have no answer in it and "
            f"count as wrong."
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        print_report(rows, f"Accuracy on {split}", about, self.console)
        write_report(self.folder / f"{split}.json", rows, evaluation, pl_module.about)
        evaluation.write(self.folder / f"{split}_predictions.jsonl")
        self._name_folder()

    def _name_folder(self) -> None:
        self.console.print(f"Run folder: {self.folder}", soft_wrap=True)
