"""Parts that start from the weights of another run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small_run
from lightning.pytorch import Callback, Trainer
from mishaps import Mishap
from training_runs import fit

import vlm
from vlm.checkpoint.checkpoint import CheckpointError, load_model, read_checkpoint
from vlm.cli.main import main
from vlm.cli.training_cli import VQACLI
from vlm.model import VQAModel
from vlm.training.finetuning.warm_start import init_from


class Begin(Callback):
    """Stops a training run before its first step."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        raise Mishap


def begun(data: Path, folder: Path, *told: str) -> VQAModel:
    """The model at the start of a training run."""
    made: list[VQAModel] = []

    class Cli(VQACLI):
        def after_instantiate_classes(self) -> None:
            super().after_instantiate_classes()
            made.append(self.model.model)

    with pytest.raises(Mishap):
        Cli(fit(data, folder, *told, "--trainer.callbacks+=test_init_from.Begin"))
    return made[0]


def test_all_parts(run: Path, data: Path, tmp_path: Path) -> None:
    found = begun(data, tmp_path, f"--model.tuning.init_from={run}").state_dict()
    wanted = load_model(read_checkpoint(run)).state_dict()
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name


def test_chosen_parts_of_another_model(run: Path, data: Path, tmp_path: Path) -> None:
    told = ["--model.fusion=vlm.fusion.CrossAttention"]
    own = begun(data, tmp_path, *told).state_dict()
    found = begun(
        data,
        tmp_path,
        *told,
        f"--model.tuning.init_from={run / 'checkpoints/best.ckpt'}",
        "--model.tuning.init_parts=[image_encoder,text_encoder]",
    ).state_dict()
    wanted = load_model(read_checkpoint(run)).state_dict()
    for name, value in found.items():
        source = wanted if name.startswith(("image_encoder", "text_encoder")) else own
        assert torch.equal(value, source[name]), name


def test_a_model_that_comes_with_vlm(data: Path, tmp_path: Path) -> None:
    told = ["--model.tuning.init_from=scenes", "--model.tuning.init_parts=[image_encoder]"]
    found = begun(data, tmp_path, *told).image_encoder.state_dict()
    wanted = vlm.load("scenes").model.image_encoder.state_dict()
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name
    with pytest.raises(CheckpointError, match=r"init_from: scnes: .* Did you mean scenes\?"):
        begun(data, tmp_path, "--model.tuning.init_from=scnes")


def test_a_shared_model_cannot_fill_the_memory(data: Path, tmp_path: Path) -> None:
    """A stranger's corrections are built within what its weights can fill."""
    folder = vlm.load("scenes").save(tmp_path / "shared")
    config = json.loads((folder / "config.json").read_text())
    config["model"]["image_encoder"]["lora"] = {"rank": 3_000_000}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="cannot fill"):
        init_from(vlm.load("scenes").model, str(folder), ["image_encoder"])


@pytest.mark.parametrize("name", ["hf:a/b/c", "nowhere", ""])
def test_a_model_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"model\.tuning\.init_from: "):
        init_from(vlm.load("scenes").model, name)


def test_lora_is_merged_and_put_on_top(data: Path, tmp_path: Path) -> None:
    """Both the source run and the new run use LoRA."""
    lora = ["--model.tuning.image_encoder.lora.rank=2"]
    source = VQACLI(fit(data, tmp_path / "source", *lora)).run_folder / "checkpoints/last.ckpt"
    wanted = load_model(read_checkpoint(source)).image_encoder
    model = begun(data, tmp_path, f"--model.tuning.init_from={source}", *lora)
    images = torch.rand(2, 3, 64, 64)
    encoder = model.image_encoder.eval()
    with torch.no_grad():
        torch.testing.assert_close(encoder(images).tokens, wanted(images).tokens)
    assert any(p.requires_grad for p in encoder.parameters())


def test_what_does_not_fit_is_listed(run: Path, data: Path, tmp_path: Path) -> None:
    told = ["--model.image_encoder.widths=[16,32,32,67]"]
    with pytest.raises(CheckpointError) as error:
        begun(data, tmp_path, *told, f"--model.tuning.init_from={run}")
    lines = str(error.value).splitlines()
    assert f"{run}: its weights do not fit the model:" in lines[0]
    assert any("image_encoder: stages.3.0.weight: (64, 32, 3, 3) here, (67, " in x for x in lines)
    assert lines[-2] == "  and 3 more"  # positions.outer, fusion
    assert len(lines) <= 13
    assert "init_parts" in lines[-1]
    with pytest.raises(CheckpointError, match=r"fusion: vlm.fusion.Pooled there, .*CrossAttention"):
        begun(
            data,
            tmp_path,
            "--model.fusion=vlm.fusion.CrossAttention",
            f"--model.tuning.init_from={run}",
        )


def test_one_encoder_is_not_the_beginning_of_two(run: Path, data: Path, tmp_path: Path) -> None:
    two = "{class_path: vlm.image.SideBySide, init_args: {encoders: [%s, %s]}}"
    told = f"--model.image_encoder={two % (('{class_path: vlm.image.ConvNet}',) * 2)}"
    found = "image_encoder: vlm.image.ConvNet there, vlm.image.SideBySide here"
    with pytest.raises(CheckpointError, match=found):
        begun(data, tmp_path, told, f"--model.tuning.init_from={run}")


def test_answers_in_another_order_are_refused(run: Path) -> None:
    """The weights would fit, but every answer would mean another."""
    model = load_model(read_checkpoint(run))
    model.head.arguments["answers"] = list(reversed(model.head.arguments["answers"]))
    with pytest.raises(CheckpointError, match="head: its answers are others, or in another order"):
        init_from(model, str(run))
    init_from(model, str(run), ["fusion"])


def test_a_run_that_goes_on_keeps_its_own_weights(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Resuming works with the same init_from and is refused with another one."""
    told = [f"--model.tuning.init_from={run}"]
    half = VQACLI(fit(data, tmp_path, *told)).run_folder / "checkpoints/last.ckpt"
    weights = read_checkpoint(half).weights
    cli = VQACLI(fit(data, tmp_path, *told, f"--ckpt_path={half}"))  # already at its end
    for name, value in cli.model.model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    with pytest.raises(SystemExit) as stop:
        main(fit(data, tmp_path, f"--model.tuning.init_from={half}", f"--ckpt_path={half}"))
    assert stop.value.code == 2
    assert "init_from: got " in capsys.readouterr().err
    main(
        [
            "validate",
            *fit(data, tmp_path, "--model.tuning.init_from=gone", f"--ckpt_path={half}")[1:],
        ]
    )


@pytest.mark.slow
def test_a_run_goes_on_without_the_one_it_began_with(run: Path, data: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    shutil.copytree(run, gone)
    told = [f"--model.tuning.init_from={gone}"]
    half = VQACLI(fit(data, tmp_path, *told)).run_folder / "checkpoints/last.ckpt"
    shutil.rmtree(gone)
    VQACLI(fit(data, tmp_path, *told, f"--ckpt_path={half}"))


def test_it_helps(run: Path, data: Path, tmp_path: Path) -> None:
    """One epoch from a trained model gives a lower loss than one epoch from scratch."""
    told = [*small_run(data, tmp_path), "--trainer.max_epochs=1", "--run.test=false"]
    alone = VQACLI(told).trainer.callback_metrics["val_loss"]
    helped = VQACLI([*told, f"--model.tuning.init_from={run}"]).trainer.callback_metrics["val_loss"]
    assert helped < alone
