"""`vlm tune`: the best settings of one configuration."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from vlm.cli.command_parser import command_parser
from vlm.core.files import locked, write_whole
from vlm.core.terminal import new_console, new_table
from vlm.studies.comparison.plan import Plan, PlanError, check_free
from vlm.studies.comparison.search_space import Range, Search, number_of, read_range

HELP = """\
Train a configuration several times with different settings, and keep the settings with the highest
validation accuracy. The test split is not read.
"""
EXAMPLE = """\
examples:
  vlm tune configs/easy_vqa.yaml --search model.optimizer.init_args.lr=0.0003..0.01
  vlm tune configs/easy_vqa_cross_attention.yaml --trials 20 --epochs 4 \\
    --search model.optimizer.init_args.lr=0.0003..0.01 model.fusion.init_args.num_layers=1,2,3
  vlm fit -c runs/tune/easy_vqa/best.yaml

A..B is a range, and on a logarithmic scale if B is ten times A or more; A,B,C are values to choose
from. vlm stops trials that fall behind. After an interruption, run the same command again.
CONFIG holds all other settings, such as the data's paths: write your own file, or give the
config.yaml of a run.
"""


def tune_command(arguments: Sequence[str]) -> None:
    """Run the command; ends the process with 2 if it is wrong or no trial was completed."""
    parser = command_parser("tune", HELP, EXAMPLE)
    parser.add_argument("config", type=Path, help="a configuration of `vlm fit`")
    parser.add_argument(
        "--search",
        nargs="+",
        action="extend",
        required=True,
        metavar="NAME=VALUES",
        help="settings to tune",
    )
    parser.add_argument("--trials", type=int, default=10, help="number of trials (default 10)")
    parser.add_argument("--epochs", type=int, help="epochs of a trial (those of the configuration)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the search (default 0)")
    parser.add_argument(
        "--output", type=Path, help="folder for trials and best.yaml (runs/tune/CONFIG'S NAME)"
    )
    parser.add_argument("--jobs", type=int, help="trials at a time (one for each GPU, or one)")
    given = parser.parse_args(arguments)
    for name, least in (("trials", 2), ("epochs", 1), ("seed", 0), ("jobs", 1)):
        value = getattr(given, name)
        if value is not None and value < least:
            parser.error(f"--{name}: got {value}; expected {least} or more")
    try:
        space = _space(given.search)
        check_free("--search", [name for name in space if not name.startswith("model.fusion.")])
        if given.epochs is not None and "trainer.max_epochs" in space:
            raise PlanError("--search: trainer.max_epochs: got --epochs as well; remove one.")
        search = Search(given.trials, space, given.epochs, given.seed)
        output = given.output or Path("runs/tune") / given.config.stem
        _tune(given.config, search, output, given.jobs)
    except PlanError as error:
        print(f"vlm tune: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(
            "\nvlm tune: interrupted. Finished trials are kept; run the same command to continue.",
            file=sys.stderr,
        )
        sys.exit(130)


def _space(texts: Sequence[str]) -> dict[str, Range]:
    space: dict[str, Range] = {}
    short = set()
    for text in texts:
        name, values = _setting(text)
        if (brief := name.replace(".init_args", "")) in short:
            raise PlanError(f"--search: {name}: got it twice; expected each setting once.")
        short.add(brief)
        space[name] = values
    return space


def _setting(text: str) -> tuple[str, Range]:
    """`NAME=A..B` or `NAME=A,B,C`.

    Raises:
        PlanError: another form, or nothing to choose.
    """
    name, _, values = text.partition("=")
    low, dots, high = values.partition("..")
    try:
        value: Any = list(map(_value, values.split(","))) if values else None
        first, last = _value(low), _value(high)
    except yaml.YAMLError:
        dots, value = "", None
    if dots:
        numbers = isinstance(first, float | int) and isinstance(last, float | int)
        log = numbers and 0 < 10 * first <= last
        value = {"low": first, "high": last, "log": log}
    found = read_range(value)
    if isinstance(found, str):
        raise PlanError(
            f"--search: {text}: {found.partition(';')[0]}; expected NAME=A..B or NAME=A,B,C."
        )
    return name, found


def _value(text: str) -> Any:
    with suppress(ValueError):
        return int(text)  # to YAML, 010 is 8
    return number_of(yaml.safe_load(text))


def _tune(config: Path, search: Search, output: Path, jobs: int | None) -> None:
    console = new_console()
    # Here and not above: a mistake and `--help` need not wait for torch.
    from vlm.cli.comparison_base import builder_of, shares_of
    from vlm.studies.comparison.search import tune, with_settings

    if not config.is_file():
        raise PlanError(f"{config}: there is no such file; expected a configuration of `vlm fit`.")
    builder = builder_of(Plan(path=config, base=config, fusions={}))
    try:
        with_settings(
            builder.base.config, {name: each.first for name, each in search.space.items()}
        )
    except ValueError as error:
        raise PlanError(
            f"--search: {error}; expected names as in the file that `vlm fit -c {config} "
            f"--print_config` prints, such as model.optimizer.init_args.lr."
        ) from error
    base = builder.run_config()
    base["data"]["control"] = builder.base.config["data"]["control"]
    output.mkdir(parents=True, exist_ok=True)
    with locked(output / "lock", _refuse(output), seconds=0):
        best = tune(
            config.stem,
            search,
            {},
            base,
            lambda values: with_settings(base, values),
            output,
            shares_of(builder.base, jobs),
            console,
            builder.digest_of_trained,
        )
    made = with_settings(builder.base.config, best.values)
    made.pop("config", None)
    write_whole(output / "best.yaml", yaml.safe_dump(made, sort_keys=False).encode())
    table = new_table(
        *search.space, "validation %", "ended", numbers=(*search.space, "validation %")
    )
    for row in sorted(best.history, key=lambda row: -(row["score"] or 0)):
        values = [
            f"{row['values'].get(name, ''):.4g}"
            if isinstance(row["values"].get(name), float)
            else str(row["values"].get(name, ""))
            for name in search.space
        ]
        score = "" if row["score"] is None else f"{100 * row['score']:.2f}"
        table.add_row(*values, score, row["end"])
    console.print(table)
    console.print(f"Best: vlm fit -c {output / 'best.yaml'}", soft_wrap=True)


def _refuse(output: Path) -> Any:
    def refuse() -> None:
        raise PlanError(f"{output}: another `vlm tune` is running here; wait for it to end.")

    return refuse
