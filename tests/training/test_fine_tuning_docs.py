"""The page on fine-tuning: its configurations run, and its table is the one vlm prints."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from conftest import ROOT
from training_runs import fit

from vlm.cli.main import main
from vlm.training.finetuning.plan import PartTuning, Tuning

PAGE = (ROOT / "docs/fine_tuning.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback")
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_its_configurations_run(
    number: int,
    run: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "mine.yaml"
    text = BLOCKS[number].replace("RUN", str(run))
    config.write_text(text.replace("image/vit.yaml", str(ROOT / "configs/image/vit.yaml")))
    main([*fit(data, tmp_path), "--trainer.accumulate_grad_batches=2", f"-c={config}"])
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    step = "A step: 2 images x 1 process x 2 batches = 4 images with their questions, on cpu."
    assert step in printed
    if number == 0:
        table = re.search(r"```\n(What is trained.*?)```", PAGE, re.DOTALL)
        assert table
        start = printed.index("What is trained")
        wanted = table[1].splitlines()
        assert printed[start : start + len(wanted)] == wanted


def test_its_first_command_runs(data: Path, tmp_path: Path) -> None:
    (command,) = re.findall(r"```bash\nvlm fit -c configs/easy_vqa.yaml (.*)\n```", PAGE)
    main([*fit(data, tmp_path), command, "--trainer.fast_dev_run=1"])


def test_every_key_is_there() -> None:
    for name in inspect.signature(PartTuning).parameters:
        assert f"| `{name}" in PAGE, name
    for name in list(inspect.signature(Tuning).parameters)[4:]:
        assert f"`model.tuning.{name}`" in PAGE, name


def test_every_recipe_is_there() -> None:
    for path in (ROOT / "configs/recipes").glob("*.yaml"):
        assert f"`configs/recipes/{path.name}`" in PAGE
