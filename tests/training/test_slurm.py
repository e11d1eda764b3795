"""SLURM starts other processes than the trainer expects.

No SLURM runs here; the tests set the environment variables that Lightning and vlm read.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from training_runs import fit

from vlm.cli.training_cli import VQACLI
from vlm.core.errors import ConfigError

STEP = {
    "SLURM_JOB_ID": "1234",
    "SLURM_JOB_NAME": "vqa",
    "SLURM_NNODES": "1",
    "SLURM_NODEID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_PROCID": "0",
}
SRUN_OF_TWO = STEP | {
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_STEP_NUM_TASKS": "2",
}
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]


@pytest.mark.parametrize(
    ("variables", "told", "message"),
    [
        (SRUN_OF_TWO, [], "got 1, and 2 processes were started; expected the same"),
        (STEP | {"SLURM_NTASKS": "1"}, TWO, "got 2 in a SLURM job, and 1 process was started"),
        (SRUN_OF_TWO | {"SLURM_JOB_NAME": "bash"}, TWO, "got 2 processes in a job called bash"),
    ],
    ids=["two of one each", "one in the place of two", "two times two"],
)
def test_they_are_refused(
    variables: dict[str, str],
    told: list[str],
    message: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They would train separate models in one folder, or in one process instead of two."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        VQACLI(fit(data, tmp_path, *told))


def test_as_many_as_asked_for_are_taken(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (SRUN_OF_TWO | {"MASTER_PORT": "1"}).items():
        monkeypatch.setenv(name, value)
    # The error comes from another option, after the check of the number of processes.
    with pytest.raises(ConfigError, match="patch"):
        VQACLI(fit(data, tmp_path, *TWO, "--model.tuning.patch=1"))
