"""Measures runs that fine-tuned the same encoders, and the weights between before and after."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from vlm.checkpoint.checkpoint import CheckpointError, load_model
from vlm.data.datamodule import VQADataModule
from vlm.datasets.errors import DataError
from vlm.image.base import PictureEncoder
from vlm.model import VQAModel
from vlm.studies.forgetting.accuracy import Examiner
from vlm.studies.forgetting.heads import Head, HeadError, Probe, original_head
from vlm.studies.forgetting.interpolate import interpolate
from vlm.studies.forgetting.original import ENCODERS, Original, original
from vlm.studies.forgetting.pictures import PictureMeasure, folder_photos, test_photos
from vlm.studies.forgetting.run import FineTuned
from vlm.studies.forgetting.study import Settings, State, Study, state_name
from vlm.studies.forgetting.texts import TextMeasure, read_sentences
from vlm.text.base import TextEncoder

DEVICE = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
"""As Lightning chooses it."""
NOTHING = "no pretrained weights"


ReadData = Callable[[Path, Sequence[str]], VQADataModule]
"""A run's configuration and further options of `vlm fit` -> its data."""


def measure(runs: Sequence[FineTuned], settings: Settings, read_data: ReadData) -> Study:
    """Measure runs of the same encoders.

    Args:
        runs: at least one.
        settings: what to measure.
        read_data: called for runs whose data are needed.

    Raises:
        CheckpointError: neither encoder had pretrained weights, or they are not those of the
            first run.
        DataError: photos, sentences or questions that are missing, or not those of the first run.
        HeadError: a probe that does not fit.
        OSError: original weights that are not to be had.
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
            # Features of a frozen encoder would be made, and kept, for all weights between.
            data.images = replace(data.images, features=None)
        if measures is None:
            measures = _Measures(study, run, model, originals, data)
        else:
            measures.check_same(run, originals)
        examiner = None
        if data is not None and settings.split is not None:
            examiner = Examiner(data, settings.split)
        for alpha, weights in _between(model, originals, settings.alphas):
            for part, values in weights.items():
                getattr(model, part).load_state_dict(values, strict=False)
            study.states.append(measures.state(run, alpha, model, originals, examiner))
        if settings.alphas and study.states[-1].alpha == 1 and settings.alphas != (1.0,):
            study.notes.append(
                f"{run.name}: its encoders are the original ones, so nothing lies between."
            )
    return study


def _between(
    model: VQAModel, originals: dict[str, Original | None], alphas: Sequence[float]
) -> Iterator[tuple[float, dict[str, dict[str, Tensor]]]]:
    """The run's own weights at 1, and those between, from after to before; none of an encoder
    that did not change."""
    ends = {}
    for part, found in originals.items():
        if found is not None:
            own = getattr(model, part).state_dict()
            ends[part] = (found.weights, {name: own[name].clone() for name in found.weights})
    changed = any(
        not torch.equal(before[name].cpu(), after[name].cpu())  # one may have moved already
        for before, after in ends.values()
        for name in before
    )
    inner = sorted({alpha for alpha in alphas if alpha < 1}, reverse=True) if changed else []
    for alpha in (1.0, *inner):
        yield alpha, {part: interpolate(*pair, alpha) for part, pair in ends.items()}


class _Measures:
    """The originals of the first run, looked at once."""

    def __init__(
        self,
        study: Study,
        run: FineTuned,
        model: VQAModel,
        originals: dict[str, Original | None],
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
        self.exam_ids: list[str] | None = None
        self.pictures: PictureMeasure | None = None
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
            elif isinstance(found.encoder, PictureEncoder):
                self.pictures = self._of_pictures(found, found.encoder, data)
            elif isinstance(found.encoder, TextEncoder):
                sentences = read_sentences(settings.sentences)
                self.texts = TextMeasure(
                    found.encoder.to(DEVICE), sentences, settings.neighbours, settings.batch_size
                )
                study.about[part] = (
                    f"{found.source}; {sentences.about} and their {len(self.texts.words)} words "
                    f"that it knows, {settings.neighbours} neighbours of each"
                )

    def _of_pictures(
        self, found: Original, encoder: PictureEncoder, data: VQADataModule | None
    ) -> PictureMeasure:
        settings = self.study.settings
        if settings.photos is not None:
            photos = folder_photos(settings.photos, settings.most_photos)
        else:
            assert data is not None
            photos = test_photos(data, settings.most_photos)
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
            f"{found.source}; {len(photos.names):,} photos {photos.about}"
            + (f"; classes of {head.about}" if head else "")
        )
        return PictureMeasure(encoder.to(DEVICE), photos, head, settings.batch_size)

    def check_same(self, run: FineTuned, originals: dict[str, Original | None]) -> None:
        """Refuse a run whose retention could not be set beside the first one's."""
        for part, source in _sources(originals).items():
            if source != self.sources[part]:
                raise CheckpointError(
                    f"{run.checkpoint.path}: its {part} began with {source or NOTHING}, and that "
                    f"of {self.first.name} with {self.sources[part] or NOTHING}; expected runs "
                    f"that fine-tuned the same encoders."
                )
            if source is not None and _built(run, part) != _built(self.first, part):
                raise CheckpointError(
                    f"{run.checkpoint.path}: its {part} has another architecture or other "
                    f"arguments than that of {self.first.name}; expected runs that fine-tuned the "
                    f"same encoders."
                )

    def state(
        self,
        run: FineTuned,
        alpha: float,
        model: VQAModel,
        originals: dict[str, Original | None],
        examiner: Examiner | None,
    ) -> State:
        """Measure a model."""
        name = state_name(run, alpha)
        exam = None if examiner is None else examiner.ask(model)
        if exam is not None:
            self.exam_ids = self.exam_ids or exam.ids
            if exam.ids != self.exam_ids:
                raise DataError(
                    f"{run.name} was asked other questions than {self.first.name}; expected one "
                    f"{self.study.settings.split} split for all runs (dataset.seed chooses the "
                    f"photos held out)."
                )
        pictures, texts = None, None
        model.to(DEVICE)
        if self.pictures is not None:
            pictures = self.pictures.retention(model.image_encoder, name)  # type: ignore[arg-type]
        if self.texts is not None:
            found = originals["text_encoder"]
            assert found is not None
            view = found.view(model.text_encoder).to(DEVICE)
            texts = self.texts.retention(view, name)  # type: ignore[arg-type]
        return State(run, alpha, exam, pictures, texts)


def _sources(originals: dict[str, Original | None]) -> dict[str, str | None]:
    return {part: None if found is None else found.source for part, found in originals.items()}


def _built(run: FineTuned, part: str) -> object:
    """An encoder's configuration but for LoRA, which is merged."""
    return {k: v for k, v in run.checkpoint.model[part].items() if k != "lora"}
