"""What the runs of a comparison share, from its base configuration."""

from __future__ import annotations

from typing import Any

import yaml

from vlm.cli.error_messages import explain
from vlm.cli.training_cli import ConciseParser, Untrained
from vlm.core.errors import ConfigError
from vlm.fusion import Fusion
from vlm.studies.comparison.build import Base, Builder, quiet
from vlm.studies.comparison.plan import Plan, PlanError


def builder_of(plan: Plan) -> Builder:
    """Build the base of a plan once, and what makes its fusions.

    Raises:
        PlanError: settings that do not fit the base, with the reason.
    """
    settings = [f"--{key}={_text(value)}" for key, value in plan.overrides.items()]
    try:
        with quiet():
            cli = Untrained(["fit", f"--config={plan.base}", *settings])
    except ConfigError as error:
        raise PlanError(
            f"{plan.path}: base {plan.base} with the overrides: {explain(str(error))}"
        ) from error
    parser = ConciseParser()
    parser.add_argument("--fusion", type=Fusion, required=True)
    base = Base(cli.model, cli.datamodule, cli.trainer, cli.plain_config(), parser)
    return Builder(plan, base, explain)


def _text(value: Any) -> str:
    """A setting as the command line takes it."""
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n")
