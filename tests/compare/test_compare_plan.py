"""Mistakes in a plan are reported in one line: key, found, expected and the closest name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from conftest import ROOT

from vlm.cli.commands.compare import EXAMPLE
from vlm.cli.main import main
from vlm.data.ablations import Control
from vlm.studies.comparison.plan import CONTROLS, PlanError, read_plan
from vlm.studies.comparison.search_space import Range

GOOD: dict[str, Any] = {
    "base": "base.yaml",
    "fusions": {"product": "vlm.fusion.Pooled", "cross": {"class_path": "CrossAttention"}},
}


def write(folder: Path, **changes: Any) -> Path:
    (folder / "base.yaml").write_text("{}")
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(GOOD | changes))
    return path


def test_a_plan_is_read(tmp_path: Path) -> None:
    overrides = {
        "trainer": {"max_epochs": 3},
        "model.optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
    }
    plan = read_plan(write(tmp_path, seeds=[4], controls=["image_only"], overrides=overrides))
    assert plan.base == tmp_path / "base.yaml"
    assert plan.fusions["product"].spec == {"class_path": "vlm.fusion.Pooled", "init_args": {}}
    assert list(plan.fusions) == ["cross", "product"]  # in the order of the file
    assert (plan.seeds, plan.budget, plan.controls) == ((4,), None, ("image_only",))
    assert plan.overrides["trainer.max_epochs"] == 3
    assert plan.overrides["model.optimizer"]["class_path"] == "torch.optim.SGD"
    assert read_plan(write(tmp_path)).controls == CONTROLS
    assert read_plan(write(tmp_path, base="any_fusion")).base == ROOT / "configs/any_fusion.yaml"
    (tmp_path / "any_fusion").write_text("{}")  # a file of the user's own goes first
    assert read_plan(write(tmp_path, base="any_fusion")).base == tmp_path / "any_fusion"
    assert set(CONTROLS) < set(get_args(Control))


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "key": ({"fusion": {}}, "fusion: there is no such setting; .* Did you mean fusions?"),
    "base": ({"base": "bas.yaml"}, "base: got 'bas.yaml'; expected the path"),
    "no fusions": ({"fusions": {}}, "fusions: missing or empty; expected at least one"),
    "fusions": ({"fusions": ["a"]}, r"fusions: got \['a'\]; expected at least one"),
    "budget": ({"budget": "100k"}, "budget: got '100k'; expected a whole number"),
    "seeds": ({"seeds": 3}, "seeds: got 3; expected a list of whole numbers"),
    "seed twice": ({"seeds": [1, 1]}, r"seeds: got \[1, 1\]; expected each seed once"),
    "control": ({"controls": ["image_shufled"]}, "controls: .*Did you mean image_shuffled?"),
    "no width": ({"budget": 10}, "fusions.cross.width: missing; the budget needs"),
    "own": ({"overrides": {"run": {"test": 1}}}, "overrides.run.test: .* sets run.test itself"),
    "own, in full": (
        {"overrides": {"dataset.init_args.seed": 1}},
        "overrides.dataset.init_args.seed: the comparison sets dataset.seed itself; .* the base",
    ),
    "entry": ({"fusions": {"a": 3}}, "fusions.a: got 3; expected a class path, or class_path"),
    "entry's key": (
        {"fusions": {"a": {"class_path": "x", "int_args": {}}}},
        "fusions.a.int_args: .* Did you mean init_args?",
    ),
    "name": ({"fusions": {"a/b": "x"}}, "fusions.a/b: expected a name of letters"),
    "name of a control": ({"fusions": {"image_only": "x"}}, "that is no control's"),
}


@pytest.mark.parametrize(("changes", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_gets_one_line(
    changes: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(SystemExit) as stopped:
        main(["compare", str(path)])
    assert stopped.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"vlm compare: {path}: ")
    assert re.search(message, said[0]), said[0]


def test_a_fusion_that_stands_twice_does_not_vanish(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text("base: base.yaml\nfusions:\n  same: a.B\n  same: a.C\n")
    with pytest.raises(PlanError, match="same: defined twice, again in line 4"):
        read_plan(path)


def test_values_that_yaml_reads_as_text_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    (tmp_path / "base.yaml").write_text("")
    path.write_text(
        "base: base.yaml\nfusions: {a: x}\n"
        "search:\n  trials: 2\n  space:\n"
        "    lr: {low: 1e-4, high: 1E-2, log: true}\n    wd: [1e-4, 0.1, relu]\n"
    )
    search = read_plan(path).search
    assert search is not None
    assert search.space["lr"] == Range(low=1e-4, high=1e-2, log=True)
    assert search.space["wd"].choices == (1e-4, 0.1, "relu")


def test_files_that_yaml_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    for content in (b"base: caf\xe9", b"? [a, b]\n: 3"):
        path.write_bytes(content)
        with pytest.raises(PlanError, match=r"plan\.yaml: "):
            read_plan(path)


def test_a_missing_or_broken_file(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="No such file"):
        read_plan(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("fusions: [")
    with pytest.raises(PlanError, match="line 1"):
        read_plan(tmp_path / "broken.yaml")


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    said = capsys.readouterr().out
    for word in ("base:", "seeds:", "budget:", "width:", "--jobs", "--dry-run", "same command"):
        assert word in said


@pytest.mark.parametrize("source", ["help", "docs"])
def test_the_plans_that_we_show_can_be_read(source: str, tmp_path: Path) -> None:
    docs = (ROOT / "docs/compare.md").read_text()
    shown = EXAMPLE.split("examples:")[0] if source == "help" else docs
    [text] = re.findall(r"^( *base: .*?\n)(?:\n|```)(?!  )", shown, re.DOTALL | re.MULTILINE)[:1]
    path = tmp_path / "compare/plan.yaml"
    path.parent.mkdir()
    path.write_text(text)
    (tmp_path / "easy_vqa.yaml").write_text("{}")
    assert list(read_plan(path).fusions) == ["product", "attention"]
