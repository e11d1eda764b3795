"""Tune each fusion of a plan with the same number of trials, by Optuna."""

from __future__ import annotations

import copy
import csv
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from vlm.core.files import write_whole
from vlm.core.version import __version__
from vlm.studies.comparison.plan import PlanError
from vlm.studies.comparison.runs import LOG, Run, plan_run, train
from vlm.studies.comparison.search_space import Range, Search

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

SCORE = "val_accuracy"
"""What is tuned for: its highest value over the epochs of a trial."""
TUNED = "tuned.json"
NUMBER = "number"
"""Name of the attribute in which a study keeps a trial's number."""


@dataclass(frozen=True)
class Tuned:
    """The best trial of a fusion.

    Attributes:
        values: settings by name.
        score: validation accuracy that they reached.
        trials: number of trials by how they ended: "complete", "pruned", "fail".
        history: setting, score and end of every trial, in their order.
    """

    values: dict[str, Any]
    score: float
    trials: dict[str, int]
    history: list[dict[str, Any]]


class Trials:
    """The trials of one fusion: asked of Optuna one by one, watched, and told back to it.

    Its journal is a file, so that an interrupted search goes on where it was.

    Args:
        journal: its file.
        name: of the fusion.
        search: how many trials, and of what.
        own: settings that this fusion alone has, by name.
        make: makes a trial's run from its settings; raises ValueError where they do not fit.
    """

    def __init__(
        self,
        journal: Path,
        name: str,
        search: Search,
        own: Mapping[str, Range],
        make: Callable[[dict[str, Any]], Run],
    ) -> None:
        self.search, self.space, self.make = search, search.space | dict(own), make
        self.total = search.trials
        self.study = _study(journal, name, search.epochs or 1)
        ends = [trial.state.name for trial in self.study.get_trials(deepcopy=False)]
        if self.ended >= self.total and set(ends) == {"FAIL"}:
            journal.unlink()  # there is nothing to go on from, and the cause may be gone
            self.study = _study(journal, name, search.epochs or 1)
        self._active: dict[Path, list[Trial]] = {}  # several of the same values share a run
        self._reported: dict[Path, int] = {}
        self._pruned: set[Path] = set()
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state.name == "RUNNING":  # when the search was interrupted: once more
                self.study.tell(trial.number, state=_state("FAIL"))
                attributes = {"again": trial.number, NUMBER: trial.user_attrs.get(NUMBER)}
                self.study.enqueue_trial(trial.params, user_attrs=attributes)

    @property
    def ended(self) -> int:
        """Number of trials that need not run again."""
        return len(self.history())

    def runs(self) -> Iterator[Run]:
        """The trials that are missing, each asked for when there is room to run it."""
        while (asked := self.ended + sum(map(len, self._active.values()))) < self.total:
            # A sampler of its own for each, so that an interrupted search goes on as it would have.
            self.study.sampler = _sampler(self.search.seed, asked)
            trial = self.study.ask()
            number = self._number(trial)
            values = {name: each.suggest(trial, name) for name, each in self.space.items()}
            try:
                run = self.make(values)
            except ValueError as error:
                self._tell(trial, "FAIL", reason=str(error))
                continue
            if self._repeats(trial, run):
                continue
            trial.set_user_attr("folder", str(run.folder))
            same = self._active.setdefault(run.folder, [])
            same.append(trial)
            if len(same) > 1:
                continue
            if run.finished:  # and the search was interrupted before it was told
                self.end(run)
            else:
                yield replace(run, trial=number)

    def _number(self, trial: Trial) -> int:
        """The trial's number, from 1 on: its earlier one if it runs again, or the next."""
        number = trial.user_attrs.get(NUMBER)
        if number is None:
            rows = self.study.get_trials(deepcopy=False)
            taken = {row.user_attrs.get(NUMBER) for row in rows if not _lost(row)}
            number = next(each for each in itertools.count(1) if each not in taken)
            trial.set_user_attr(NUMBER, number)
        return int(number)

    def _repeats(self, trial: Trial, run: Run) -> bool:
        """Whether a trial has the values of an earlier one, whose end it shares then."""
        for row in self.history():
            if row.get("folder") == str(run.folder):
                if row["end"] == "complete":
                    self.study.tell(trial, row["score"])
                else:
                    self._tell(trial, row["end"].upper(), reason="as an earlier trial")
                return True
        return False

    def _tell(self, trial: Trial, end: str, reason: str) -> None:
        trial.set_user_attr("reason", reason)
        self.study.tell(trial, state=_state(end))

    def hopeless(self, run: Run) -> bool:
        """Whether Optuna gives the trial up, by its validation accuracy so far."""
        trial, scores = self._active[run.folder][0], scores_of(run)
        reported = self._reported.get(run.folder, 0)
        for epoch in range(reported, len(scores)):
            trial.report(scores[epoch], epoch + 1)
            last = epoch + 1 == self.search.epochs  # of a trained trial nothing more is saved
            if not run.finished and not last and trial.should_prune():
                self._pruned.add(run.folder)
        # The logger rewrites its file after each epoch; a read in the middle finds fewer rows.
        self._reported[run.folder] = max(reported, len(scores))
        return run.folder in self._pruned

    def end(self, run: Run) -> None:
        """Tell how the trial ended."""
        trial, *others = self._active.pop(run.folder)
        scores = scores_of(run)
        finite = list(filter(math.isfinite, scores))
        if run.folder in self._pruned:
            self._tell(trial, "PRUNED", "it fell behind")
        elif run.finished and finite:
            self.study.tell(trial, max(finite))
        elif run.finished and scores:
            self._tell(trial, "FAIL", f"its {SCORE} is not a number")
        else:
            self._tell(trial, "FAIL", f"see {run.folder / LOG}")
        for other in others:
            self._repeats(other, run)

    def best(self) -> Tuned | None:
        """The best trial; None if none was completed."""
        history = self.history()
        complete = [row for row in history if row["end"] == "complete"]
        if not complete:
            return None
        found = max(complete, key=lambda row: row["score"])
        ends = [row["end"] for row in history]
        counts = {end: ends.count(end) for end in ("complete", "pruned", "fail") if end in ends}
        return Tuned(found["values"], found["score"], counts, history)

    def history(self) -> list[dict[str, Any]]:
        """Values, score and end of each trial that ended, in their order; without those of an
        earlier, longer search."""
        rows = []
        for trial in self.study.get_trials(deepcopy=False):
            # None: the search was interrupted before the trial had its number.
            if (trial.user_attrs.get(NUMBER) or 0) > self.total:
                continue
            if trial.state.is_finished() and not _lost(trial):
                last = max(trial.intermediate_values.values(), default=None)
                rows.append(
                    {
                        "values": dict(trial.params),
                        "score": last if trial.value is None else trial.value,
                        "end": trial.state.name.lower(),
                    }
                    | trial.user_attrs
                )
        return rows


def _lost(trial: FrozenTrial) -> bool:
    """Whether an interruption ended the trial, which then runs again as another."""
    return trial.state.name == "FAIL" and "reason" not in trial.user_attrs


def tune(
    name: str,
    search: Search,
    own: Mapping[str, Range],
    base: Mapping[str, Any],
    configure: Callable[[dict[str, Any]], dict[str, Any]],
    output: Path,
    shares: Sequence[dict[str, str]],
    console: Console,
    data: str,
) -> Tuned:
    """Tune one configuration, in `output`/trials.

    Args:
        name: of the fusion, or whatever is tuned.
        search: how many trials, and of what.
        own: further settings.
        base: configuration before anything is tuned: trials of another one are not counted.
        configure: makes a complete configuration from the settings' values; raises ValueError
            where they do not fit together, which ends that trial alone.
        output: folder of the trials.
        shares: environments of the trials that run at once.
        console: where progress is shown.
        data: digest of the questions; see `plan_run`.

    Raises:
        PlanError: no trial was completed, or its metrics would not be written to its folder.
    """
    epochs, loggers = search.epochs, base["trainer"]["logger"]
    for one in loggers if isinstance(loggers, list) else [loggers]:
        if one is False or (isinstance(one, dict) and one["class_path"].endswith(".CSVLogger")):
            found = "false" if one is False else "a CSVLogger"
            raise PlanError(
                f"{name}: trainer.logger: got {found}, but a search reads the metrics.csv in each "
                f"trial's folder; remove this setting."
            )

    def make(values: dict[str, Any]) -> Run:
        config = configure(values)
        config["run"]["test"] = False
        if epochs is not None:
            config["trainer"]["max_epochs"] = epochs
        return plan_run(name, config, search.seed, output, "trials", data)

    ranges = {key: each._asdict() for key, each in (search.space | dict(own)).items()}
    about = [__version__, {k: v for k, v in base.items() if k != "run"}, ranges]
    content = json.dumps([*about, search.epochs, search.seed, data], sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    search = replace(search, epochs=search.epochs or base["trainer"]["max_epochs"] or -1)
    console.print(f"Tuning {name}: {search.trials} trials")
    trials = Trials(output / "trials" / f"{name}-{digest}.journal", name, search, own, make)
    train(trials, shares, console)
    best = trials.best()
    if best is None:
        reasons = "; ".join(str(row.get("reason", row["end"])) for row in trials.history())
        raise PlanError(f"{name}: none of its {search.trials} trials was completed: {reasons}")
    return best


def write_tuned(tuned: Mapping[str, Tuned], output: Path) -> None:
    content = json.dumps({name: asdict(best) for name, best in tuned.items()}, indent=1)
    write_whole(output / TUNED, content.encode())


def read_tuned(output: Path) -> dict[str, dict[str, Any]]:
    """The tuned values of each fusion; none of a comparison without a search."""
    path = output / TUNED
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {name: best["values"] for name, best in content.items()}


def _study(journal: Path, name: str, epochs: int) -> Study:
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ModuleNotFoundError as error:
        raise PlanError(
            "tuning needs the package optuna, which is not installed; "
            "run `pip install 'vlm-vqa[tune]'`."
        ) from error

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal.parent.mkdir(parents=True, exist_ok=True)
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal))),
        # Many fusions stay at chance for some epochs, so that early scores say nothing.
        pruner=optuna.pruners.SuccessiveHalvingPruner(
            min_resource=max(1, epochs // 3), reduction_factor=2
        )
        if epochs > 0
        else optuna.pruners.NopPruner(),  # a trial is as long as its steps, whatever its epochs
        study_name=name,
        direction="maximize",
        load_if_exists=True,
    )


def _sampler(seed: int, number: int) -> Any:
    from optuna.samplers import TPESampler

    return TPESampler(seed=(seed + 10_007 * number) % 2**32)


def _state(name: str) -> Any:
    from optuna.trial import TrialState

    return TrialState[name]


def scores_of(run: Run) -> list[float]:
    """Validation accuracy of each epoch so far."""
    for path in run.folder.glob("*/metrics.csv"):
        try:
            lines = path.read_text().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]
            return [float(row[SCORE]) for row in csv.DictReader(whole) if row.get(SCORE)]
        except (OSError, ValueError, KeyError):  # it is being written
            break
    return []


def with_settings(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with some settings changed, each by its dotted name, in which `init_args` may
    be left out, as on the command line of `vlm fit`.

    Raises:
        ValueError: a setting that the configuration does not have.
    """
    changed = copy.deepcopy(dict(config))
    for name, value in values.items():
        *above, last = name.split(".")
        place: Any = changed
        for key in above:
            place = _with_key(place, key)
            place = place.get(key) if isinstance(place, dict) else None
        place = _with_key(place, last)
        if not isinstance(place, dict) or last not in place:
            raise ValueError(f"there is no setting {name}")
        place[last] = value
    return changed


def _with_key(place: Any, key: str) -> Any:
    """What has the key: a part's arguments, where the part itself has it not."""
    return place.get("init_args") if isinstance(place, dict) and key not in place else place
