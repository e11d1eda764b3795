"""`vlm tune`: how settings are given, and the configuration that it writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from vlm.cli.commands.tune import _setting
from vlm.cli.main import main
from vlm.studies.comparison.plan import PlanError
from vlm.studies.comparison.search_space import Range


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (["data.seed=1,2"], "--search.data.seed: the comparison sets data.seed itself; remove it"),
        (["trainer.max_epochs=1,2", "--epochs", "1"], "trainer.max_epochs: got --epochs as well"),
        (["a.lr=1,2", "--search", "a.init_args.lr=1,2"], "a.init_args.lr: got it twice; expected"),
    ],
)
def test_tune_refuses_what_it_sets(
    told: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["tune", str(ROOT / "configs/easy_vqa.yaml"), "--search", *told])
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_tune_writes_a_configuration_to_train(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "small.yaml"
    base = yaml.safe_load((ROOT / "configs/easy_vqa.yaml").read_text())
    for part in ("image_encoder", "text_encoder", "fusion"):
        base["model"][part] = str(ROOT / "configs" / base["model"][part])
    base["dataset"]["init_args"] = {"root": str(data), "validation_share": 0.25}
    base["data"]["images_per_batch"] = 3
    config.write_text(yaml.safe_dump(base))
    told = [
        "tune",
        str(config),
        "--trials",
        "2",
        "--epochs",
        "1",
        "--output",
        str(tmp_path / "out"),
    ]
    main([*told, "--search", "model.optimizer.init_args.lr=1e-3..1e-2"])
    said = capsys.readouterr().out
    assert "validation %" in said
    best = yaml.safe_load((tmp_path / "out/best.yaml").read_text())
    assert 1e-3 <= best["model"]["optimizer"]["init_args"]["lr"] <= 1e-2
    assert best["trainer"]["max_epochs"] == 5
    assert best["run"]["test"] is True
    folder = tmp_path / "runs"
    main(["fit", "-c", str(tmp_path / "out/best.yaml"), f"--run.folder={folder}",
          "--trainer.max_epochs=1"])  # fmt: skip
    assert list(folder.glob("*/*/test.json"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.lr=1e-4..1e-2", Range(low=1e-4, high=1e-2, log=True)),
        ("a.n=1..4", Range(low=1, high=4)),
        ("a.n=010,020", Range((10, 20))),
        ("a.x=.5e3,1", Range((500.0, 1))),
        ("a.x=relu,tanh", Range(("relu", "tanh"))),
        ("a.x=true,false", Range((True, False))),
        ("a.x=0.1,1e-3", Range((0.1, 0.001))),
    ],
)
def test_how_a_range_is_written(text: str, expected: Range) -> None:
    assert _setting(text)[1] == expected


@pytest.mark.parametrize(
    "text", ["a.lr", "a.lr=3", "a.lr=3..3", "a.lr=x..y", "a.lr=..3", "a.d=[1,2],[3,4]"]
)
def test_how_it_is_not_written(text: str) -> None:
    with pytest.raises(PlanError, match=r"--search: .*; expected NAME=A..B or NAME=A,B,C"):
        _setting(text)


def test_tune_refuses_a_name_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["tune", str(ROOT / "configs/easy_vqa.yaml"), "--search", "model.lr=1,2"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "--search: there is no setting model.lr; expected names as in the file" in said
