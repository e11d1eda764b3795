"""Measure runs that fine-tuned the same encoders, and weights interpolated with the originals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import Tensor

from vlm.checkpoint.checkpoint import CheckpointError, load_model
from vlm.data.datamodule import VQADataModule
from vlm.datasets.errors import DataError
from vlm.evaluation.results import Results
from vlm.image.base import PixelEncoder
from vlm.metrics import bootstrap_interval
from vlm.model import VQAModel
from vlm.studies.comparison.build import quiet
from vlm.studies.forgetting.heads import Head, HeadError, Probe, original_head
from vlm.studies.forgetting.images import ImageMeasure, folder_images, test_images
from vlm.studies.forgetting.original import ENCODERS, Original, original
from vlm.studies.forgetting.run import FineTuned
from vlm.studies.forgetting.study import (
    Accuracy,
    AccuracySplit,
    Settings,
    State,
    Study,
    state_name,
)
from vlm.studies.forgetting.texts import TextMeasure, read_sentences
from vlm.text.base import TextEncoder
from vlm.training.task import VQATask

DEVICE = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
"""As Lightning chooses it."""
NOTHING = "no pretrained weights"
Originals = dict[str, Original | None]
"""By part; None where it had no pretrained weights."""
ReadData = Callable[[Path, Sequence[str]], VQADataModule]
"""A run's configuration and further options of `vlm fit` -> its data."""


def measure(runs: Sequence[FineTuned], settings: Settings, read_data: ReadData) -> Study:
    """Measure runs of the same encoders; `read_data` reads the data of a run, if needed.

    Raises:
        CheckpointError: neither encoder had pretrained weights, or they differ from those of the
            first run.
        DataError: images, sentences or questions are missing or differ from the first run's.
        HeadError: the probe does not fit.
        OSError: the original weights are not available.
    """
    study = Study(settings, runs)
    measures: _Measures | None = None
    for run in runs:
        model = load_model(run.checkpoint, settings.trust)
        originals = {
            part: original(run, part, getattr(model, part), settings.trust) for part in ENCODERS
        }
        needs_data = settings.split is not None or (settings.photos is None and measures is None)
        data = read_data(run.path, settings.data) if needs_data else None
        if data is not None:
            # A frozen encoder's features would be cached for every interpolation.
            data.images = replace(data.images, features=None)
        if measures is None:
            measures = _Measures(study, run, model, originals, data)
        else:
            measures.check_same(run, originals)
        if data is not None and settings.split is not None:
            data.dataset.check_answers(settings.split)
        for alpha, weights in _between(model, originals, settings.alphas):
            for part, values in weights.items():
                getattr(model, part).load_state_dict(values, strict=False)
            study.states.append(measures.state(run, alpha, model, originals, data))
        if settings.alphas and study.states[-1].alpha == 1 and settings.alphas != (1.0,):
            study.notes.append(
                f"{run.name}: its encoders are the original ones, so nothing lies between."
            )
    return study


def _between(
    model: VQAModel, originals: Originals, alphas: Sequence[float]
) -> Iterator[tuple[float, dict[str, dict[str, Tensor]]]]:
    """The run's own weights (alpha 1), then the interpolated ones from after to before. An encoder
    that did not change is left out."""
    ends = {}
    for part, found in originals.items():
        if found is not None:
            own = getattr(model, part).state_dict()
            ends[part] = (found.weights, {name: own[name].clone() for name in found.weights})
    changed = any(
        not torch.equal(before[name].cpu(), after[name].cpu())  # devices may differ
        for before, after in ends.values()
        for name in before
    )
    inner = sorted({alpha for alpha in alphas if alpha < 1}, reverse=True) if changed else []
    for alpha in (1.0, *inner):
        yield alpha, {part: interpolate(*pair, alpha) for part, pair in ends.items()}


def interpolate(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """(1 - alpha) before + alpha after for each tensor: WiSE-FT (Wortsman et al. 2022, arXiv
    2109.01903), for the encoders only. 0 and 1 give the two ends exactly.

    Statistics of batch normalisation are interpolated too. Values that are not floating-point,
    such as its batch count, come from the nearer end.

    Raises:
        ValueError: alpha is outside [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha: got {alpha}; expected 0 (before) to 1 (after).")
    assert before.keys() == after.keys()
    mixed = {}
    for name, start in before.items():
        end = after[name].to(start.device)
        if start.is_floating_point():
            mixed[name] = torch.lerp(start, end.to(start.dtype), alpha)
        else:
            mixed[name] = end if alpha >= 0.5 else start
    return mixed


def _answers(model: VQAModel, data: VQADataModule, split: AccuracySplit) -> Results:
    """Score answers like `vlm validate` and `vlm test`; leaves the model in evaluation mode."""
    task = VQATask(model.image_encoder, model.text_encoder, model.fusion, model.head)
    with quiet():
        trainer = Trainer(
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            callbacks=[TQDMProgressBar(refresh_rate=20)],
        )
        ask = trainer.validate if split == "validation" else trainer.test
        ask(task, datamodule=data, verbose=False)
    model.eval()
    assert task.evaluation is not None
    assert task.evaluation.results is not None
    return task.evaluation.results


class _Measures:
    """The originals of the first run, each evaluated once."""

    def __init__(
        self,
        study: Study,
        run: FineTuned,
        model: VQAModel,
        originals: Originals,
        data: VQADataModule | None,
    ) -> None:
        if not any(originals.values()):
            raise CheckpointError(
                f"{run.checkpoint.path}: neither encoder was given pretrained weights, so there is "
                f"nothing that it could have forgotten; expected a run whose image or text encoder "
                f"was (docs/encoders.md)."
            )
        self.study, self.first = study, run
        self.sources = _sources(originals)
        self.question_ids: list[str] | None = None
        self.images: ImageMeasure | None = None
        self.texts: TextMeasure | None = None
        settings = study.settings
        for part, found in originals.items():
            name = part.replace("_", " ")
            if found is None:
                kind = type(getattr(model, part)).__name__
                study.notes.append(
                    f"The {name} ({kind}) was given no pretrained weights: it had nothing to "
                    f"forget, and is not measured."
                )
            elif isinstance(found.encoder, PixelEncoder):
                self.images = self._of_images(found, found.encoder, data)
            elif isinstance(found.encoder, TextEncoder):
                sentences = read_sentences(settings.sentences)
                self.texts = TextMeasure(
                    found.encoder.to(DEVICE), sentences, settings.neighbours, settings.batch_size
                )
                study.about[part] = (
                    f"{found.source}; {sentences.about} and their {len(self.texts.words)} words "
                    f"in its vocabulary, {settings.neighbours} neighbours of each"
                )

    def _of_images(
        self, found: Original, encoder: PixelEncoder, data: VQADataModule | None
    ) -> ImageMeasure:
        settings = self.study.settings
        if settings.photos is not None:
            images = folder_images(settings.photos, settings.most_photos)
        else:
            assert data is not None
            images = test_images(data, settings.most_photos)
        head: Head | None = None
        if settings.probe is not None:
            head = Probe(settings.probe)
            head.check(encoder)
        else:
            try:
                head = original_head(found)
                head.model.to(DEVICE)
            except HeadError as error:
                self.study.notes.append(f"Classes are not compared: {error}")
        self.study.about["image_encoder"] = (
            f"{found.source}; {len(images.names):,} images {images.about}"
            + (f"; classes of {head.about}" if head else "")
        )
        return ImageMeasure(encoder.to(DEVICE), images, head, settings.batch_size)

    def check_same(self, run: FineTuned, originals: Originals) -> None:
        """Refuse a run whose retention is not comparable with the first run's."""
        for part, source in _sources(originals).items():
            first = self.first.name
            if source != self.sources[part]:
                known = self.sources[part] or NOTHING
                wrong = f"began with {source or NOTHING}, and that of {first} with {known}"
            elif source is not None and _built(run, part) != _built(self.first, part):
                wrong = f"has another architecture or other arguments than that of {first}"
            else:
                continue
            raise CheckpointError(
                f"{run.checkpoint.path}: its {part} {wrong}; expected runs that fine-tuned the "
                f"same encoders."
            )

    def state(
        self,
        run: FineTuned,
        alpha: float,
        model: VQAModel,
        originals: Originals,
        data: VQADataModule | None,
    ) -> State:
        """Measure a model."""
        name, split = state_name(run, alpha), self.study.settings.split
        accuracy, images, texts = None, None, None
        if data is not None and split is not None:
            found = _answers(model, data, split)
            ids = list(found.predictions)
            self.question_ids = self.question_ids or ids
            if ids != self.question_ids:
                raise DataError(
                    f"{run.name} was asked other questions than {self.first.name}; expected one "
                    f"{split} split for all runs (dataset.seed chooses the images held out)."
                )
            interval = bootstrap_interval(found.scores, found.clusters, unit=found.cluster_unit)
            accuracy = Accuracy(len(ids), found.accuracy, interval)
        model.to(DEVICE)
        if self.images is not None:
            assert isinstance(model.image_encoder, PixelEncoder)
            images = self.images.retention(model.image_encoder, name)
        if self.texts is not None and (own := originals["text_encoder"]) is not None:
            view = own.view(model.text_encoder).to(DEVICE)
            assert isinstance(view, TextEncoder)
            texts = self.texts.retention(view, name)
        return State(run, alpha, accuracy, images, texts)


def _sources(originals: Originals) -> dict[str, str | None]:
    return {part: None if found is None else found.source for part, found in originals.items()}


def _built(run: FineTuned, part: str) -> object:
    """An encoder's configuration without LoRA, which is merged."""
    return {k: v for k, v in run.checkpoint.model[part].items() if k != "lora"}
