"""`vlm compare`: from a plan to a report."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vlm.cli.command_parser import command_parser
from vlm.core.files import locked
from vlm.core.terminal import new_console, new_table
from vlm.studies.comparison.plan import Plan, PlanError, read_plan

if TYPE_CHECKING:
    from vlm.studies.comparison.build import Builder

HELP = """\
Train a list of fusions with the same encoders, data and schedule over several seeds, and report
accuracy, significance and cost beside the controls.
"""
EXAMPLE = """\
A plan is a YAML file:

  base: ../easy_vqa.yaml              # what all runs share: a configuration of `vlm fit`
  seeds: [0, 1, 2]
  budget: null                        # or parameters of fusion + head, to solve for the width
  controls: [question_only, image_only, image_shuffled]
  overrides: {trainer.max_epochs: 5}  # for every run, as on the command line of `vlm fit`
  search:                             # optional: tunes each fusion first
    trials: 6                         # of each fusion, pruned by validation accuracy
    epochs: 3                         # of each trial; by default those of the base
    space:
      model.optimizer.init_args.lr: {low: 0.0003, high: 0.01, log: true}
  fusions:
    product:
      class_path: vlm.fusion.Pooled
      init_args: {merge: {class_path: vlm.fusion.Product}}
      width: merge.init_args.out_dim  # what a budget sets
    attention:
      class_path: vlm.fusion.CrossAttention
      width: [out_dim, feedforward_dim]  # the others stay in proportion to the first
      search: {num_layers: [1, 2]}       # for this fusion only

examples:
  vlm compare configs/compare/easy_vqa.yaml
  vlm compare configs/compare/easy_vqa.yaml --dry-run     what it would train
  vlm compare configs/compare/easy_vqa.yaml --jobs 4      four runs at a time

After an interruption, run the same command again: finished runs are kept.
docs/compare.md explains the report.
"""


def compare(arguments: Sequence[str]) -> None:
    """Run the command; ends the process with 1 if a run failed, with 2 if the plan is wrong."""
    parser = command_parser("compare", HELP, EXAMPLE)
    parser.add_argument("plan", type=Path, help="the YAML file of the comparison")
    parser.add_argument(
        "--output", type=Path, help="folder for runs and report (runs/compare/PLAN'S NAME)"
    )
    parser.add_argument(
        "--jobs", type=int, help="runs at a time (one for each GPU; without GPUs, one)"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what it would train")
    given = parser.parse_args(arguments)
    if given.jobs is not None and given.jobs < 1:
        parser.error(f"--jobs: got {given.jobs}; expected 1 or more")
    try:
        plan = read_plan(given.plan)
        output = given.output or Path("runs/compare") / plan.path.stem
        failed = _compare(plan, output, given.jobs, given.dry_run)
    except PlanError as error:
        print(f"vlm compare: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(
            "\nvlm compare: interrupted. Finished runs are kept; run the same command to continue.",
            file=sys.stderr,
        )
        sys.exit(130)
    sys.exit(1 if failed else 0)


def _compare(plan: Plan, output: Path, jobs: int | None, dry_run: bool) -> bool:
    """Returns whether a run failed."""
    console = new_console()
    # Here and not above: a mistake in the plan and `--help` need not wait for torch.
    from vlm.cli.comparison_base import builder_of, shares_of
    from vlm.studies.comparison.cost import read_costs
    from vlm.studies.comparison.report import Comparison, write_report
    from vlm.studies.comparison.results import read_outcomes
    from vlm.studies.comparison.runs import Planned, measure_costs, plan_run, train
    from vlm.studies.comparison.search import Tuned, read_tuned, tune, write_tuned

    builder = builder_of(plan)
    builder.check_search()
    builder.check_test()

    def refuse() -> NoReturn:
        raise PlanError(f"{output}: another `vlm compare` is running here; wait for it to end.")

    shares = shares_of(builder.base, jobs)
    tuned: dict[str, Tuned] = {}
    if plan.search is not None and not dry_run:
        with locked(output / "lock", refuse, seconds=0):
            for name, entry in plan.fusions.items():
                tuned[name] = tune(
                    name,
                    plan.search,
                    entry.search,
                    builder.variant(name).config,
                    partial(_configured, builder, name),
                    output,
                    shares,
                    console,
                    builder.digest,
                )
            write_tuned(tuned, output)
    values = {name: best.values for name, best in tuned.items()}
    if plan.search is not None and dry_run:
        values = {
            name: found
            for name, found in read_tuned(output).items()
            if (known := plan.fusions.get(name))
            and found.keys() == {*plan.search.space, *known.search}  # not of an earlier plan
        }
    variants = builder.variants(values)
    # Seed by seed, so that an early look at the runs compares all.
    runs = [
        plan_run(v.name, v.config, seed, output, data=builder.digest)
        for seed in plan.seeds
        for v in variants
    ]
    sizes = ("fusion + head", "whole model")
    note = "Sizes: trainable parameters."
    if dry_run and plan.search is not None:
        note += f" Before these runs: {plan.search.trials:,} trials for each fusion."
    columns = ("", *sizes, "solved for", "finished")
    table = new_table(*columns, numbers=(*sizes, "finished"), note=note)
    for variant in variants:
        own = [run for run in runs if run.name == variant.name]
        table.add_row(
            variant.name,
            f"{variant.joint_parameters:,}",
            f"{variant.parameters:,}",
            ", ".join(
                f"{name.replace('.init_args', '')} {value}"
                for name, value in variant.widths.items()
            ),
            f"{sum(run.finished for run in own)} of {len(own)}",
        )
    console.print(table)
    if dry_run:
        return False

    # Two at once would remove each other's unfinished runs.
    with locked(output / "lock", refuse, seconds=0):
        if (code := measure_costs(plan.path, output / "costs.json")) < 0:
            raise PlanError(
                f"{plan.path}: the costs were not measured, as {signal.Signals(-code).name} ended "
                f"the process; expected memory for a step of each fusion. Make the batches "
                f"smaller, or end other work."
            )
        if code:
            sys.exit(code)
        costs = read_costs(output / "costs.json", [v for v in variants if v.control is None])
        failures = train(Planned(runs), shares, console)
        questions, outcomes = read_outcomes(runs, builder.data.dataset.types)
        if not any(outcome.name in plan.fusions for outcome in outcomes) or questions is None:
            console.print("No fusion has a finished run, so there is no report.")
            return True
        by_name = {outcome.name: outcome for outcome in outcomes}
        named = {variant.name: variant for variant in variants}
        comparison = Comparison(plan, named, questions, by_name, costs, failures, tuned)
        path = write_report(comparison, output)
    console.print(f"Report: {path} and {path.with_suffix('.md')}", soft_wrap=True)
    return bool(failures)


def _configured(builder: Builder, name: str, values: dict[str, Any]) -> dict[str, Any]:
    return builder.variant(name, values).config
