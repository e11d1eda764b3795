"""The GPU's benchmark runs, and a check that fails is told from one that does not."""

from __future__ import annotations

import json
from pathlib import Path

import gpu  # benchmarks/gpu.py
import pytest
import torch


@pytest.mark.slow
def test_its_twin_on_the_cpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    code = gpu.main(
        ["--device=cpu", "--quick", "--budget=3600", f"--out={out}"]
    )  # of a slow machine
    report = json.loads(out.read_text())
    failed = {name: found for name, found in report["checks"].items() if found.get("ok") is False}
    assert (code, failed) == (0, {})
    assert report["machine"]["torch"] == torch.__version__.partition("+")[0]
    done = {name for name, found in report["checks"].items() if "figures" in found}
    assert done >= {"attention", "parts", "trainings", "heads", "signals", "speed", "answers"}


def test_a_check_that_fails_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(gpu.LARGEST, "fp32", -1.0)
    out = tmp_path / "gpu.json"
    told = ["--device=cpu", "--quick", "--only", "attention", "waits", f"--out={out}"]
    assert gpu.main(told) == 1
    report = json.loads(out.read_text())["checks"]
    assert "default fp32: off by" in report["attention"]["error"]
    assert "skipped" in report["waits"]
    assert "attention" in capsys.readouterr().out
