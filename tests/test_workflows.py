"""The workflows and the Dockerfile say what they should; nobody has run them here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
SETTINGS = {"name", "runs-on", "needs", "steps", "timeout-minutes", "environment", "permissions"}
STEP = {"name", "uses", "with", "run", "env"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_bounds_and_no_more_rights_than_it_needs(path: Path) -> None:
    # YAML 1.1 reads the key `on` as True.
    workflow: dict[Any, Any] = yaml.safe_load(path.read_text())
    assert {"name", True, "permissions", "jobs"} == set(workflow)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert set(job) <= SETTINGS
        assert job["timeout-minutes"] <= 120
        for step in job["steps"]:
            assert set(step) <= STEP
            assert ("uses" in step) != ("run" in step)
            assert "${{" not in step.get("run", ""), "an expression in a script can run code"


def test_what_the_workflows_run_is_there() -> None:
    steps = [
        step.get("run", "")
        for path in WORKFLOWS
        for job in yaml.safe_load(path.read_text())["jobs"].values()
        for step in job["steps"]
    ]
    assert {".ci/run", "make release"} <= set(steps)
    assert (ROOT / ".ci/run").is_file()
    assert "\nrelease:" in (ROOT / "Makefile").read_text()


def test_the_image_runs_as_nobody_of_weight_and_copies_what_the_build_needs() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert lines.index("USER vlm") < next(i for i, x in enumerate(lines) if "ENTRYPOINT" in x)
    copied = {name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]}
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"}
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)
