"""A configuration mistake gives an exit code and one line that says what to write instead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from conftest import rest_slow, rows_slow, small_run

from vlm.cli import training_command
from vlm.cli.main import main


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """Run a command that must fail; return its one-line error, without a traceback."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == code
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vlm")]
    return said


OWN = """
from vlm.fusion import Fusion

class Forward(Fusion):
    def forward(self, image, text):
        return image
"""


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (True, r"Forward is abstract\. It lacks fuse\.$"),
        (False, r"No module named '\w+'\. \w+ is in this folder: `python -m vlm` finds"),
    ],
)
def test_a_class_of_one_s_own_that_cannot_be_used(
    found: bool,
    said: str,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = f"own_{found}".lower()
    (tmp_path / f"{module}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    if found:
        monkeypatch.syspath_prepend(tmp_path)
    line = refused([*small_run(data, tmp_path), f"--model.fusion={module}.Forward"], capsys)
    assert re.search(said, line), line


MISTAKES = {
    "--run.monitor=accuracy": "run.monitor: got 'accuracy'; expected .* val_accuracy or val_loss",
    "--model.text_encoder=configs/text/gruu.yaml": "gruu.yaml: there is no such file. Did you mean",
    "--trainer.max_epoch=3": "Did you mean --trainer.max_epochs?",
    "--model.fusion=vlm.fusion.CrossAtention": "Did you mean vlm.fusion.CrossAttention?",
    "--model.fusion=vlm.fusio.CrossAttention": "Did you mean vlm.fusion?",
    "--model.fusion=vlm.image.ConvNet": "not correspond to a subclass of Fusion",
    "--model.fusion=vlm.fusion.Mutan": "a merge.*=vlm.fusion.Pooled .*merge=vlm.fusion.Mutan",
    "--model.fusion=Mutan": "a merge.*=vlm.fusion.Pooled .*merge=vlm.fusion.Mutan",
    "--model.image_encoder.width=3": "Did you mean widths?",
    "--model.fusion=Qqqq": r"no class Qqqq\. `vlm list` names .* needs its module: my_file\.Qqqq",
    "--model.fusion.layers=3": r"'layers' is not accepted; expected one of .*\bmerge",
    "--model.optimizer.lrr=1": r"model.optimizer: .*'lrr'.*\. Did you mean lr\?",
    "--model.optimizer=AdmW": "Did you mean AdamW?",
    "--model.optimizer.lr=-1": "model.optimizer: Invalid learning rate: -1.0",
    "--model.schedule.warmpu=1": r"model.schedule: .*'warmpu'.*\. Did you mean warmup\?",
    "--model.head.loss=bce2": r"model.head: loss: .*bce2\. Did you mean bce\?",
    "--model.image_encoder={class_path: TimmEncoder, init_args: {name: resnet10t, image_size: 32, "
    "model_args: {pretrained_cfg: {num_classes: 5}}}}": "model_args: got pretrained_cfg, which may",
    "--data.images.in_memry=true": r"in_memry=true\. Did you mean --data.images.in_memory\?",
    "--data.pictures.in_memory=true": r"Did you mean --data.images.in_memory\?",
    "--data=EasyVQA": r"dataset: \{class_path: .* --dataset=EasyVQA",
    "--data.root=x": r"Did you mean --dataset.root\?",
    "--data.images=photos/": "--dataset.images",
    "--run.tests=true": "Did you mean --run.test?",
    "--data.images_per_batch=-4": "images_per_batch: got -4; expected a positive integer",
    "--dataset.validation_share=1.5": "validation_share: got 1.5; expected a share between 0 and 1",
    "--trainer.max_epochs=many": "trainer.max_epochs: .*int.*many",
    "--seed_everything=": "seed_everything",
    "--trainer.epochs=3": "Did you mean --trainer.max_epochs?",
    "--trainer.strategy=dpp": r"trainer.strategy: got 'dpp'; .*\. Did you mean ddp\?",
    "--trainer.accelerator=gqu": r"trainer.accelerator: got 'gqu'; .*\. Did you mean gpu\?",
    "--trainer.precision=bf17": "trainer.precision: .*bf17. Did you mean bf16?",
    "--trainer.callbacks=EarlyStoping": "Did you mean EarlyStopping?",
    "--trainer.devices=0": "trainer: .*devices='0'",
    "--trainer.accumulate_grad_batches=0": "accumulate_grad_batches: got 0; expected at least 1",
}


@pytest.mark.parametrize(("argument", "message"), rows_slow(MISTAKES.items(), 3))
def test_a_mistake_gets_one_line(
    argument: str,
    message: str,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = [*small_run(data, tmp_path), "--trainer.fast_dev_run=1", argument]
    said = refused(told, capsys)
    assert re.search(message, said), said


def test_a_training_without_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert "A configuration sets them, such as `-c easy_vqa`" in refused(["fit"], capsys)


def test_a_model_that_memory_cannot_hold(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = [*small_run(data, tmp_path), "--model.fusion.merge.out_dim=1000000000000"]
    said = refused(told, capsys, code=1)
    assert re.search(r"^vlm: out of memory \(.*allocate \d+ bytes\)\. Lower", said)


def test_memory_that_a_device_lacks_is_named_with_its_decimals() -> None:
    said = (
        "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 139.80 GiB "
        "of which 1.27 GiB is free. Process 1 has 138.5 GiB memory in use."
    )
    code, shown = training_command._outcome(torch.OutOfMemoryError(said), ["fit"])
    assert code == 1
    assert str(shown).startswith("vlm: out of memory (Tried to allocate 2.50 GiB). Lower data.")


def test_clipping_scaled_gradients_is_refused_before_the_training(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ["--trainer.gradient_clip_val=0.5", "--trainer.precision=16-mixed"]
    said = refused([*small_run(data, tmp_path), *told], capsys)
    assert "trainer.gradient_clip_val: got 0.5 with precision=16-mixed" in said
    assert "model.optimizer.fused=false" in said


def test_a_misspelt_key_in_a_file_names_the_file(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("trainer:\n  max_epoch: 3\n")
    said = refused([*small_run(data, tmp_path), f"--config={config}"], capsys)
    assert "mine.yaml" in said
    assert "Did you mean trainer.max_epochs?" in said


def test_a_data_set_in_the_data_s_group_is_shown_its_own(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "mine.yaml"
    arguments = "    root: x\n    images:\n      in_memory: true\n"
    config.write_text(f"data:\n  class_path: vlm.datasets.EasyVQA\n  init_args:\n{arguments}")
    said = refused([*small_run(data, tmp_path), f"--config={config}"], capsys)
    assert "mine.yaml" in said
    assert "dataset: {class_path: " in said
    assert "data: {images_per_batch: " in said


PARTS_WITH_MISTAKES = {
    "class_path: vlm.image.ConvNet\ninit_args: {widht: [5]}": r"'widht'.*\. Did you mean widths\?",
    "class_path: vlm.image.ConvNet\ninit_arg: {widths: [5]}": "Did you mean init_args.widths?",
    "class_path: vlm.image.ConvNett": "Did you mean vlm.image.ConvNet?",
    "class_path: vlm.image.ConvNet\ninit_args: {widths: five}": "widths: Expected .*five",
    "": "Not a valid subclass of ImageEncoder",
}


@pytest.mark.parametrize("named", rest_slow(["on the command line", "in a file"], "in a file"))
@pytest.mark.parametrize(("text", "message"), PARTS_WITH_MISTAKES.items())
def test_a_mistake_in_a_part_s_file_names_file_and_key(
    text: str,
    message: str,
    named: str,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "part.yaml").write_text(text)
    (tmp_path / "mine.yaml").write_text("model:\n  image_encoder: part.yaml\n")
    arguments = {
        "on the command line": f"--model.image_encoder={tmp_path}/part.yaml",
        "in a file": f"-c={tmp_path}/mine.yaml",
    }
    said = refused([*small_run(data, tmp_path), arguments[named]], capsys)
    assert "loop" not in said
    assert "model.image_encoder: " in said
    assert re.search(f"part.yaml(, line 1)?: .*{message}", said), said


def test_files_within_each_other(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outer, inner = tmp_path / "outer.yaml", tmp_path / "inner.yaml"
    inner.write_text("class_path: vlm.fusion.Mutan\ninit_args: {out_dmi: 5}")
    outer.write_text("class_path: vlm.fusion.Pooled\ninit_args: {merge: inner.yaml}")
    told = [*small_run(data, tmp_path), f"--model.fusion={outer}"]
    said = refused(told, capsys)
    assert re.search(r"outer.yaml: merge: \S*inner.yaml: .*'out_dmi'.*mean out_dim\?$", said)
    inner.write_text("outer.yaml")
    outer.write_text("inner.yaml")
    assert re.search("loop detected: .*outer.yaml -> .*inner.yaml", refused(told, capsys))


@pytest.mark.skipif(torch.cuda.is_available(), reason="here the GPU that is asked for is one")
def test_a_gpu_that_is_not_there(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused([*small_run(data, tmp_path), "--trainer.accelerator=gpu"], capsys)
    assert "trainer: No supported gpu backend found" in said
