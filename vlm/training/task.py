"""The Lightning module: loss, evaluation, optimiser, and what goes into a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vlm.batch import Batch
from vlm.checkpoint import KEY, PREFIX, describe, load_weights
from vlm.data.datamodule import VQADataModule
from vlm.fusion.base import Fusion
from vlm.heads.base import AnswerHead
from vlm.image.base import ImageEncoder
from vlm.model import VQAModel
from vlm.text.base import TextEncoder
from vlm.training.evaluation import Evaluation, Prediction
from vlm.training.schedule import WarmupCosine

ScheduleCallable = Callable[[Optimizer, int], LRScheduler]
"""Makes a schedule from (optimizer, total number of steps); stepped after every batch."""


class VQATask(LightningModule):
    """Trains a model made of four parts, end to end.

    Args:
        image_encoder: pictures in, patches out.
        text_encoder: questions in, words out.
        fusion: joins the two.
        head: joint features in, answers out.
        optimizer: makes the optimiser from the trainable parameters.
        schedule: makes the learning-rate schedule from (optimizer, total steps), or None.
    """

    def __init__(
        self,
        image_encoder: ImageEncoder,
        text_encoder: TextEncoder,
        fusion: Fusion,
        head: AnswerHead,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        schedule: ScheduleCallable | None = WarmupCosine,
    ) -> None:
        super().__init__()
        self.model = VQAModel(image_encoder, text_encoder, fusion, head)
        self.optimizer, self.schedule = optimizer, schedule
        self.about: dict[str, Any] = {}
        self.evaluation: Evaluation | None = None
        self._losses: list[Tensor] = []

    @property
    def data(self) -> VQADataModule:
        """The data that the trainer was given."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        loss = self.model.head.loss(self.model(batch), batch)
        # Logging costs as much as a small step, so only the mean of each interval is logged.
        self._losses.append(loss.detach())
        interval = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (batch_index + 1) % interval == 0 or self.trainer.is_last_batch:
            self.log("train_loss", torch.stack(self._losses).mean(), prog_bar=True, batch_size=1)
            self._losses.clear()
        return loss

    def on_validation_epoch_start(self) -> None:
        self.evaluation = Evaluation(self.data.table("validation"), self.model.head, self.data)

    def on_test_epoch_start(self) -> None:
        self.evaluation = Evaluation(self.data.table("test"), self.model.head, self.data)

    def on_predict_epoch_start(self) -> None:
        self.evaluation = Evaluation(self.data.table("predict"), self.model.head, self.data)

    def _evaluate(self, batch: Batch) -> list[Prediction]:
        assert self.evaluation is not None
        self.evaluation.update(self.model(batch), batch)
        return [self.evaluation.predictions[question] for question in batch.ids]

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        self._evaluate(batch)

    def test_step(self, batch: Batch, batch_index: int) -> None:
        self._evaluate(batch)

    def predict_step(self, batch: Batch, batch_index: int) -> list[Prediction]:
        return self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_end(self) -> None:
        self._report("test")

    def _report(self, stage: str) -> None:
        assert self.evaluation is not None
        trainer = self.trainer
        limit = trainer.limit_test_batches if stage == "test" else trainer.limit_val_batches
        # A number of batches is an int, a share of them a float: `1` is one batch, `1.0` is all.
        all_batches = isinstance(limit, float) and limit == 1
        self.evaluation.finish(partial=trainer.sanity_checking or not all_batches)
        scores = {"accuracy": self.evaluation.accuracy, "loss": self.evaluation.loss}
        if stage == "test":
            scores |= {
                f"accuracy/{name}": row.mean for name, row in self.evaluation.types().items()
            }
            scores |= self.evaluation.summary()
        # Computed on the gathered answers, so every process has the same numbers already.
        self.log_dict(
            {f"{stage}_{name}": value for name, value in scores.items()},
            prog_bar=stage == "val",
            batch_size=1,
        )

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        if self.schedule is None:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = self.schedule(optimizer, steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = describe(self.model, self.about)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        weights = {k.removeprefix(PREFIX): v for k, v in checkpoint["state_dict"].items()}
        load_weights(self.model, weights, "The checkpoint")
