"""The README's code blocks and commands run, and its demo works."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, small_run

from vlm.cli.main import main

README = (ROOT / "README.md").read_text()
START = (ROOT / "docs/start.md").read_text()


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def test_it_is_short_enough_to_be_read() -> None:
    assert len(README.splitlines()) <= 150


def test_the_python_blocks_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    readme, start = blocks("python"), blocks("python", START)
    assert len(readme) >= 2
    assert start
    for code in readme + start:
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_the_commands_run(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each `vlm` command in the README runs on the small data set, and its `make` targets exist."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT / "demos"))
    makefile = (ROOT / "Makefile").read_text()
    commands = [
        shlex.split(line, comments=True)
        for block in blocks("bash")
        for line in block.replace("\\\n", " ").splitlines()
        if line.strip() and not line.startswith("#")
    ]
    assert len(commands) >= 7
    targets = re.findall(r"`make\s+(\w+)`", README)
    assert {"train", "docs"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for command in commands:
        if command[:2] == ["vlm", "fit"]:
            small = [a for a in small_run(data, tmp_path) if not a.startswith("-c")][1:]
            small.remove(str(ROOT / "configs/easy_vqa.yaml"))
            main([*command[1:], *small, "--trainer.fast_dev_run=1", "--run.test=false"])
        elif command[:3] == ["vlm", "ask", "scenes"]:
            main(command[1:])
        elif command[:2] == ["vlm", "ask"]:
            main(["ask", str(run), str(data / "test/images/0.png"), *command[4:]])
        elif command[:2] == ["vlm", "explain"]:
            image = str(data / "test/images/0.png")
            main(["explain", str(run), image, *command[4:], f"--output={tmp_path / 'why'}"])
        elif command[0] == "vlm":
            here = [a.replace("RUN", str(run)) for a in command[1:]]
            main([*here, f"--run.folder={tmp_path}"])


@pytest.mark.slow
def test_the_custom_fusion_is_checked_and_trained(data: Path, tmp_path: Path) -> None:
    demo = ROOT / "demos/custom_fusion.py"
    done = subprocess.run([sys.executable, demo], capture_output=True, text=True, check=False)
    assert "keeps every promise" in done.stdout, done.stderr
    environment = os.environ | {"PYTHONPATH": str(ROOT / "demos")}
    fit = [*small_run(data, tmp_path), "--model.fusion=custom_fusion.GatedFusion"]
    subprocess.run(
        [sys.executable, "-m", "vlm", *fit], env=environment, check=True, capture_output=True
    )
    assert list(tmp_path.glob("easy_vqa/*/test.json"))
