"""A model has one name, on the page of `vlm demo` and for the clients of `vlm serve`."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlm.cli.command_parser import model_name
from vlm.cli.commands.demo import load_models


def test_a_run_is_its_name_and_time(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{run.parent.name}/{run.name}"
    best = run / "checkpoints/best.ckpt"
    for given in (run, best, best.resolve(), f"{run}/"):
        assert model_name(str(given)) == name
    monkeypatch.chdir(run)
    assert model_name(".") == name
    assert list(load_models([str(run), str(best)])) == [name, f"{name} (again)"]


def test_others_are_what_they_are_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shared").mkdir()
    (tmp_path / "my.model.ckpt").touch()
    names = {
        "hf:me/colors": "me/colors",
        "scenes": "scenes",
        "shared": "shared",
        str(tmp_path / "shared"): "shared",
        "my.model.ckpt": "my.model",
    }
    assert {given: model_name(given) for given in names} == names
