"""Learn from validation what a model's probabilities are worth, and keep it in the checkpoint.

Half of the validation images, the *selection* part, gives the map from scores to probabilities and
proposes thresholds; the other half, the *calibration* part, certifies these and the prediction
sets. So nothing is certified on questions that it was fitted to.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from scipy.optimize import minimize
from scipy.special import log_expit, logsumexp

from vlm.checkpoint.checkpoint import Checkpoint, load_model, read_checkpoint
from vlm.checkpoint.file import KEY, read_checkpoint_file, write_checkpoint
from vlm.core.calibration import ABOUT, Calibration
from vlm.data.datamodule import VQADataModule
from vlm.datasets.base import Dataset
from vlm.datasets.table import image_sample, split_by_image, split_groups, with_rows
from vlm.heads.calibration import method_for
from vlm.model import VQAModel
from vlm.trust.asking import Asked, ask, images_of
from vlm.trust.guarantee import Part, certify, set_threshold
from vlm.trust.selective import RISKS, Floats

DELTA = 0.05
"""Probability that a threshold does not keep its risk."""
COVERAGE = 0.9
"""Of prediction sets."""
MOST = 20_000
"""Questions of each part, if there are more: whole images of them."""
UNKNOWN_EPOCHS = 1000
"""Checkpoints that a training is taken to have chosen among, where it does not say."""


def fit_map(method: str, inputs: Floats, scores: Floats) -> tuple[float, float, float]:
    """Scale, bias and length of a `Calibration`, the most probable ones.

    Answers are right to the share of their score, so that probabilities become mean accuracies. Two
    things keep the map sane where nearly all answers are right, or none: Platt's targets (1999,
    section 2.2) in place of 1 and 0, and a standard normal prior on ln(scale), bias and length,
    which some tens of answers of both kinds overrule.

    Args:
        method: "temperature", "platt" or "length".
        inputs: (Q, A) scores less the best one's; (Q, 1) the best one's logit; (Q, 2) logarithm of
            the probability, and characters.
        scores: (Q,) accuracy of each answer, in [0, 1].
    """
    right, wrong = scores.sum(), (1 - scores).sum()
    target = scores * (right + 1) / (right + 2) + (1 - scores) / (wrong + 2)

    def loss(values: Floats) -> float:
        scale = np.exp(values[0])
        if method == "temperature":
            yes = np.minimum(-logsumexp(scale * inputs, axis=1), -1e-12)  # ln p
            no = np.log(-np.expm1(yes))  # ln(1 - p)
        else:
            logit = inputs @ np.array([scale, *values[2:]]) + values[1]
            yes, no = log_expit(logit), log_expit(-logit)
        log_likelihood = (target * yes + (1 - target) * no).sum()
        return float(0.5 * (values**2).sum() - log_likelihood) / len(scores)

    size = {"temperature": 1, "platt": 2, "length": 3}[method]
    found = minimize(loss, np.zeros(size), method="BFGS")
    log_scale, bias, length = (*found.x.tolist(), 0.0, 0.0)[:3]
    return math.exp(log_scale), bias, length


def parts(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The selection part and the calibration part of validation questions.

    Raises:
        TooFewError: fewer than two images.
    """
    selection, calibration = (
        with_rows(part, image_sample(part, MOST)) for part in split_by_image(table, 0.5, 0)
    )
    return selection, calibration


def fit(
    model: VQAModel,
    dataset: Dataset,
    table: pa.Table,
    ask_part: Callable[[pa.Table, Calibration | None, bool], Asked],
    candidates: int = 1,
) -> Calibration:
    """Calibrate a model on validation questions.

    Args:
        model: model to calibrate.
        dataset: scores its answers.
        table: validation questions with answers.
        ask_part: asks the model: (questions, calibration, whether to keep inputs).
        candidates: number of checkpoints that the model was chosen among on these questions; the
            thresholds' error probability is divided by it.

    Raises:
        DataError: fewer than two images.
    """
    selection, calibration = parts(table)
    method = method_for(model.head)
    asked = ask_part(selection, None, True)
    scores = _scores(dataset, selection, asked)
    width = max(batch.shape[1] for batch in asked.inputs)
    inputs = np.concatenate([_widened(batch, width) for batch in asked.inputs])
    fitted = Calibration(
        method,
        *fit_map(method, inputs, scores[asked.rows]),
        questions=len(selection),
        certified_on=len(calibration),
        images=len(np.unique(split_groups(calibration))),
        delta=DELTA,
        created=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    )
    answered = []
    for part in (selection, calibration):
        asked = ask_part(part, fitted, False)
        groups = split_groups(part)
        answered.append(Part(_scores(dataset, part, asked), asked.probability, groups))
    least = None if asked.of_right is None else set_threshold(asked.of_right, groups, COVERAGE)
    chosen, certified = answered
    thresholds = tuple(certify(chosen, certified, risk, DELTA / candidates) for risk in RISKS)
    return Calibration(**vars(fitted) | {"thresholds": thresholds, "set_threshold": least})


def calibrate(
    path: str | Path,
    data: VQADataModule,
    device: torch.device | str = "cpu",
    trust: bool = False,
) -> Calibration:
    """Calibrate the model of a checkpoint, and write what was learned into the checkpoint.

    Args:
        path: checkpoint, or a run's folder (its best one).
        data: data that it was trained on.
        device: device to run it on.
        trust: also import parts from outside vlm, which runs their code.

    Raises:
        CheckpointError: a checkpoint that cannot be read or written.
        DataError: validation has no answers, or fewer than two images.
        ImageError: an image that cannot be read.
    """
    checkpoint = read_checkpoint(path)
    data.dataset.check_answers("validation")
    model = load_model(checkpoint, trust).to(device)
    data.skip_unreadable("validation", model.image_encoder.transform)
    images = images_of(data, "validation", model.image_encoder.transform)
    if data.images.features is not None:
        images = data.encoded_images("validation", model.image_encoder)
    found = fit(
        model,
        data.dataset,
        data.table("validation"),
        lambda table, known, inputs: ask(
            model, table, images, known, inputs, data.images_per_batch
        ),
        _candidates(checkpoint),
    )
    file = checkpoint.path.resolve()  # `best.ckpt` is a link
    content, status = read_checkpoint_file(file), file.stat()
    content[KEY]["about"][ABOUT] = _plain(found)
    write_checkpoint(content, file)
    # A run continues from its newest checkpoint, and this one was not trained any further.
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    return found


def _candidates(best: Checkpoint) -> int:
    """The number of validations among which the best checkpoint was chosen: an upper bound. The
    run may have gone on for longer since, which its last checkpoint says."""
    last = best.path.resolve().with_name("last.ckpt")
    found = [best, *([read_checkpoint(last)] if last.is_file() else [])]
    return max(_validations(checkpoint.about.get("training", {})) for checkpoint in found)


def _validations(training: dict[str, Any]) -> int:
    epochs = training.get("trainer.max_epochs")
    interval = training.get("trainer.val_check_interval", "1.0")  # a share, or batches
    if not isinstance(epochs, int) or epochs < 1 or "." not in interval:
        return UNKNOWN_EPOCHS
    return epochs * math.ceil(1 / float(interval))


def _plain(found: Calibration) -> dict[str, Any]:
    return asdict(found) | {"thresholds": [list(threshold) for threshold in found.thresholds]}


def _scores(dataset: Dataset, table: pa.Table, asked: Asked) -> Floats:
    return np.array(dataset.scores(table, asked.answers))


def _widened(batch: Floats, width: int) -> Floats:
    """With more choices, which have no probability."""
    return np.pad(batch, ((0, 0), (0, width - batch.shape[1])), constant_values=-np.inf)
