"""The callback that saves checkpoints, stops a run when necessary and makes it resumable."""

from __future__ import annotations

import time
from math import isfinite
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer

from vlm.core.compat import spare_this_process
from vlm.core.errors import ConfigError
from vlm.core.finite import NotFiniteError
from vlm.training.fault_tolerance.checkpoint_dir import BEST, LAST, CheckpointFolder
from vlm.training.fault_tolerance.finite import NO_PROBLEMS, FiniteCheck, Problems
from vlm.training.fault_tolerance.signals import Preempted, StopSignal, leave_at_signals


class RunCheckpoint(Checkpoint):
    """Saves after each validation and epoch and at the intervals requested; ends training if a
    number is not finite or a signal arrived.

    All processes agree to stop between two batches, so that none waits for another that has left.
    Because this is a `Checkpoint`, Lightning runs it after all other callbacks, and what it saves
    includes their state after the batch.

    Args:
        folder: folder of the checkpoints.
        monitor: validation metric that selects the best checkpoint, by its lowest (for a loss) or
            highest value.
        steps, minutes: also save every this many optimiser steps or minutes.
        saves: if False, only watches.
        resumes: whether the same command continues the run (`run.resume`).
    """

    def __init__(
        self,
        folder: Path,
        monitor: str = "val_accuracy",
        steps: int | None = None,
        minutes: float | None = None,
        saves: bool = True,
        resumes: bool = False,
    ) -> None:
        self.folder = CheckpointFolder(folder)
        self.monitor, self.steps, self.minutes = monitor, steps, minutes
        self.saves, self.resumes = saves, resumes
        self.signal, self.health = StopSignal(), FiniteCheck(scaled=False)
        self.best_score: float | None = None
        self.best_step = -1
        self._saved_at = 0.0
        self._in_validation = False
        self._group: Any = None
        self._sent: tuple[Tensor, Any, Problems] | None = None

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        # Each process named the folder by its own clock; use the first one's.
        self.folder = CheckpointFolder(Path(trainer.strategy.broadcast(str(self.folder.path))))

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.signal.install()
        self.health = FiniteCheck(
            scaled=getattr(trainer.precision_plugin, "scaler", None) is not None
        )
        self._check_intervals(trainer)
        self._saved_at = time.monotonic()
        self._sent = None  # an earlier training may have failed
        if trainer.world_size > 1 and self._group is None:
            # A separate CPU group does not wait for the device or mix with other collectives.
            self._group = dist.new_group(backend="gloo")
        # A killed run may have written the file but not its link.
        if trainer.is_global_zero and self.folder.file(self.best_step).is_file():
            self.folder.link(BEST, self.best_step)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: Any, optimizer: Optimizer
    ) -> None:
        # Not `pl_module.parameters()`: walking through the modules takes longer than their norm.
        self.health.gradients(p for group in optimizer.param_groups for p in group["params"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        problems = self.health.problems()  # of the batch before, which the device has done by now
        loss, output = pl_module.take_step()
        self.health.finish(loss, output, batch.ids, _place(trainer))
        # Save only between steps: checkpoints do not contain accumulating gradients.
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        # The end of the epoch, after the last batch, saves its own checkpoint.
        may_save = stepped and not trainer.is_last_batch
        stop, late = self._exchange(problems, self._late())
        by_steps = self.steps is not None and trainer.global_step % self.steps == 0
        if may_save and (stop or late or by_steps):
            self._save(trainer)
            self._end_if(stop, trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._check()

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        stop = self._exchange(NO_PROBLEMS, False)[0]
        if stop and not trainer.sanity_checking:
            self._in_validation = True
            self._save(trainer)
            self._end_if(True, trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        score = float(trainer.callback_metrics[self.monitor])
        lower = self.monitor.endswith("loss")
        best = self.best_score
        if not isfinite(score):
            self._fail(_place(trainer), f"{self.monitor} is {score}")
        if best is None or (score < best if lower else score > best):
            self.best_score, self.best_step = score, trainer.global_step
        if not trainer.is_last_batch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._save(trainer)
        (stop,) = self._agree(self.signal.received is not None)
        self._end_if(stop, trainer)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        leave_at_signals()

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score, self.best_step = state_dict["best_score"], state_dict["best_step"]

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        if self._in_validation:
            # With one batch started and none completed, Lightning repeats the whole validation.
            # With any other count it skips validation and continues with the next epoch.
            name = "epoch_loop.val_loop.batch_progress"
            progress = checkpoint["loops"]["fit_loop"][name]
            progress["total"] |= {"ready": 1, "started": 1, "processed": 0, "completed": 0}
            progress["current"] |= dict.fromkeys(progress["current"], 0)
            progress["is_last_batch"] = False

    @staticmethod
    def _check_intervals(trainer: Trainer) -> None:
        """Refuse validations, and so checkpoints, between accumulating gradients."""
        batches, accumulated = trainer.val_check_batch, trainer.accumulate_grad_batches
        epoch = trainer.num_training_batches
        # At the end of an epoch Lightning makes an optimiser step in any case.
        if batches is None or not batches % epoch:
            return
        across = trainer.check_val_every_n_epoch is None  # the interval then spans epochs
        if batches % accumulated or (across and epoch % accumulated):
            raise ConfigError(
                f"trainer.val_check_interval: got a validation every {batches} batches, an epoch "
                f"of {epoch} and trainer.accumulate_grad_batches={accumulated}; expected "
                f"validations only after an optimiser step, since a checkpoint keeps no "
                f"accumulating gradients. Make the interval"
                f"{' and the epoch' * across} a multiple of {accumulated}."
            )

    def _late(self) -> bool:
        minutes = (time.monotonic() - self._saved_at) / 60
        return self.minutes is not None and minutes >= self.minutes

    def _agree(self, *flags: bool) -> list[bool]:
        """Combine flags over processes: each is True if it is set on any process."""
        if self._group is None:
            return list(flags)
        flag = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group)
        return flag.bool().tolist()

    def _exchange(self, problems: Problems, late: bool) -> tuple[bool, bool]:
        """Whether any process has a signal, and whether one is late to save; fails for problems.

        Several processes exchange this during a step, and so act on what was so a call before.
        """
        flags = [*map(bool, problems[:2]), self.signal.received is not None, late]
        if self._group is not None:
            now, before = torch.tensor(flags, dtype=torch.uint8), self._sent
            work = dist.all_reduce(now, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
            self._sent = now, work, problems
            if before is None:
                return False, False
            flags, problems = self._wait_for(before)
        self._fail_for(problems, *flags[:2])
        return flags[2], flags[3]

    def _wait_for(self, sent: tuple[Tensor, Any, Problems]) -> tuple[list[bool], Problems]:
        flags, work, problems = sent
        work.wait()
        return flags.bool().tolist(), problems

    def _check(self) -> None:
        """Fail if any process has a problem with a batch that is finished."""
        if self._sent is not None:
            flags, problems = self._wait_for(self._sent)
            self._sent = None
            self._fail_for(problems, *flags[:2])
        problems = self.health.problems()
        self._fail_for(problems, *self._agree(*map(bool, problems[:2])))

    def _fail_for(self, problems: Problems, bad_loss: bool, bad_gradient: bool) -> None:
        if bad_loss:  # this also corrupts all gradients
            said = problems.loss or "another process has no finite loss, and says why"
            self._fail(problems.place, said)
        if bad_gradient:
            said = problems.gradient or "another process has gradients that are not finite"
            self._fail(problems.place, said)

    def _save(self, trainer: Trainer) -> None:
        self._check()  # nothing is saved that was not checked
        if not self.saves or trainer.fast_dev_run:  # type: ignore[attr-defined]  # set later
            return
        if self._in_validation:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set later
                if isinstance(callback, WeightAveraging):
                    # Validation uses the averaged weights; this restores the others.
                    callback.on_validation_epoch_end(trainer, trainer.lightning_module)
        step = trainer.global_step
        trainer.save_checkpoint(self.folder.file(step), weights_only=False)
        self._saved_at = time.monotonic()
        if trainer.is_global_zero:
            self.folder.link(LAST, step)
            if step == self.best_step:
                self.folder.link(BEST, step)
            self.folder.tidy()
        for logger in trainer.loggers:
            logger.save()

    def _fail(self, place: str, problem: str) -> None:
        last = self.folder.path / LAST
        kept = (
            f"The last good checkpoint is {last.resolve()}" if last.exists() else "None was saved"
        )
        raise NotFiniteError(
            f"Training ended {place}: {problem}. {kept}. Look at these questions, lower the "
            f"learning rate, or clip gradients with trainer.gradient_clip_val."
        )

    def _end_if(self, stop: bool, trainer: Trainer) -> None:
        if not stop:
            return
        spare_this_process(trainer)
        more = "" if self.resumes else f" with --ckpt_path={self.folder.path / LAST}"
        raise Preempted(
            f"stopped by {self.signal.received or 'a signal to another process'} after step "
            f"{trainer.global_step}. "
            + (f"To continue, run the same command{more}" if self.saves else "")
        )


def _place(trainer: Trainer) -> str:
    return f"after step {trainer.global_step} in epoch {trainer.current_epoch + 1}"
