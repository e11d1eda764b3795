"""What the runs of a comparison share, from its base configuration."""

from __future__ import annotations

import os

import torch

from vlm.cli.error_messages import explain
from vlm.cli.training_cli import ConciseParser, Untrained
from vlm.core.errors import ConfigError
from vlm.fusion import Fusion
from vlm.studies.comparison.build import Base, Builder, quiet
from vlm.studies.comparison.plan import Plan, PlanError
from vlm.studies.comparison.runs import environments
from vlm.training.readable import READABLE


def builder_of(plan: Plan) -> Builder:
    """Build the base of a plan once, and what makes its fusions.

    Raises:
        PlanError: settings that do not fit the base, with the reason.
    """
    try:
        with quiet():
            cli = Untrained(["fit", f"--config={plan.base}", *plan.options])
    except ConfigError as error:
        reason = explain(str(error)).replace("Did you mean --", "Did you mean ")
        raise PlanError(f"{plan.path}: base {plan.base} with the overrides: {reason}") from error
    except READABLE as error:
        raise PlanError(f"{plan.path}: base {plan.base}: {error}") from error
    config = cli.plain_config()
    if config["ckpt_path"]:
        raise PlanError(
            f"{plan.path}: ckpt_path: got {config['ckpt_path']}, but a comparison starts new "
            f"runs; remove it from the base. To start from its weights, set model.tuning.init_from."
        )
    config["trainer"]["logger"] = cli.asked_logger
    parser = ConciseParser()
    parser.add_argument("--fusion", type=Fusion, required=True)
    base = Base(cli.model, cli.datamodule, cli.trainer, config, parser)
    return Builder(plan, base, explain)


def shares_of(base: Base, jobs: int | None) -> list[dict[str, str]]:
    """Environments of the runs that train at once: `jobs`, else one for each GPU, else one."""
    cpu = base.trainer.strategy.root_device.type == "cpu"
    devices = [] if cpu else _gpus(base.config["trainer"]["devices"])
    return environments(jobs or len(devices) or 1, torch.get_num_threads(), devices)


def _gpus(asked: object) -> list[str]:
    """Those that `trainer.devices` lists, or else all, as `CUDA_VISIBLE_DEVICES` names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else list(map(str, range(torch.cuda.device_count())))
    return [names[number] for number in asked] if isinstance(asked, list) else names
