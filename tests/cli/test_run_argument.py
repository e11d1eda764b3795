"""`vlm test RUN`: a run's folder or a shared model instead of `-c` and `--ckpt_path`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

import vlm
from vlm.cli.main import main


@pytest.fixture(scope="module")
def shared(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vlm.load(run).save(tmp_path_factory.mktemp("shared") / "model")


def written(folder: Path, command: str) -> Path:
    """The folder that a command wrote."""
    (made,) = folder.glob(f"*/*-{command}")
    return made


def accuracy(folder: Path) -> float:
    results: list[dict[str, Any]] = json.loads((folder / "test.json").read_text())["results"]
    return float(results[0]["accuracy"])


def test_a_run_is_enough(run: Path, tmp_path: Path) -> None:
    main(["test", str(run), f"--run.folder={tmp_path}"])
    assert accuracy(written(tmp_path, "test")) == accuracy(run)
    main(["predict", str(run), f"--run.folder={tmp_path}"])
    lines = (written(tmp_path, "predict") / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == 36
    main(["validate", str(run), f"--run.folder={tmp_path}"])
    assert written(tmp_path, "validate").is_dir()


def test_further_options_override_the_run_s(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(data / "test", tmp_path / "data/test")
    shutil.copytree(data / "train", tmp_path / "data/train")
    path = tmp_path / "data/test/questions.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:6]))
    main(["test", str(run), f"--run.folder={tmp_path}", f"--dataset.root={tmp_path}/data"])
    predictions = written(tmp_path, "test") / "test_predictions.jsonl"
    assert len(predictions.read_text().splitlines()) == 6


def test_a_shared_model_scores_as_its_run(
    run: Path, shared: Path, data: Path, tmp_path: Path
) -> None:
    config = str(ROOT / "configs/easy_vqa_cross_attention.yaml")  # configures another model
    main(["test", str(shared), "-c", config, f"--dataset.root={data}", f"--run.folder={tmp_path}"])
    assert accuracy(written(tmp_path, "test")) == accuracy(run)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "names no data set"),
        (["-c", "x.yaml", "--model.fusion=vlm.fusion.MCAN"], "--model.fusion=vlm.fusion.MCAN"),
    ],
)
def test_a_shared_model_needs_data_and_keeps_its_parts(
    options: list[str], expected: str, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["test", str(shared), *options])
    assert stopped.value.code == 2
    assert expected in capsys.readouterr().err


def test_another_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (tmp_path, tmp_path / "nosuch"):
        with pytest.raises(SystemExit) as stopped:
            main(["test", str(folder)])
        assert stopped.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith(f"vlm: {folder}: expected the folder of a run")
