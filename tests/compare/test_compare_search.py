"""The search for settings: the same for each fusion, watched, continued, refused in one line."""

from __future__ import annotations

import copy
import io
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from optuna.trial import TrialState
from rich.console import Console

from vlm.cli.comparison_base import builder_of
from vlm.cli.main import main
from vlm.studies.comparison.plan import PlanError, read_plan
from vlm.studies.comparison.runs import FINISHED, LOG, PLAN, Run, plan_run, train
from vlm.studies.comparison.search import Trials, tune, with_settings
from vlm.studies.comparison.search_space import Range, Search

CONFIG: dict[str, Any] = {
    "seed_everything": 0,
    "dataset": {"init_args": {}},
    "data": {},
    "run": {},
    "trainer": {"max_epochs": 9},
    "model": {"lr": 0.1, "depth": 1},
}
SPACE = {"model.lr": Range(low=1e-4, high=1e-1, log=True), "model.depth": Range((1, 2, 3))}
WORKER = """
import json, pathlib, sys, time, yaml
config = yaml.safe_load(open("plan.yaml"))
lr, depth = config["model"]["lr"], config["model"]["depth"]
assert depth < {refused}, "too deep"
folder = pathlib.Path("made")
folder.mkdir()
rows = ["epoch,val_accuracy,test_accuracy"]
for epoch in range(4):
    rows.append(f"{{epoch}},{{(depth / 3 - lr) * (epoch + 1) / 4}},")
    (folder / "metrics.csv").write_text("\\n".join(rows) + "\\n")
    if lr > {slow}:
        time.sleep(60 if epoch == 1 else 0)
pathlib.Path("finished.json").write_text(json.dumps({{"run": "made"}}))
"""


def worker(refused: int = 9, slow: float = 9.0) -> Callable[..., subprocess.Popen[bytes]]:
    def begin(run: Run, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / PLAN).write_text(yaml.safe_dump(run.config))
        with (run.folder / LOG).open("wb") as log:
            command = [sys.executable, "-c", WORKER.format(refused=refused, slow=slow)]
            return subprocess.Popen(command, cwd=run.folder, stdout=log, stderr=log)

    return begin


def search(folder: Path, trials: int = 6, name: str = "a") -> Trials:
    def make(values: dict[str, Any]) -> Run:
        return plan_run(name, with_settings(CONFIG, values), 0, folder, "trials")

    journal = folder / "trials" / f"{name}.journal"
    return Trials(journal, name, Search(trials, SPACE), {}, make)


def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def test_every_fusion_has_the_same_trials_and_the_best_is_kept(tmp_path: Path) -> None:
    found = {}
    for name in "ab":
        trials = search(tmp_path, name=name)
        assert train(trials, [{}], console(), worker()) == []
        found[name] = trials.best()
    first, second = found["a"], found["b"]
    assert first is not None
    assert second is not None
    assert [row["values"] for row in first.history] == [row["values"] for row in second.history]
    assert len(first.history) == 6
    assert first.score == max(row["score"] for row in first.history)
    expected = first.values["model.depth"] / 3 - first.values["model.lr"]
    assert first.score == pytest.approx(expected)
    assert first.trials == {"complete": 6}


def test_an_interrupted_search_goes_on_as_it_would_have(tmp_path: Path) -> None:
    whole = search(tmp_path / "whole")
    train(whole, [{}], console(), worker())
    begun = 0

    def twice(run: Run, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        nonlocal begun
        begun += 1
        if begun == 3:
            raise KeyboardInterrupt
        return worker()(run, environment)

    with pytest.raises(KeyboardInterrupt):
        train(search(tmp_path / "cut"), [{}], console(), twice)
    again = search(tmp_path / "cut")
    assert again.ended == 2
    train(again, [{}], console(), worker())
    one, other = whole.best(), again.best()
    assert one is not None
    assert other is not None
    assert len(other.history) == 6
    # The third was interrupted, and is trained again with its own values.
    assert [row["values"] for row in other.history] == [row["values"] for row in one.history]
    assert [row["number"] for row in other.history] == [1, 2, 3, 4, 5, 6]
    assert other.score == one.score


@pytest.mark.slow
def test_a_trial_that_falls_behind_is_killed(tmp_path: Path) -> None:
    trials = search(tmp_path, trials=8)
    shown = console()
    assert train(trials, [{}], shown, worker(slow=0.01)) == []  # it would take minutes
    best = trials.best()
    assert best is not None
    assert best.trials["pruned"] >= 1
    assert sum(best.trials.values()) == 8
    assert isinstance(shown.file, io.StringIO)
    lines = shown.file.getvalue().splitlines()
    assert any(
        re.fullmatch(r"a, trial \d: fell behind, stopped after \d+ s", line) for line in lines
    )
    assert any(re.fullmatch(r"a, trial \d: finished in \d+ s", line) for line in lines)
    for row in best.history:
        assert (row["end"] == "complete") or row["values"]["model.lr"] > 0.01


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_equal_values_are_trained_once_and_count_as_what_they_gave(
    jobs: int, tmp_path: Path
) -> None:
    def make(values: dict[str, Any]) -> Run:
        return plan_run("a", with_settings(CONFIG, values), 0, tmp_path, "trials")

    space = {"model.depth": Range((1, 2))}
    trials = Trials(tmp_path / "trials/a.journal", "a", Search(6, space), {}, make)
    assert train(trials, [{}] * jobs, console(), worker()) == []
    best = trials.best()
    assert best is not None
    assert best.trials == {"complete": 6}
    assert best.values == {"model.depth": 2}
    assert len(list(tmp_path.glob("trials/a/*"))) == 2


def test_no_trial_is_given_up_after_its_last_epoch(tmp_path: Path) -> None:
    def make(values: dict[str, Any]) -> Run:
        return plan_run("a", with_settings(CONFIG, values), 0, tmp_path, "trials")

    search = Search(3, {"model.depth": Range((1, 2, 3))}, epochs=1)
    trials = Trials(tmp_path / "trials/a.journal", "a", search, {}, make)
    for run, score in zip(trials.runs(), (0.9, 0.5, 0.1), strict=False):
        (run.folder / "made").mkdir(parents=True)
        row = f"epoch,val_accuracy,test_accuracy\n0,{score},\n"
        (run.folder / "made/metrics.csv").write_text(row)
        assert not trials.hopeless(run)
        (run.folder / FINISHED).write_text('{"run": "made"}')
        trials.end(run)
    best = trials.best()
    assert best is not None
    assert best.trials == {"complete": 3}


def test_a_log_that_is_being_written_is_read_again_later(tmp_path: Path) -> None:
    trials = search(tmp_path, trials=1)
    (run,) = trials.runs()
    log = run.folder / "made/metrics.csv"
    log.parent.mkdir(parents=True)
    rows = "epoch,val_accuracy,test_accuracy\n0,0.5,\n1,0.6,\n"
    for content in (rows, "", rows + "2,0.7", rows + "2,0.75,\n"):
        log.write_text(content)
        assert not trials.hopeless(run)  # Optuna warns of an epoch that it knows
    assert trials.study.trials[0].intermediate_values == {1: 0.5, 2: 0.6, 3: 0.75}


def test_a_failing_trial_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    trials = search(tmp_path)
    failures = train(trials, [{}], console(), worker(refused=3))
    assert failures
    assert all(failure.reason == "AssertionError: too deep" for failure in failures)
    best = trials.best()
    assert best is not None
    assert best.trials["fail"] == len(failures)
    assert best.trials["complete"] == 6 - len(failures)
    assert best.values["model.depth"] < 3
    again = search(tmp_path)
    assert again.ended == 6  # a failure is not tried again


def test_a_search_that_failed_as_a_whole_is_begun_anew(tmp_path: Path) -> None:
    train(search(tmp_path), [{}], console(), worker(refused=0))
    trials = search(tmp_path)  # the cause may be gone
    assert trials.ended == 0
    assert train(trials, [{}], console(), worker()) == []
    best = trials.best()
    assert best is not None
    assert best.trials == {"complete": 6}


def test_a_shorter_search_forgets_no_finished_trial(tmp_path: Path) -> None:
    begun = 0

    def two_fail(run: Run, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        nonlocal begun
        begun += 1
        return worker(refused=0 if begun <= 2 else 9)(run, environment)

    train(search(tmp_path), [{}], console(), two_fail)
    assert search(tmp_path, trials=2).ended == 2
    assert search(tmp_path).ended == 6
    cut = search(tmp_path / "cut")
    train(cut, [{}], console(), worker(refused=0))
    assert search(tmp_path / "cut", trials=7).ended == 6, "one is missing, so it goes on"


def test_a_trial_that_was_told_but_not_asked_again_leaves_its_number(tmp_path: Path) -> None:
    begun = search(tmp_path, trials=2)
    lost = begun.study.ask()
    begun._number(lost)
    begun.study.tell(lost, state=TrialState.FAIL)  # then the process was killed
    trials = search(tmp_path, trials=2)
    assert train(trials, [{}], console(), worker()) == []
    assert [row["number"] for row in trials.history()] == [1, 2]


def test_a_score_that_is_not_a_number_fails_its_trial(tmp_path: Path) -> None:
    def broken(run: Run, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        begun = worker()(run, environment)
        begun.wait()
        path = run.folder / "made/metrics.csv"
        path.write_text("epoch,val_accuracy\n0,nan\n")
        return begun

    trials = search(tmp_path, trials=2)
    train(trials, [{}], console(), broken)
    assert [(row["end"], row["reason"]) for row in trials.history()] == [
        ("fail", "its val_accuracy is not a number")
    ] * 2


@pytest.mark.parametrize("logger", [False, [{"class_path": "some.CSVLogger"}]])
def test_metrics_that_would_be_elsewhere_are_refused(logger: Any, tmp_path: Path) -> None:
    base = {"trainer": {"logger": logger}}
    with pytest.raises(PlanError, match=r"a: trainer.logger: got .* reads the metrics.csv in each"):
        tune("a", Search(2, SPACE), {}, base, dict, tmp_path, [{}], console(), "")


def test_the_largest_seed_can_be_searched_with(tmp_path: Path) -> None:
    trials = search(tmp_path)
    trials.search = replace(trials.search, seed=2**32 - 1)
    assert [run.seed for run in itertools.islice(trials.runs(), 2)] == [0, 0]


def test_a_search_that_ended_before_its_trial_had_a_number_goes_on(tmp_path: Path) -> None:
    search(tmp_path).study.ask()
    trials = search(tmp_path)
    assert train(trials, [{}], console(), worker()) == []
    assert sorted(row["number"] for row in trials.history()) == [1, 2, 3, 4, 5, 6]


def test_no_setting_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"there is no setting model\.rate"):
        with_settings(CONFIG, {"model.rate": 1})
    assert with_settings(CONFIG, {"model.lr": 2})["model"] == {"lr": 2, "depth": 1}
    part = {"optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.1}}}
    changed = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 2}}
    for name in ("optimizer.lr", "optimizer.init_args.lr"):  # as `vlm fit` takes both
        assert with_settings(part, {name: 2}) == {"optimizer": changed}
    assert CONFIG["model"]["lr"] == 0.1


def plan(folder: Path, data: Path, **changes: Any) -> Path:
    content = {
        "base": str(ROOT / "configs/easy_vqa.yaml"),
        "seeds": [0],
        "controls": [],
        "fusions": {
            "product": "vlm.fusion.Pooled",
            "cross": {
                "class_path": "vlm.fusion.CrossAttention",
                "init_args": {"out_dim": 16},
                "search": {"num_layers": [1, 2]},
            },
        },
        "overrides": {
            "dataset": {"root": str(data), "validation_share": 0.25},
            "data": {"images_per_batch": 3},
            "trainer.max_epochs": 2,
        },
        "search": {
            "trials": 2,
            "epochs": 1,
            "space": {"model.optimizer.init_args.lr": {"low": 1e-3, "high": 1e-2, "log": True}},
        },
    }
    (folder / "plan.yaml").write_text(yaml.safe_dump(content | copy.deepcopy(changes)))
    return folder / "plan.yaml"


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no trials": ({"search": {"space": {"a": [1, 2]}}}, "search.trials: got None; expected a who"),
    "nothing": ({"search": {"trials": 3}}, "fusions.product: nothing is tuned; expected settings"),
    "one point": (
        {"search": {"trials": 3, "space": {"trainer.max_epochs": [3]}}},
        "search.space.trainer.max_epochs: got [3], which leaves nothing to choose; expected two",
    ),
    "an empty range": (
        {"search": {"trials": 3, "space": {"a.b": {"low": 2, "high": 2}}}},
        "search.space.a.b: got 2 to 2; expected two numbers, the first below the second",
    ),
    "log of zero": (
        {"search": {"trials": 3, "space": {"a.b": {"low": 0, "high": 2, "log": True}}}},
        "search.space.a.b: got 0 to 2; expected two numbers above 0",
    ),
    "own": (
        {"search": {"trials": 3, "space": {"seed_everything": [1, 2]}}},
        "search.space.seed_everything: the comparison sets seed_everything itself; remove it",
    ),
    "epochs twice": (
        {"search": {"trials": 3, "epochs": 1, "space": {"trainer.max_epochs": [3, 4]}}},
        "search.space.trainer.max_epochs: search.epochs sets it; remove one",
    ),
    "endless": (
        {"search": {"trials": 3, "space": {"a.b": {"low": 1, "high": float("inf")}}}},
        "expected a list of values, or {low: ..., high: ..., log: true}, both finite numbers",
    ),
    "a number as name": (
        {"search": {"trials": 3, "space": {5: [1, 2]}}},
        "search.space: got 5; expected settings with their values",
    ),
    "a checkpoint": (
        {"search": {"trials": 3, "space": {"ckpt_path": ["a", "b"]}}},
        "search.space.ckpt_path: the comparison sets ckpt_path itself; remove it",
    ),
    "a budget too, in short": (
        {
            "budget": 10,
            "fusions": {
                "a": {
                    "class_path": "x",
                    "width": "merge.init_args.out_dim",
                    "search": {"merge.out_dim": [1, 2]},
                }
            },
        },
        "fusions.a.search.merge.out_dim: the budget solves for it; remove one of the two",
    ),
    "no mapping": (
        {"fusions": {"a": {"class_path": "x", "search": [1]}}},
        "fusions.a.search: got [1]; expected settings with their values",
    ),
    "a budget too": (
        {
            "budget": 10,
            "fusions": {"a": {"class_path": "x", "width": "d", "search": {"d": [1, 2]}}},
        },
        "fusions.a.search.d: the budget solves for it; remove one of the two",
    ),
    "no search": (
        {"search": None},
        "fusions.cross.search: got ranges without `search:`; expected both",
    ),
}


@pytest.mark.parametrize(("changes", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(changes: dict[str, Any], message: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError) as raised:
        read_plan(plan(tmp_path, data, **changes))
    assert message in str(raised.value)


def test_settings_that_do_not_exist(data: Path, tmp_path: Path) -> None:
    cross = {"class_path": "vlm.fusion.CrossAttention", "search": {"num_layer": [1, 2]}}
    builder = builder_of(read_plan(plan(tmp_path, data, fusions={"cross": cross})))
    with pytest.raises(
        PlanError, match=r"cross.search.num_layer: there is no .* Did you mean num_"
    ):
        builder.check_search()
    wrong = {"class_path": "vlm.fusion.CrossAttn", "search": {"num_layers": [1, 2]}}
    builder = builder_of(read_plan(plan(tmp_path, data, fusions={"cross": wrong})))
    with pytest.raises(PlanError, match=r"fusions\.cross: .* Did you mean vlm\.fusion\.CrossAtt"):
        builder.check_search()
    space = {"trials": 2, "space": {"model.optimizer.init_args.rate": [1, 2]}}
    builder = builder_of(read_plan(plan(tmp_path, data, search=space)))
    with pytest.raises(PlanError, match=r"there is no setting model\.optimizer\.init_args\.rate"):
        builder.check_search()
    space = {"trials": 2, "space": {"model.text_encoder.init_args.dim": [16, 32]}}
    builder = builder_of(read_plan(plan(tmp_path, data, search=space)))
    with pytest.raises(
        PlanError, match=r"text_encoder\.init_args\.dim: got a range of a part that"
    ):
        builder.check_search()


def test_a_test_part_that_cannot_be_scored_is_refused_at_once(data: Path, tmp_path: Path) -> None:
    rows = [{"image": str(data / "test/images/0.png"), "question": "is it red?"}]
    (tmp_path / "test.jsonl").write_text(json.dumps(rows[0]) + "\n")
    train = [row | {"answer": "yes"} for row in rows]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in train))
    dataset = {
        "class_path": "vlm.datasets.CustomDataset",
        "init_args": {
            "path": str(tmp_path / "train.jsonl"),
            "validation": str(tmp_path / "train.jsonl"),
            "test": str(tmp_path / "test.jsonl"),
        },
    }
    path = plan(tmp_path, data)
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(content | {"overrides": {"dataset": dataset}}))
    with pytest.raises(PlanError, match="got 1 of the 1 test questions without answers"):
        builder_of(read_plan(path)).check_test()


@pytest.mark.slow
def test_a_tuned_comparison(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    for _ in range(2):  # the second time everything is there
        with pytest.raises(SystemExit) as ended:
            main(["compare", str(plan(tmp_path, data)), "--output", str(output)])
        assert ended.value.code == 0
    tuned = json.loads((output / "tuned.json").read_text())
    assert set(tuned["cross"]["values"]) == {"model.optimizer.init_args.lr", "num_layers"}
    (run,) = output.glob("runs/cross/*/plan.yaml")
    config = yaml.safe_load(run.read_text())
    assert (
        config["model"]["fusion"]["init_args"]["num_layers"]
        == tuned["cross"]["values"]["num_layers"]
    )
    lr = tuned["cross"]["values"]["model.optimizer.init_args.lr"]
    assert config["model"]["optimizer"]["init_args"]["lr"] == lr
    assert config["trainer"]["max_epochs"] == 2
    assert len(list(output.glob("trials/cross/*/finished.json"))) == 2
    assert not list(output.glob("trials/*/*/*/test.json"))
    report = (output / "report.md").read_text()
    assert "Each fusion was tuned with as many trials" in report
    assert "## Tuning" in report
    assert "2 epochs. Only fusion, seed and tuned settings differ." in report
    results = json.loads((output / "results.json").read_text())["lines"]["cross"]
    assert results["tuned"]["trials"] == {"complete": 2}
    assert results["solved"] in (0, 1)
