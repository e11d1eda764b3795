"""A run only continues with its original settings; any difference is listed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from training_runs import callback, fit, only_run

from vlm.checkpoint.checkpoint import CheckpointError
from vlm.cli.main import main
from vlm.cli.training_cli import VQACLI
from vlm.datasets.several import as_one
from vlm.datasets.table import digest_of, digest_of_rest, question_table


@pytest.fixture(scope="module")
def started(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of three epochs."""
    return VQACLI(fit(data, tmp_path_factory.mktemp("started"))).run_folder


@pytest.mark.parametrize(
    ("asked", "listed"),
    [
        (["--model.fusion.merge=vlm.fusion.ConcatMLP"], "Product in the checkpoint, .*ConcatMLP"),
        (["--model.optimizer.lr=0.5"], r"model.optimizer: .*0\.003.* in the checkpoint, .*0\.5"),
        (["--model.schedule=null"], "model.schedule: .*WarmupCosine.* in the checkpoint, None"),
        (["--seed_everything=3"], "seed_everything: 0 in the checkpoint, 3 asked"),
        (["--data.seed=3"], "data.seed: 0 in the checkpoint, 3 asked"),
        (["--data.images_per_batch=3"], "images_per_batch x processes: 2 in the checkpoint, 3"),
        (["--data.images.fast_jpeg=true"], "data.images.fast_jpeg: False in .*, True"),
        (["--dataset.validation_share=0.5"], "training questions: 27 with .* 18 with"),
        (
            ["--dataset.vocabulary.max_answers=2"],
            "dataset.vocabulary: .*None.* checkpoint, .*2.* asked",
        ),
        (["--trainer.limit_val_batches=1"], "trainer.limit_val_batches: 1.0 in .*, 1 asked"),
        (
            callback("lightning.pytorch.callbacks.EMAWeightAveraging", decay=0.9),
            r"averages of weights: \[\] in the checkpoint, .*EMAWeightAveraging.*0\.9",
        ),
        (["--trainer.max_epochs=4"], "trainer.max_epochs: 3 in the checkpoint, 4 asked"),
        (
            ["--trainer.precision=bf16-mixed", "--run.monitor=val_accuracy"],
            "run.monitor: val_loss in the checkpoint, val_accuracy asked\n  trainer.precision: ",
        ),
    ],
)
def test_what_differs_is_listed(
    asked: list[str],
    listed: str,
    started: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = {path: path.read_bytes() for path in started.rglob("*") if path.is_file()}
    last = started / "checkpoints/step-00000010.ckpt"  # the log continues past it
    with pytest.raises(SystemExit) as ended:
        main([*fit(data, tmp_path), f"--ckpt_path={last}", *asked])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert f"{last} holds another" in said
    assert re.search(listed, said), said
    assert {path: path.read_bytes() for path in started.rglob("*") if path.is_file()} == before


def test_other_words_under_the_same_ids(
    started: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "data"
    shutil.copytree(data, other)
    questions = other / "train/questions.json"
    questions.write_text(questions.read_text().replace("what color is it?", "which color is it?"))
    with pytest.raises(SystemExit):
        main([*fit(other, tmp_path), f"--ckpt_path={started}/checkpoints/last.ckpt"])
    assert re.search("the training questions: 27 with .* 27 with", capsys.readouterr().err)


def test_a_run_s_folder_stands_for_its_checkpoint(
    started: Path, data: Path, tmp_path: Path
) -> None:
    """`fit` uses the last checkpoint, the other commands use the best."""
    cli = VQACLI([*fit(data, tmp_path), f"--ckpt_path={started}"])
    assert cli.checkpoint is not None
    assert cli.checkpoint.path.name == "last.ckpt"
    assert cli.run_folder == started
    config = str(started / "config.yaml")
    told = [f"--ckpt_path={started}", f"--run.folder={tmp_path}", "--trainer.logger=false"]
    cli = VQACLI(["test", "-c", config, *told])
    assert cli.checkpoint is not None
    assert cli.checkpoint.path.name == "best.ckpt"


def test_what_was_not_saved_is_tested_as_it_is(data: Path, tmp_path: Path) -> None:
    told = ["--run.test=true", "--trainer.enable_checkpointing=false"]
    assert (VQACLI(fit(data, tmp_path, *told)).run_folder / "test.json").is_file()


def test_what_changes_no_result_may_change(started: Path, data: Path, tmp_path: Path) -> None:
    told = ["--data.workers=1", "--data.images.in_memory=true", "--run.test=true"]
    last = started / "checkpoints/last.ckpt"
    weights = torch.load(last, weights_only=True)["state_dict"]
    cli = VQACLI([*fit(data, tmp_path), f"--ckpt_path={last}", *told])
    assert cli.trainer.global_step == 15
    assert (started / "test.json").is_file()
    best = torch.load(started / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    for name, value in cli.model.state_dict().items():  # those of the test
        torch.testing.assert_close(value, best[name], rtol=0, atol=0)
    assert weights.keys() == best.keys()


@pytest.mark.parametrize("name", ["last", "best", "nosuch.ckpt"])
def test_a_checkpoint_that_is_not_there(
    name: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*fit(data, tmp_path), f"--ckpt_path={name}"])
    assert ended.value.code == 1
    assert f"{name}: there is no such file" in capsys.readouterr().err


def test_auto_goes_on_from_the_last_whole_checkpoint(data: Path, tmp_path: Path) -> None:
    told = fit(data, tmp_path, "--run.resume=auto")
    folder = VQACLI(told).run_folder
    last = (folder / "checkpoints/last.ckpt").resolve()
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.warns(match=r"step-00000015\.ckpt: damaged.* continues from .*step-00000010\.ckpt"):
        again = VQACLI(told)
    assert again.checkpoint is not None
    assert again.checkpoint.path.name == "step-00000010.ckpt"
    assert again.run_folder == only_run(tmp_path) == folder


def test_auto_does_not_begin_anew_over_broken_checkpoints(data: Path, tmp_path: Path) -> None:
    told = fit(data, tmp_path, "--run.resume=auto")
    folder = VQACLI(told).run_folder
    for path in folder.glob("checkpoints/step-*.ckpt"):
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        CheckpointError, match=r"No checkpoint of this run is intact: remove .*auto-"
    ):
        VQACLI(told)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--run.resume=auto", "--ckpt_path=x"], "run.resume: got auto, and ckpt_path=x"),
        (["--run.resume=yes"], "run.resume"),
        (["--run.checkpoint_steps=0"], "run.checkpoint_steps: got 0; expected a positive number"),
        (["--run.stall_minutes=-1"], r"run.stall_minutes: got -1(.0)?; expected a positive number"),
        (
            [
                "--trainer.strategy=lightning.pytorch.strategies.ModelParallelStrategy",
                "--trainer.strategy.tensor_parallel_size=1",
            ],
            "save_distributed_checkpoint=true; expected false",
        ),
    ],
)
def test_a_mistake_gets_one_line(
    asked: list[str], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*fit(data, tmp_path), *asked])
    assert ended.value.code == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vlm")]
    assert len(said) == 1
    assert re.search(message, said[0]), said[0]


def test_the_digest_of_the_questions_knows_their_words_and_not_how_they_are_held() -> None:
    rows = {"id": list("abcd"), "question": ["x?"] * 4, "answers": [["y", "n"], ["y"], None, ["n"]]}
    table = pa.table(rows)
    digest = digest_of(table)
    pieces = [table.slice(0, 3), table.slice(3, 0), table.slice(3)]
    assert digest_of(pa.concat_tables(pieces)) == digest
    for name, value in (("id", "e"), ("question", "y?"), ("answers", ["y", "y"])):
        other = pa.table(rows | {name: [value, *rows[name][1:]]})
        assert digest_of(other) != digest


def test_the_digest_of_the_rest_knows_every_image_by_its_name_and_the_choices() -> None:
    def digest(*images: str, **more: object) -> str:
        row = {"id": "1", "image": as_one(list(images)), "question": "what?", "answers": ["yes"]}
        return digest_of_rest(question_table([row | more], "mine"))

    found = digest("/old/a.png", "/old/b.png")
    assert digest("/new/place/a.png", "/new/place/b.png") == found
    others = [digest("/old/c.png", "/old/b.png"), digest("/old/a.png", "/old/c.png")]
    others += [digest("/old/b.png"), digest("/old/a.png", "/old/b.png", choices=["yes", "no"])]
    assert len({found, *others}) == 5
