"""Turn a plan into complete configurations that differ only in the fusion."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer
from torch import nn

from vlm.core.part import build
from vlm.core.validation import did_you_mean, nearest
from vlm.data.datamodule import VQADataModule
from vlm.datasets.base import Split
from vlm.datasets.table import digest_of, digest_of_rest
from vlm.fusion import Fusion
from vlm.heads.base import AnswerHead
from vlm.model import VQAModel, freeze_unread
from vlm.studies.comparison.budget import BudgetError, solve_width
from vlm.studies.comparison.plan import Entry, Plan, PlanError
from vlm.studies.comparison.search import with_settings
from vlm.text import Prompt
from vlm.training.finetuning.plan import prepare_part
from vlm.training.readable import READABLE
from vlm.training.task import VQATask

SHARED = ("model.image_encoder", "model.text_encoder", "model.head", "model.tuning")
"""What sizes and costs take from the base, so that it is the same for all fusions."""


@dataclass(frozen=True)
class Variant:
    """One row of the comparison: a fusion, or a control, which removes something from the data.

    Attributes:
        config: complete configuration of its runs, with the base's seeds.
        widths: the init_args solved for.
        joint_parameters: trainable parameters of fusion and head, the only parts that differ.
        parameters: number of parameters of the whole model.
    """

    name: str
    control: str | None
    config: dict[str, Any]
    widths: dict[str, int]
    joint_parameters: int
    parameters: int

    @property
    def fusion(self) -> dict[str, Any]:
        """`class_path` and `init_args`, with all defaults written out."""
        return self.config["model"]["fusion"]


@dataclass(frozen=True)
class Base:
    """What all runs share, built but not trained; `parser` has the single argument `fusion`."""

    task: VQATask
    data: VQADataModule
    trainer: Trainer
    config: dict[str, Any]
    parser: ArgumentParser


class Builder:
    """Builds fusions that fit the base.

    `explain` shortens the parser's error for a class or argument that does not exist.
    """

    def __init__(self, plan: Plan, base: Base, explain: Callable[[str], str]) -> None:
        self.plan, self.base, self._explain = plan, base, explain

    @property
    def model(self) -> VQAModel:
        return self.base.task.model

    @property
    def data(self) -> VQADataModule:
        return self.base.data

    @cached_property
    def digest(self) -> str:
        """Of all questions, images and answers that the base trains on and tests.

        Raises:
            PlanError: data that cannot be read.
        """
        return self._digest("train", "validation", "test")

    @cached_property
    def digest_of_trained(self) -> str:
        """`digest` without the test split, which a search alone does not read.

        Raises:
            PlanError: as there.
        """
        return self._digest("train", "validation")

    def _digest(self, *splits: Split) -> str:
        try:
            tables = [self.data.table(split) for split in splits if self.data.dataset.has(split)]
        except READABLE as error:
            raise PlanError(f"{self.plan.path}: {error}") from error
        return "-".join(digest_of(table)[:8] + digest_of_rest(table)[:8] for table in tables)

    def check_test(self) -> None:
        """Refuse data on which no fusion could be tested, before anything is trained.

        Raises:
            PlanError: there is no test part, it has questions without answers, or it cannot be
                read.
        """
        try:
            self.data.dataset.check_answers("test")
        except READABLE as error:
            raise PlanError(f"{self.plan.path}: {error}") from error

    def variants(self, tuned: Mapping[str, Mapping[str, Any]] | None = None) -> list[Variant]:
        """All rows of the comparison: the fusions, sized if there is a budget, and the controls.

        Args:
            tuned: values of the settings that were tuned, by fusion.

        Raises:
            PlanError: a class or argument does not exist, or no width meets the budget.
        """
        base = self.run_config()
        made = [self.variant(name, (tuned or {}).get(name)) for name in self.plan.fusions]
        for control in self.plan.controls:
            config = copy.deepcopy(base)
            config["data"]["control"] = control
            made.append(self._variant(control, control, config, {}))
        return made

    def variant(self, name: str, values: Mapping[str, Any] | None = None) -> Variant:
        """The row of one fusion, with the values of its tuned settings if there are some.

        Raises:
            PlanError: as `variants` does; a setting that the fusion or the base does not have.
        """
        entry, config = self.plan.fusions[name], self.run_config()
        own = {key: value for key, value in (values or {}).items() if key in entry.search}
        shared = {key: value for key, value in (values or {}).items() if key not in own}
        try:
            if own:
                complete = with_settings(self._complete(entry.spec)["init_args"], own)
                changed = {key.partition(".")[0] for key in own}
                spec = entry.spec["init_args"] | {key: complete[key] for key in changed}
                entry = replace(entry, spec=entry.spec | {"init_args": spec})
            fusion, widths = self._sized(entry)
            config = with_settings(config, shared)
            config["model"]["fusion"] = fusion
            return self._variant(name, None, config, widths)
        except (ValueError, TypeError) as error:
            raise self._refused(name, error) from error

    def _refused(self, name: str, error: Exception) -> PlanError:
        return PlanError(f"{self.plan.path}: fusions.{name}: {self._explain(str(error))}")

    def check_search(self) -> None:
        """Refuse ranges of settings that do not exist, before anything is trained.

        Raises:
            PlanError: names the setting, and those that a fusion has; or a class or argument that
                does not exist.
        """
        search = self.plan.search
        if search is None:
            return
        try:
            with_settings(self.run_config(), dict.fromkeys(search.space))
            for name in search.space:
                if name.startswith(SHARED):
                    raise ValueError(
                        f"{name}: got a range of a part that all fusions share, whose size is "
                        f"counted once; expected settings of the fusion, the optimizer, the data "
                        f"or the trainer (`vlm tune` tunes any)"
                    )
        except ValueError as error:
            raise PlanError(f"{self.plan.path}: search.space: {error}.") from error
        for name, entry in self.plan.fusions.items():
            try:
                known = self._complete(entry.spec)["init_args"]
            except (ValueError, TypeError) as error:
                raise self._refused(name, error) from error
            for key in entry.search:
                try:
                    with_settings(known, {key: None})
                except ValueError:
                    raise PlanError(
                        f"{self.plan.path}: fusions.{name}.search.{key}: there is no such "
                        f"init_arg; expected one of {', '.join(known)}."
                        + did_you_mean(nearest(key, known))
                    ) from None

    def model_of(self, fusion: dict[str, Any]) -> VQAModel:
        """Build a model from copies of the base's encoders, this fusion and a matching head."""
        encoders = copy.deepcopy((self.model.image_encoder, self.model.text_encoder))
        return VQAModel(*encoders, *self._joint(fusion))

    def _variant(
        self, name: str, control: str | None, config: dict[str, Any], widths: dict[str, int]
    ) -> Variant:
        joint = self._count(config["model"]["fusion"])
        encoders = sum(map(trainable, (self.model.image_encoder, self.model.text_encoder)))
        return Variant(name, control, config, widths, joint, encoders + joint)

    def run_config(self) -> dict[str, Any]:
        """The base's configuration, as a run of its own needs it."""
        config = copy.deepcopy(self.base.config)
        config.pop("config", None)
        config["data"]["control"] = None
        config["run"]["test"] = True
        # A run sees its own GPU alone, and counts it from 0.
        on_gpu = self.base.trainer.strategy.root_device.type == "cuda"
        if on_gpu or isinstance(config["trainer"]["devices"], list):
            config["trainer"]["devices"] = 1
        # With many runs at once, progress bars would only fill the logs.
        config["trainer"] |= {"enable_progress_bar": False, "enable_model_summary": False}
        return config

    def _sized(self, entry: Entry) -> tuple[dict[str, Any], dict[str, int]]:
        """The fusion's complete configuration and the widths solved for."""
        fusion = self._complete(entry.spec)
        if self.plan.budget is None:
            return fusion, {}
        default = {name: _get(fusion["init_args"], name) for name in entry.width}
        first = next(iter(default.values()))

        def sized(width: int) -> tuple[dict[str, Any], dict[str, int]]:
            widths = {name: max(1, round(width * own / first)) for name, own in default.items()}
            changed = copy.deepcopy(fusion)
            for name, value in widths.items():
                _set(changed["init_args"], name, value)
            return changed, widths

        refused = ""

        def count(width: int) -> int | None:
            nonlocal refused
            try:
                return self._count(sized(width)[0])
            except ValueError as error:  # e.g. not divisible by the number of heads
                refused = f" (the last one: {error})"
                return None

        try:
            return sized(solve_width(count, self.plan.budget).width)
        except BudgetError as error:
            raise PlanError(f"width: {error}{refused}; the budget needs another one.") from error

    def _count(self, spec: dict[str, Any]) -> int:
        def count() -> int:
            return sum(map(trainable, self._joint(spec)))

        try:
            with torch.device("meta"):  # allocates no memory and draws no random numbers
                return count()
        except RuntimeError:  # the constructor computes with values
            return count()

    def _complete(self, spec: dict[str, Any]) -> dict[str, Any]:
        """The specification with the full class path and all defaults."""
        parser = self.base.parser
        config = parser.parse_object({"fusion": self._with_widths(spec)})
        complete = yaml.safe_load(parser.dump(config, skip_none=False))["fusion"]
        for width in ("image_dim", "text_dim"):  # linked during training
            del complete["init_args"][width]
        for name, value in complete["init_args"].items():
            if isinstance(value, str) and value.startswith("Unable to serialize"):
                raise PlanError(
                    f"init_args.{name}: its default is no plain data, which a run's configuration "
                    f"could not repeat; write it out in the plan."
                )
        return complete

    def _with_widths(self, spec: dict[str, Any]) -> dict[str, Any]:
        dims = {"image_dim": self.model.image_encoder.dim, "text_dim": self.model.text_encoder.dim}
        for name in dims:
            if name in spec["init_args"]:
                raise PlanError(f"init_args.{name}: comes from the encoder; remove it.")
        return {"class_path": spec["class_path"], "init_args": {**spec["init_args"], **dims}}

    def _joint(self, spec: dict[str, Any]) -> tuple[Fusion, AnswerHead]:
        """A new fusion with its head, of which the same is trained as in the runs."""
        fusion, tuning = self._fusion(spec), self.base.task.tuning
        if self.model.fusion.max_images > 1:
            fusion.take_images(self.model.fusion.max_images)
        head = self._head(fusion)
        if isinstance(self.model.text_encoder, Prompt):
            freeze_unread(fusion)
        prepare_part(fusion, tuning.fusion, "model.tuning.fusion")
        # The configuration of a head has its LoRA.
        prepare_part(head, replace(tuning.head, lora=None), "model.tuning.head")
        return fusion, head

    def _fusion(self, spec: dict[str, Any]) -> Fusion:
        parser = self.base.parser
        config = parser.parse_object({"fusion": self._with_widths(spec)})
        return parser.instantiate_classes(config).fusion

    def _head(self, fusion: Fusion) -> AnswerHead:
        config = copy.deepcopy(self.model.head.config)
        config["init_args"]["in_dim"] = fusion.out_dim
        return build(config, trust=True)  # same class as the base's


def trainable(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _get(content: Any, name: str) -> int:
    """The integer at a dotted name."""
    keys = name.split(".")
    for depth, key in enumerate(keys, start=1):
        if isinstance(content, list):
            content = {str(index): value for index, value in enumerate(content)}
        known = content if isinstance(content, dict) else {}
        if key not in known:
            raise PlanError(
                f"width: there is no init_arg {'.'.join(keys[:depth])}; expected one of "
                f"{', '.join(known) or 'no further names'}." + did_you_mean(nearest(key, known))
            )
        content = known[key]
    if not isinstance(content, int) or isinstance(content, bool):
        raise PlanError(
            f"width: {name} is {content!r}; expected an argument that is a whole number."
        )
    return content


def _set(content: Any, name: str, value: int) -> None:
    *above, last = name.split(".")
    for key in above:
        content = content[int(key)] if isinstance(content, list) else content[key]
    content[int(last) if isinstance(content, list) else last] = value


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the trainer's messages about devices and seeds."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.INFO))
    try:
        yield
    finally:
        logging.disable(before)
