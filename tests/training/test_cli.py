"""The command line: the files a run writes, and swapping parts of a model."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, small_run

from vlm.checkpoint.checkpoint import read_checkpoint
from vlm.checkpoint.file import CheckpointError
from vlm.cli.main import main
from vlm.cli.training_cli import VQACLI
from vlm.core.errors import ConfigError


def best(run: Path) -> str:
    return str(run / "checkpoints/best.ckpt")


def test_a_run_leaves_everything_it_promises(run: Path) -> None:
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    expected = {"config.yaml", "metrics.csv", "curves.png", "test.json", "test_predictions.jsonl"}
    assert expected | {"checkpoints/best.ckpt", "checkpoints/last.ckpt"} <= names
    assert any("tfevents" in name for name in names)
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len([row for row in rows if row["val_accuracy"]]) == 12
    predictions = [
        json.loads(line) for line in (run / "test_predictions.jsonl").read_text().splitlines()
    ]
    assert [row["id"] for row in predictions] == [f"test-{i}" for i in range(36)]
    report = json.loads((run / "test.json").read_text())
    overall = report["results"][0]
    assert overall["questions"] == 36
    assert overall["low"] <= overall["accuracy"] <= overall["high"]
    assert overall["accuracy"] == pytest.approx(sum(row["score"] for row in predictions) / 36)
    assert overall["majority"] < overall["question_only"] < overall["ceiling"] == 1
    assert {row["type"] for row in report["results"]} == {"overall", "yes/no", "color"}
    assert report["about"]["run"] == str(run)


def test_training_learns(run: Path) -> None:
    report = json.loads((run / "test.json").read_text())
    assert report["results"][0]["accuracy"] > report["results"][0]["question_only"]


def test_the_same_seed_gives_the_same_model(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = VQACLI(small_run(data, tmp_path)).run_folder
    said = capsys.readouterr().out
    assert said.count("Run folder: ") == said.count("with their questions, on cpu.") == 1
    weights = [torch.load(best(r), weights_only=True)["state_dict"] for r in (run, again)]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=0, atol=0, msg=name)


def test_the_saved_configuration_runs_in_every_command(
    run: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = json.loads((run / "test.json").read_text())["results"][0]["accuracy"]
    for command in ("validate", "test", "predict"):
        cli = VQACLI(
            [
                command,
                f"-c={run / 'config.yaml'}",
                f"--ckpt_path={best(run)}",
                f"--run.folder={tmp_path}",
            ]
        )
        names = {path.name for path in cli.run_folder.iterdir()}
        said = capsys.readouterr().out
        assert said.count("━┓") == said.count("Run folder: ") == (command != "predict")
        assert "available:" not in caplog.text
        if command == "test":
            assert cli.trainer.callback_metrics["test_accuracy"] == pytest.approx(first)
            assert {"test.json", "test_predictions.jsonl"} <= names
        if command == "predict":
            lines = (cli.run_folder / "predictions.jsonl").read_text().splitlines()
            assert len(lines) == 36


def test_answers_in_another_order_give_the_same_scores(
    run: Path, data: Path, tmp_path: Path
) -> None:
    """The order of answers comes from the checkpoint, even if other answers are more frequent in
    the training questions."""
    other = tmp_path / "other"
    for split in ("train", "test"):
        (other / split).mkdir(parents=True)
        (other / split / "images").symlink_to(data / split / "images")
    rows = json.loads((data / "train/questions.json").read_text())
    colors = [row for row in rows if row[0].startswith("what")]
    (other / "train/questions.json").write_text(json.dumps(colors * 4 + rows))
    (other / "test/questions.json").write_text((data / "test/questions.json").read_text())
    scores = []
    for root in (data, other):
        cli = VQACLI(
            [
                "test",
                f"-c={run / 'config.yaml'}",
                f"--ckpt_path={best(run)}",
                f"--dataset.root={root}",
                f"--run.folder={tmp_path}/runs",
            ]
        )
        scores.append(cli.trainer.callback_metrics["test_accuracy"].item())
        orders = cli.datamodule.answers
        scores.append(orders)
    assert scores[1] != scores[3], "the data must disagree, or this test shows nothing"
    assert scores[0] == scores[2]


def test_a_checkpoint_of_another_model_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"vlm.fusion.Pooled in the checkpoint, .*CrossAttention"):
        VQACLI(
            [
                "test",
                f"-c={run / 'config.yaml'}",
                f"--ckpt_path={best(run)}",
                "--model.fusion=vlm.fusion.CrossAttention",
                f"--run.folder={tmp_path}",
            ]
        )


def built(tmp_path: Path, data: Path, *arguments: str) -> VQACLI:
    return VQACLI(
        [
            *small_run(data, tmp_path),
            "--trainer.fast_dev_run=1",
            "--run.test=false",
            *arguments,
        ]
    )


def test_one_argument_swaps_a_part(data: Path, tmp_path: Path) -> None:
    cli = built(tmp_path, data, "--model.fusion=vlm.fusion.CrossAttention")
    assert type(cli.model.model.fusion).__name__ == "CrossAttention"
    cli = built(tmp_path, data, "--model.fusion.merge=vlm.fusion.ConcatMLP")
    assert type(cli.model.model.fusion.merge).__name__ == "ConcatMLP"
    cli = built(tmp_path, data, f"--model.text_encoder={ROOT}/configs/text/gru.yaml")
    assert type(cli.model.model.text_encoder).__name__ == "Recurrent"


def test_a_swap_starts_from_the_new_class_own_defaults(data: Path, tmp_path: Path) -> None:
    config = tmp_path / "dropout.yaml"
    fusion = {
        "class_path": "vlm.fusion.CrossAttention",
        "init_args": {"dropout": 0.3, "out_dim": 8},
    }
    config.write_text(yaml.safe_dump({"model": {"fusion": fusion}}))
    kept = built(tmp_path, data, f"-c={config}")
    assert kept.model.model.fusion.arguments["dropout"] == 0.3
    swapped = built(
        tmp_path,
        data,
        f"-c={config}",
        "--model.fusion=vlm.fusion.Pooled",
        "--model.fusion.merge=vlm.fusion.Product",
    )
    assert swapped.model.model.fusion.merge.arguments["dropout"] == 0.0
    nested = built(
        tmp_path,
        data,
        "--model.fusion.merge=vlm.fusion.ConcatMLP",
        "--model.fusion.merge.dropout=0.3",
        "--model.fusion.merge=vlm.fusion.Product",
    )
    assert nested.model.model.fusion.merge.arguments["dropout"] == 0.0
    optimizer = built(tmp_path, data, "--model.optimizer=torch.optim.SGD").trainer.optimizers[0]
    assert optimizer.defaults["weight_decay"] == 0, "AdamW's 0.01 leaked into SGD"


@pytest.mark.parametrize(
    ("option", "source"),
    [
        ("fusion.image_dim=5", "the image encoder"),
        ("fusion.text_dim=5", "the text encoder"),
        ("head.in_dim=5", "the fusion"),
        ("head.answers=[red]", "the vocabulary of the data set"),
        ("text_encoder.words=[red]", "the training questions"),
    ],
)
def test_what_comes_from_elsewhere_cannot_be_set(
    option: str, source: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"^model.{option.partition('=')[0]}: .* from {source};"):
        built(tmp_path, data, f"--model.{option}")


@pytest.mark.parametrize(
    ("part", "name", "hidden"),
    [
        ("fusion", "MCAN", {"image_dim", "text_dim"}),
        ("head", "Classification", {"in_dim", "answers"}),
        ("text_encoder", "Recurrent", {"words"}),
    ],
)
def test_the_help_of_a_part_shows_what_can_be_set(
    part: str, name: str, hidden: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["fit", f"--model.{part}.help", name])
    shown = set(re.findall(rf"--model\.{part}\.(\w+)", capsys.readouterr().out))
    assert shown
    assert not shown & hidden


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_random_weights_are_not_scored(
    command: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, f"-c={run / 'config.yaml'}", f"--run.folder={tmp_path}"])
    assert stop.value.code == 2
    assert f"{command}: got no --ckpt_path" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_products_of_float32_may_be_less_exact(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's setting is left alone unless asked for: a program may have set its own."""
    told: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", told.append)
    quick = [*small_run(data, tmp_path), "--trainer.fast_dev_run=1"]
    VQACLI(quick)
    assert told == []
    VQACLI([*quick, "--run.matmul_precision=high"])
    assert told == ["high"]


def test_the_newest_run_of_a_folder_is_named(run: Path) -> None:
    with pytest.raises(CheckpointError, match=f"The newest run inside is {re.escape(str(run))}"):
        read_checkpoint(run.parent)
