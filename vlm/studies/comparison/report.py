"""The report: accuracy, significance and cost of each fusion, with controls and baselines."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from vlm.core.bundled import config_name
from vlm.core.validation import counted
from vlm.core.version import __version__
from vlm.evaluation.render import Section, write_sections
from vlm.evaluation.significance import Estimate
from vlm.studies.comparison.cost import ROUNDS, STEPS, Cost
from vlm.studies.comparison.plan import Plan
from vlm.studies.comparison.results import Comparison, Outcome
from vlm.studies.report.plots import plot_accuracy, plot_costs
from vlm.studies.report.vocabularies import describe_vocabularies

BASELINES = {
    "majority": "majority (most frequent answer)",
    "question_only": "question only (most frequent answer to it)",
    "ceiling": "ceiling (best answer of the vocabulary)",
}
"""Columns of a run's test.json that need no training."""
CONTROLS = {
    "question_only": "question only (trained, grey images)",
    "image_only": "image only (trained, one question for all)",
    "image_shuffled": "image shuffled (trained, wrong images)",
}


def write_report(comparison: Comparison, folder: Path) -> Path:
    """Write the report of a comparison; returns the HTML file's path."""
    sections = [
        _question(comparison),
        *([_tuning(comparison)] if comparison.tuned else []),
        _accuracy(comparison),
        _significance(comparison),
        _cost(comparison),
    ]
    if comparison.failures:
        sections.append(_failures(comparison))
    sections += [_reading(comparison), _settings(comparison)]
    title = f"Comparison {comparison.plan.path.stem}"
    return write_sections(folder, title, sections, _results(comparison))


def _question(comparison: Comparison) -> Section:
    plan, config = comparison.plan, next(iter(comparison.variants.values())).config
    trained = sum(len(outcome.scores) for outcome in comparison.outcomes.values())
    size = (
        "each fusion at its own defaults, or as the plan sets it"
        if plan.budget is None
        else f"each fusion sized to {plan.budget:,} trainable parameters with its head"
    )
    base = " ".join([config_name(plan.base), *plan.options])
    names = ", ".join(
        config["model"][part]["class_path"].rpartition(".")[2]
        for part in ("image_encoder", "text_encoder", "head")
    )
    return Section(
        "What was compared",
        [
            _caveat(comparison),
            f"{counted(len(plan.fusions), 'fusion')}, {size}, with "
            f"{counted(len(plan.seeds), 'seed')} ({', '.join(map(str, plan.seeds))}); "
            f"{counted(trained, 'run')} finished.",
            f"Alike in all runs: {base}; {names}; data "
            f"{config['dataset']['class_path'].rpartition('.')[2]}{_training(plan, config)}.",
            f"{counted(len(comparison.questions.ids), 'test question')} about "
            f"{counted(len(set(comparison.questions.images)), 'image')}. vlm {__version__}, torch "
            f"{torch.__version__}, {time.strftime('%Y-%m-%d')}. Command: vlm compare {plan.path}",
        ],
    )


def _caveat(comparison: Comparison) -> str:
    holds = "These results hold for this data set, these encoders and this size."
    if comparison.tuned:
        return (
            f"{holds} Each fusion was tuned with as many trials, on the validation part; the test "
            f"part was read once for each run."
        )
    return (
        f"{holds} Nothing was tuned: all fusions share one learning rate and one number of epochs, "
        f"and some would do better with others."
    )


def _tuning(comparison: Comparison) -> Section:
    search = comparison.plan.search
    assert search is not None
    names = list(dict.fromkeys(name for best in comparison.tuned.values() for name in best.values))
    table = [["fusion", *names, "validation %", "trials"]]
    for name, best in comparison.tuned.items():
        values = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in best.values.values()]
        by_name = dict(zip(best.values, values, strict=True))
        ends = ", ".join(f"{count} {end}" for end, count in best.trials.items())
        row = [by_name.get(setting, "") for setting in names]
        table.append([name, *row, f"{100 * best.score:.2f}", ends])
    epochs = "all epochs" if search.epochs is None else counted(search.epochs, "epoch")
    text = (
        f"{search.trials} trials of {epochs} for each fusion, seed {search.seed}; Optuna chose the "
        f"values and gave up trials that fell behind. The values of the highest validation "
        f"accuracy are those of all seeds below. Every trial: tuned.json. The controls were not "
        f"tuned: they have the base's settings."
    )
    return Section("Tuning", [text], table)


def _training(plan: Plan, config: Any) -> str:
    """Epochs and optimiser, unless they are tuned, and what differs."""
    tuned = () if plan.search is None else tuple(plan.search.space)
    said = ""
    epochs, steps = (config["trainer"].get(name) or -1 for name in ("max_epochs", "max_steps"))
    most = " at most" if min(epochs, steps) > 0 else ""
    if "trainer.max_epochs" not in tuned and epochs > 0:
        said += f"; {counted(epochs, 'epoch')}{most}"
    if "trainer.max_steps" not in tuned and steps > 0:
        said += f"; {counted(steps, 'step')}{most}"
    if not any(name.startswith("model.optimizer") for name in tuned):
        said += f"; {_optimizer(config['model']['optimizer'])}"
    differ = "the fusion and the seed" if plan.search is None else "fusion, seed and tuned settings"
    return f"{said}. Only {differ} differ"


def _optimizer(config: Any) -> str:
    if not isinstance(config, dict):  # the class name only
        return str(config).rpartition(".")[2]
    rate = config.get("init_args", {}).get("lr")
    return f"{config['class_path'].rpartition('.')[2]} at a learning rate of {rate}"


def _accuracy(comparison: Comparison) -> Section:
    kinds = list(comparison.questions.rows())
    head = ["fusion", *(f"{kind} %" for kind in kinds), "median %", "solved", "seeds"]
    table = [head]
    labels = {o.name: f"{number} {o.name}" for number, o in enumerate(comparison.ranked, start=1)}
    for name, label in (labels | {o.name: CONTROLS[o.name] for o in comparison.controls}).items():
        cells = map(_with_interval, comparison.accuracies[name].values())
        outcome = comparison.outcomes[name]
        by_seed = outcome.table.mean(1)
        solved = f"{(by_seed >= comparison.plan.solved).sum()} of {len(by_seed)}"
        row = [f"{100 * np.median(by_seed):.2f}", solved, _seeds(comparison, outcome)]
        table.append([label, *cells, *row])
    baselines = _baselines(comparison)
    table += [
        [text, *(f"{100 * baselines[name][kind]:.2f}" for kind in kinds), "", "", ""]
        for name, text in BASELINES.items()
        if name in baselines
    ]
    controls = comparison.overall(comparison.controls)
    plot = plot_accuracy(
        comparison.overall(comparison.ranked),
        {CONTROLS[name]: found for name, found in controls.items()},
        {BASELINES[name]: value["overall"] for name, value in baselines.items()},
    )
    over = (
        "seeds and images"
        if len(comparison.plan.seeds) > 1
        else "images; with one seed, nothing is known of other seeds"
    )
    return Section(
        "Accuracy on test",
        [
            f"Mean over seeds, in brackets the 95 % interval over {over}. Below the fusions stand "
            f"the controls, trained with the base's own fusion on data with one side taken away, "
            f"and the baselines and the ceiling, which need no training. Median: of the seeds. "
            f"Solved: seeds with {100 * comparison.plan.solved:g} % and more.",
            describe_vocabularies(comparison.vocabularies()),
        ],
        table,
        [("accuracy.png", "accuracy with intervals", plot)],
    )


def _significance(comparison: Comparison) -> Section:
    best, differences = comparison.differences
    one_seed = len(comparison.plan.seeds) == 1
    over = "images, for these runs alone" if one_seed else "seeds and images"
    table = [["fusion", "difference in points", "p", "p (Holm)", "against the best"]]
    for row in differences:
        found = row.estimate
        verdict = "worse" if found.mean < 0 else "better, but lacks seeds"
        verdict = verdict if row.p_holm < 0.05 else "not told apart"
        if one_seed:
            verdict += " in this seed"
        elif row.seeds == 1:
            verdict = "only one seed in common"
        interval = f"{100 * found.mean:+.2f} ({100 * found.low:+.2f} to {100 * found.high:+.2f})"
        table.append([row.name, interval, _p(found.p), _p(row.p_holm), verdict])
    return Section(
        f"Against the best, {best}",
        [
            f"Paired: each difference is between runs of the same seed on the same questions. In "
            f"brackets the 95 % interval; p by Student's t over {over}, then corrected by Holm "
            f"for all pairs of fusions, since these very scores chose the best. That choice "
            f"favours it: do not read near ties as an order."
        ],
        table if differences else [],
    )


def _cost(comparison: Comparison) -> Section:
    head = ["fusion", "fusion + head", "whole model", "fusion MFLOPs / question"]
    head += ["model MFLOPs / question", "ms / step", "range of rounds", "peak memory MiB"]
    table = [[*head, "training s"]]
    labels = ("parameters of fusion + head", "fusion's MFLOPs per question", "ms per training step")
    plots: dict[str, dict[str, float]] = {label: {} for label in labels}
    for number, outcome in enumerate(comparison.ranked, start=1):
        variant, cost = comparison.variants[outcome.name], comparison.costs.get(outcome.name)
        row = [f"{number} {outcome.name}"]
        row += [f"{variant.joint_parameters:,}", f"{variant.parameters:,}"]
        values: list[float] = [variant.joint_parameters]
        if cost:
            flops = [f / cost.questions / 1e6 for f in (cost.fusion_flops, cost.flops)]
            memory = "-" if cost.memory is None else f"{cost.memory / 2**20:.1f}"
            row += [f"{flops[0]:.3g}", f"{flops[1]:.3g}", f"{cost.ms:.1f}"]
            row += [f"{cost.ms_low:.1f} - {cost.ms_high:.1f}", memory]
            values += [flops[0], cost.ms]
        else:
            row += ["-"] * 5
        table.append([*row, f"{statistics.median(outcome.seconds.values()):.1f}"])
        for label, value in zip(plots, values, strict=False):
            if value > 0:  # logarithmic axis
                plots[label][outcome.name] = value
    overall = comparison.overall(comparison.ranked)
    shown = {label: values for label, values in plots.items() if values}
    return Section(
        "Cost",
        [_cost_text(list(comparison.costs.values()))],
        table,
        [("costs.png", "accuracy against cost", plot_costs(overall, shown))],
    )


def _cost_text(costs: Sequence[Cost]) -> str:
    text = "Trainable parameters. Training seconds are the median run's, as it happened to run."
    if not costs:
        return text
    return (
        f"{text} The rest was measured on one training batch of "
        f"{counted(costs[0].questions, 'question')} about {counted(costs[0].images, 'image')} on "
        f"{costs[0].device}, before the training. FLOPs: forward and backward, a multiply-add "
        f"counts two; matrix products, convolutions and attention count, elementwise operations "
        f"and FFTs do not. Milliseconds of a training "
        f"step: median of {ROUNDS} rounds of {STEPS} steps, the models taking turns, and the "
        f"rounds' lowest and highest median. Peak memory: weights, optimiser state and the most "
        f"that a step held beside them."
    )


def _failures(comparison: Comparison) -> Section:
    table = [["run", "log", "its last line"]]
    table += [[f.run.title, str(f.log), f.reason] for f in comparison.failures]
    return Section("Failed runs", ["They are missing above."], table)


def _reading(comparison: Comparison) -> Section:
    text = [
        "Question only: a model that never saw an image. It shows how far guessing from the "
        "question goes; a fusion is worth what it adds. Image only: a model that never saw a "
        "question. Image shuffled: images of the same kind, but the wrong ones; if it scores much "
        "higher than question only, answers leak through the images.",
    ]
    if (budget := comparison.plan.budget) is not None:
        far = [
            f"{name} ({variant.joint_parameters:,})"
            for name, variant in comparison.variants.items()
            if variant.widths and abs(variant.joint_parameters / budget - 1) > 0.05
        ]
        if far:
            off = f"More than 5 % off the budget of {budget:,}, since no width comes nearer: "
            text.append(f"{off}{', '.join(far)}.")
    return Section("How to read this", text)


def _settings(comparison: Comparison) -> Section:
    fusions = {
        name: variant.fusion | ({"solved": variant.widths} if variant.widths else {})
        for name, variant in comparison.variants.items()
        if variant.control is None
    }
    text = ["Each fusion with all its arguments. A run's own plan.yaml repeats it: vlm fit -c ..."]
    return Section("Settings", text, code=yaml.safe_dump(fusions, sort_keys=False))


def _baselines(comparison: Comparison) -> dict[str, dict[str, float]]:
    """Baselines by column, then by type: means over seeds, since each has its own training part."""
    # Only from fusions: the controls change the data and so the baselines.
    tests = {seed: rows for outcome in comparison.ranked for seed, rows in outcome.tests.items()}
    each = [{row["type"]: row for row in rows} for rows in tests.values()]
    return {
        name: {kind: statistics.fmean(rows[kind][name] for rows in each) for kind in each[0]}
        for name in BASELINES
        if name in each[0]["overall"]
    }


def _results(comparison: Comparison) -> dict[str, Any]:
    best, differences = comparison.differences
    lines = {}
    for name, outcome in comparison.outcomes.items():
        variant, cost = comparison.variants[name], comparison.costs.get(name)
        lines[name] = {
            "control": variant.control,
            "fusion": variant.fusion,
            "solved_for": variant.widths,
            "tuned": asdict(comparison.tuned[name]) if name in comparison.tuned else None,
            "median": float(np.median(outcome.table.mean(1))),
            "solved": int((outcome.table.mean(1) >= comparison.plan.solved).sum()),
            "joint_parameters": variant.joint_parameters,
            "parameters": variant.parameters,
            "accuracy": {
                kind: found._asdict() for kind, found in comparison.accuracies[name].items()
            },
            "by_seed": {seed: float(np.mean(row)) for seed, row in outcome.scores.items()},
            "vocabularies": outcome.vocabularies,
            "seconds": outcome.seconds,
            "runs": {seed: str(folder) for seed, folder in outcome.folders.items()},
            "cost": asdict(cost) if cost else None,
        }
    return {
        "plan": str(comparison.plan.path),
        "floors": _baselines(comparison),
        "lines": lines,
        "best": best,
        "against_best": {
            row.name: row.estimate._asdict() | {"p_holm": row.p_holm} for row in differences
        },
        "failed": {f.run.title: str(f.log) for f in comparison.failures},
    }


def _with_interval(found: Estimate) -> str:
    return f"{100 * found.mean:.2f} ({100 * found.low:.2f} - {100 * found.high:.2f})"


def _seeds(comparison: Comparison, outcome: Outcome) -> str:
    done, planned = len(outcome.scores), len(comparison.plan.seeds)
    note = ", interval over images alone" if done == 1 < planned else ""
    return str(done) if done == planned else f"{done} of {planned}{note}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
