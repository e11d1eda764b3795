"""The Lightning module: loss, evaluation, optimiser, and what goes into a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, Self, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vlm.checkpoint.checkpoint import KEY, PREFIX, describe, load_weights
from vlm.core.batch import Batch
from vlm.core.calibration import Calibration
from vlm.core.errors import ConfigError
from vlm.core.validation import check_positive
from vlm.data.datamodule import VQADataModule
from vlm.datasets.base import Split
from vlm.datasets.errors import DataError
from vlm.evaluation.evaluation import Evaluation
from vlm.evaluation.results import Prediction
from vlm.fusion.base import Fusion
from vlm.heads.base import AnswerHead
from vlm.image.base import ImageEncoder
from vlm.model import VQAModel
from vlm.text.base import TextEncoder
from vlm.training.clipping import check_clipping, clip_unscaled
from vlm.training.distillation import Distillation, Teacher
from vlm.training.finetuning.groups import make_optimizer
from vlm.training.finetuning.plan import (
    Tuning,
    check_plan,
    keep_statistics,
    plan,
    prepare,
    set_modes,
)
from vlm.training.finetuning.warm_start import init_from
from vlm.training.origin import origin
from vlm.training.readable import READABLE
from vlm.training.resume_checks import fact_differences, part_differences, refuse
from vlm.training.schedule import WarmupCosine

ScheduleCallable = Callable[[Optimizer, int, int], LRScheduler]
"""Makes a schedule from (optimizer, total number of steps, steps of an epoch); stepped after every
step of the optimiser."""
LOSSES = "vlm_losses"
"""Where a checkpoint keeps the losses that are not logged yet."""


class VQATask(LightningModule):
    """Trains a model made of four parts, end to end.

    Args:
        image_encoder: part that turns images into patches.
        text_encoder: part that turns questions into words.
        fusion: part that turns image and question features into joint features.
        head: part that turns joint features into answers.
        optimizer: function that makes the optimiser from the trainable parameters.
        schedule: function that makes the learning-rate schedule from (optimizer, total steps, steps
            of an epoch), or None.
        tuning: settings for each part: what is trained, from when and how fast.
        distillation: teacher whose predictions the model also learns, or None.
        seed: seed of dropout and all other random draws in training. Each batch has its own seed,
            made from this one, the epoch, the batch's number and the process, so a resumed run
            draws the same numbers again. Initial weights come from torch's own generator
            (`torch.manual_seed`).
        max_images: largest number of images of a question (`VQADataModule.max_images`); with more
            than 1, the fusion learns which image a token belongs to.

    Attributes:
        layers: plan of what is trained, made from `tuning`.
        about: facts about the run that its checkpoints keep.
        evaluation: the answers of the last validation, test or prediction.

    Example:
        >>> image, text = vlm.image.ConvNet(), vlm.text.BagOfWords(["what", "color", "is", "it"])
        >>> fusion = vlm.fusion.Pooled(image.dim, text.dim)
        >>> head = vlm.heads.Classification(fusion.out_dim, ["red", "blue"])
        >>> task = vlm.training.VQATask(image, text, fusion, head)
        >>> task.model.head is head
        True
    """

    def __init__(
        self,
        image_encoder: ImageEncoder,
        text_encoder: TextEncoder,
        fusion: Fusion,
        head: AnswerHead,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        schedule: ScheduleCallable | None = WarmupCosine,
        tuning: Tuning = Tuning(),  # noqa: B008  frozen
        distillation: Distillation | None = None,
        seed: int = 0,
        max_images: int = 1,
    ) -> None:
        super().__init__()
        check_positive(max_images=max_images)
        if max_images > 1:
            fusion.take_images(max_images)
        self.model = VQAModel(image_encoder, text_encoder, fusion, head)
        prepare(self.model, tuning)
        self.optimizer, self.schedule, self.tuning = optimizer, schedule, tuning
        self.distillation = distillation
        self.layers = plan(self.model, tuning)
        self._entered = 0
        self.train()
        self.seed = seed
        self.about: dict[str, Any] = {}
        self.evaluation: Evaluation | None = None
        self._losses: list[Tensor] = []
        self._step: tuple[Tensor, Any] | None = None

    def __repr__(self) -> str:
        return f"VQATask({self.model})"

    @cached_property
    def teacher(self) -> Teacher | None:
        """The teacher of `distillation`, loaded when it is first asked for."""
        if self.distillation is None:
            return None
        return Teacher(self.distillation, self.model.head)

    @property
    def data(self) -> VQADataModule:
        """The data that the trainer was given."""
        return self.trainer.datamodule  # type: ignore[attr-defined]  # set later

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self._losses = []
            self.about = origin(self, self.data, self.trainer)
            # A run that is continued has its own weights.
            if self.tuning.init_from and self.trainer.ckpt_path is None:
                init_from(self.model, self.tuning.init_from, self.tuning.init_parts)
            if self.teacher is not None and self.trainer.is_global_zero:
                print(self.teacher)

    def configure_model(self) -> None:
        if self.device_mesh is not None:  # FSDP2's strategy alone gives one
            from vlm.training.distributed.sharding import shard

            shard(self.model, self.device_mesh)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if mode:  # but what is not trained in this epoch
            set_modes(self.model, set(self._parameters_of(lambda start: start <= self._entered)))
            keep_statistics(self.model, self.tuning)
            # Its own mode says which loss is meant, that of training or of evaluation.
            for part in self.model.head.modules():
                if isinstance(part, AnswerHead):
                    part.training = True
        return self

    def _parameters_of(self, starts: Callable[[int], bool]) -> list[nn.Parameter]:
        """The parameters of the layers whose first epoch is one of these."""
        names = [name for layer in self.layers if starts(layer.start) for name in layer.names]
        return [self.model.get_parameter(name) for name in names]

    def _enter(self, epoch: int) -> None:
        """Let the layers of an epoch be trained, and no others."""
        self._entered = epoch
        self.train()
        # Of several processes see `on_after_backward`.
        alone = isinstance(self.trainer.strategy, SingleDeviceStrategy)
        for parameter in self._parameters_of(lambda start: start <= epoch or not alone):
            parameter.requires_grad_(True)
        for parameter in self._parameters_of(lambda start: start > epoch and alone):
            parameter.requires_grad_(False)

    def on_fit_start(self) -> None:
        try:
            self.model.head.learn_first(lambda: self.data.different_answers, self.data.alive)
        except ValueError as error:
            raise DataError(f"train: {error}") from error

    def on_train_start(self) -> None:
        self._enter(self.current_epoch)
        if self.teacher is not None:
            self.teacher.to(self.device)

    def on_after_backward(self) -> None:
        # DDP would never again average the gradients of a parameter that once needed none, so all
        # have them, and those that are not trained yet lose theirs before anything reads them.
        for parameter in self._parameters_of(lambda start: start > self._entered):
            parameter.grad = None

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        trainer = self.trainer
        if self._entered != self.current_epoch:
            self._enter(self.current_epoch)
        seed = batch_seed(self.seed, self.current_epoch, batch_index, self.global_rank)
        # `torch.manual_seed` writes down a stack trace for each device that is not in use.
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)
        output = self.model(batch)
        # `batch.total` counts the questions of all processes and accumulated batches. Gradients of
        # processes are averaged and those of accumulated batches too, so that is undone.
        accumulate = trainer.accumulate_grad_batches
        loss = self._loss(output, batch) * trainer.world_size * accumulate
        self._step = loss.detach(), output
        # Logging costs as much as a small step, so only the mean of each interval is logged. The
        # last step of an epoch may have fewer batches, each with a larger share of its questions.
        first = batch_index - batch_index % accumulate
        of_step = min(accumulate, trainer.num_training_batches - first)
        self._losses.append(loss.detach() * (of_step / accumulate))
        interval = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set later
        if not interval:
            self._losses.clear()
        elif (batch_index + 1) % interval == 0 or trainer.is_last_batch:
            mean = self._mean_losses().mean()
            self._losses.clear()
            self.log("train_loss", mean, prog_bar=True, logger=False, batch_size=1)
            # Now, and not after the batch as `log` does: a checkpoint of this batch comes before,
            # and a run that goes on from it would never log it.
            for logger in trainer.loggers:
                row = {"train_loss": mean.item(), "epoch": self.current_epoch}
                logger.log_metrics(row, self.global_step)
        return loss

    def _loss(self, output: Any, batch: Batch) -> Tensor:
        """The head's own loss, with its share of the teacher's where there is one."""
        loss = self.model.head.loss(output, batch)
        if self.teacher is None:
            return loss
        return torch.lerp(loss, self.teacher.loss(output, batch), self.teacher.distillation.weight)

    def on_train_batch_end(self, *_: Any) -> None:
        self._step = None  # where no callback has taken it

    def take_step(self) -> tuple[Tensor, Any]:
        """Return the loss and the head's output of the batch that ends, and forget them."""
        assert self._step is not None
        step, self._step = self._step, None
        return step

    def _mean_losses(self) -> Tensor:
        """Of all processes, one for each batch since the last that was logged."""
        losses = self.trainer.strategy.reduce(torch.stack(self._losses), reduce_op="mean")
        return cast(Tensor, losses)

    def on_validation_epoch_start(self) -> None:
        if self.device_mesh is not None:
            from vlm.training.distributed.sharding import share_buffers

            share_buffers(self.model)
        self._start_evaluation("validation")

    def on_test_epoch_start(self) -> None:
        self._start_evaluation("test")

    def on_predict_epoch_start(self) -> None:
        self._start_evaluation("predict")

    def _start_evaluation(self, split: Split) -> None:
        self.evaluation = Evaluation(
            self.data.table(split), self.model.head, self.data.dataset, Calibration.of(self.about)
        )

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
        results = self.evaluation.finish(partial=trainer.sanity_checking or not all_batches)
        scores = {"accuracy": results.accuracy, "loss": self.evaluation.loss}
        scores |= results.heads()
        if stage == "test" or self.data.dataset.types == "set":
            scores |= {f"accuracy/{name}": row.mean for name, row in results.types().items()}
        if stage == "test":
            scores |= results.summary()
            for name, part in results.by_set().items():
                scores |= {f"{figure}/{name}": value for figure, value in part.summary().items()}
        # Computed on the gathered answers, so every process has the same numbers already.
        self.log_dict(
            {f"{stage}_{name}": value for name, value in scores.items()},
            prog_bar=stage == "val",
            batch_size=1,
        )

    def configure_optimizers(self) -> Any:
        check_plan(self.layers, self.tuning, self.trainer.max_epochs)
        try:
            optimizer = make_optimizer(self.optimizer, self.model, self.layers)
        except ValueError as error:
            raise ConfigError(f"model.optimizer: {error}") from error
        check_clipping(self.trainer, optimizer)
        if self.device_mesh is not None:
            from vlm.training.distributed.sharding import expect_states

            expect_states(self, self.trainer.strategy)
        try:
            self.trainer.fit_loop.setup_data()
        except ValueError as error:
            if isinstance(error, READABLE):
                raise
            raise ConfigError(f"trainer: {str(error).strip()}") from error
        if self.schedule is None:
            return optimizer
        if math.isinf(self.trainer.estimated_stepping_batches):
            raise ConfigError(
                "trainer.max_epochs: got -1 without max_steps; expected a limit, since the "
                "schedule depends on the number of steps. Or set schedule=None."
            )
        steps = int(self.trainer.estimated_stepping_batches)
        batches = self.trainer.num_training_batches
        epoch_steps = math.ceil(batches / self.trainer.accumulate_grad_batches)
        try:
            schedule = self.schedule(optimizer, steps, epoch_steps)
        except ValueError as error:
            raise ConfigError(f"model.schedule: {error}") from error
        every_step = {"scheduler": schedule, "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": every_step}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        how = gradient_clip_val, gradient_clip_algorithm
        if not clip_unscaled(self.trainer, optimizer, *how):
            self.clip_gradients(optimizer, *how)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = describe(self.model, self.about)
        if self._losses:
            checkpoint[LOSSES] = self._mean_losses().cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._continue(checkpoint[KEY])
        self._losses = list(checkpoint.get(LOSSES, torch.empty(0)).to(self.device))
        if "state_dict" in checkpoint:  # FSDP2's strategy has loaded the weights itself
            weights = {k.removeprefix(PREFIX): v for k, v in checkpoint["state_dict"].items()}
            load_weights(self.model, weights, "The checkpoint")

    def _continue(self, stored: dict[str, Any]) -> None:
        """Take over what a checkpoint keeps about its run.

        Raises:
            CheckpointError: another model, or to train on, another training.
        """
        path, about = str(self.trainer.ckpt_path), stored["about"]
        refuse(path, part_differences(stored["model"], self.model), "model")
        if self.trainer.state.fn != TrainerFn.FITTING:
            self.about = about
            return
        asked = self.about["training"]
        refuse(path, fact_differences(about.get("training", {}), asked), "training")
        self.about |= {"vocabulary": about.get("vocabulary"), "seconds": about.get("seconds", 0.0)}


def batch_seed(seed: int, epoch: int, batch: int, rank: int) -> int:
    """A seed for one process's batch, in [0, 2^63); seeds of any two have nothing in common."""
    sequence = np.random.SeedSequence((seed, epoch, batch, rank))
    return int(sequence.generate_state(1, np.uint64)[0]) >> 1
