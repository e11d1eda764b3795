"""`vlm completion`: what a real shell completes with the script."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vlm.cli.commands.completion import script
from vlm.cli.main import COMMANDS, main

BASH = shutil.which("bash")


def completed(line: str) -> list[str]:
    """What bash offers after a line, in which a = stands by itself, as bash divides words there."""
    words = " ".join(f"'{word}'" for word in [*line.split(), *([""] if line.endswith(" ") else [])])
    asked = f"{script()}COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}}-1)); _vlm\n"
    asked += 'printf "%s\\n" "${COMPREPLY[@]}"'
    assert BASH is not None
    found = subprocess.run([BASH, "-c", asked], capture_output=True, text=True, check=True)
    return list(filter(None, found.stdout.split("\n")))


@pytest.mark.skipif(BASH is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("vlm com", ["completion", "compare"]),
        ("vlm browse --pre", ["--predictions"]),
        ("vlm ask --max", ["--max-risk"]),
        ("vlm fit --trainer.max_e", ["--trainer.max_epochs="]),
        ("vlm fit --dataset.roo", ["--dataset.root="]),
        ("vlm fit --model.fusion = vlm.fusion.MC", ["vlm.fusion.MCAN"]),
        ("vlm fit --model.fusion = MC", ["MCAN"]),
        ("vlm ask sc", ["scenes"]),
        ("vlm demo ea", ["easy_vqa"]),
        ("vlm fit -c easy_vqa_c", ["easy_vqa_concat", "easy_vqa_cross_attention"]),
        ("vlm browse datasets/gq", ["datasets/gqa", "datasets/gqa_ood"]),
        ("vlm ask ", []),
        ("vlm calibrate sc", []),
    ],
)
def test_bash(line: str, expected: list[str]) -> None:
    assert sorted(completed(line)) == sorted(expected)


@pytest.mark.skipif(BASH is None, reason="bash is not installed")
def test_folders_are_offered_beside_the_models_of_vlm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scene model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert sorted(completed("vlm ask sc")) == ["scene model", "scenes"]


def test_each_command_has_its_options() -> None:
    text = script()
    for name in COMMANDS:
        assert f"\n      {name}) words=" in text


def test_the_script_is_printed_without_heavy_imports() -> None:
    code = (
        "import sys; from vlm.cli.main import main; main(['completion', 'bash']);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'rich', 'jsonargparse')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_reads_its_script(capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion", "zsh"])
    text = capsys.readouterr().out
    subprocess.run(["zsh", "-f", "-c", text], check=True, capture_output=True)
