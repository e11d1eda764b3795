"""`vlm compare` end to end: killed halfway, continued and reported."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

PLAN = {
    "base": str(ROOT / "configs/easy_vqa.yaml"),
    "seeds": [0, 1],
    "controls": ["image_shuffled"],
    "fusions": {
        "product": {
            "class_path": "vlm.fusion.Pooled",
            "init_args": {"merge": {"class_path": "vlm.fusion.Product"}},
        },
        "cross": {"class_path": "vlm.fusion.CrossAttention", "init_args": {"out_dim": 16}},
        # A user's own fusion, from a folder on PYTHONPATH.
        "own": {"class_path": "custom_fusion.GatedFusion"},
    },
}


@pytest.mark.slow
def test_killed_continued_and_reported(data: Path, tmp_path: Path) -> None:
    overrides = {
        "dataset": {"root": str(data), "validation_share": 0.25},
        "data": {"images_per_batch": 3},
        "trainer.max_epochs": 2,
    }
    plan, output = tmp_path / "plan.yaml", tmp_path / "out"
    plan.write_text(yaml.safe_dump(PLAN | {"overrides": overrides}))
    environment = os.environ | {"PYTHONPATH": str(ROOT / "demos")}
    command = [sys.executable, "-m", "vlm", "compare", str(plan), "--output", str(output)]

    def finished() -> dict[Path, float]:
        return {path: path.stat().st_mtime for path in output.glob("runs/*/*/finished.json")}

    with (tmp_path / "said.txt").open("w") as said:
        killed = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
        try:
            deadline = time.monotonic() + 300
            while not finished() and killed.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
        finally:
            killed.send_signal(signal.SIGKILL)
            killed.wait()
    before = finished()
    assert 1 <= len(before) < 8, (tmp_path / "said.txt").read_text()
    assert not (output / "report.md").exists()

    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"8 runs, of which {len(before)} finished earlier" in done.stdout
    after = finished()
    assert len(after) == 8
    assert {path: after[path] for path in before} == before, "a finished run was trained again"
    report = (output / "report.md").read_text()
    for part in (
        "product",
        "cross",
        "own",
        "image shuffled (trained",
        "majority",
        "Against the best",
    ):
        assert part in report
    log = next(output.glob("runs/product/seed1-*/log.txt")).read_text()
    (said,) = re.findall(r"^Answers: (the .*)\.$", log, re.MULTILINE)
    assert f": {said}" in report, "in the words of the run itself"
    results = json.loads((output / "results.json").read_text())
    for row in results["lines"].values():
        assert set(row["by_seed"]) == {"0", "1"}
        assert {about["size"] for about in row["vocabularies"].values()} == {5}
        for kind in ("overall", "color", "yes/no"):
            assert 0 <= row["accuracy"][kind]["low"] <= row["accuracy"][kind]["mean"]
    configurations = {
        (path.parent.name.split("-")[0], path.parents[1].name): yaml.safe_load(path.read_text())
        for path in output.glob("runs/*/*/plan.yaml")
    }
    one, other = (configurations["seed1", name] for name in ("product", "cross"))
    assert one["data"] == other["data"]
    assert one["dataset"] == other["dataset"]
    assert one["data"]["seed"] == one["seed_everything"] == 1
    # Nothing is left to train or measure.
    started = (output / "costs.json").stat().st_mtime
    assert subprocess.run(command, capture_output=True, env=environment).returncode == 0
    assert finished() == after
    assert (output / "costs.json").stat().st_mtime == started
