"""Training runs with parts that are frozen, join later, learn slowly or use LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from conftest import rest_slow
from lightning.pytorch import Callback, Trainer
from training_runs import callback, fit

import vlm
from vlm.checkpoint.checkpoint import read_checkpoint
from vlm.cli.main import main
from vlm.cli.training_cli import VQACLI
from vlm.core.features import Features
from vlm.core.part import build

IMAGE, TEXT = "--model.tuning.image_encoder.", "--model.tuning.text_encoder."
EMA = callback("lightning.pytorch.callbacks.EMAWeightAveraging", decay=0.5)


def trained(data: Path, folder: Path, *told: str) -> VQACLI:
    return VQACLI(fit(data, folder, *told))


def state(trainer: Trainer) -> dict[str, torch.Tensor]:
    weights = trainer.lightning_module.model.state_dict()
    return {name: value.clone() for name, value in weights.items()}


def changed(before: dict[str, Any], after: dict[str, Any], prefix: str) -> bool:
    names = [name for name in before if name.startswith(prefix)]
    assert names
    return any(not torch.equal(before[name], after[name]) for name in names)


class Watch(Callback):
    """Records the weights at the start and after each epoch, and whether the image encoder's
    features have a gradient."""

    seen: ClassVar[list[dict[str, torch.Tensor]]]
    grads: ClassVar[list[bool]]

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        Watch.seen, Watch.grads = [state(trainer)], []

        def note(module: Any, inputs: Any, output: Features) -> None:
            if pl_module.model.training:
                Watch.grads.append(output.tokens.requires_grad)

        pl_module.model.image_encoder.register_forward_hook(note)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        Watch.seen.append(state(trainer))


WATCH = ["--trainer.callbacks+=test_tuning_runs.Watch"]


def test_a_frozen_encoder_stays_in_every_bit(data: Path, tmp_path: Path) -> None:
    """Its batch normalisation statistics stay fixed too, and it computes no gradient."""
    told = [IMAGE + "frozen=true", "--model.image_encoder.positions=none", *WATCH]
    trained(data, tmp_path, *told)
    before, *_, after = Watch.seen
    assert not changed(before, after, "image_encoder.")
    assert any("running_mean" in name for name in before if name.startswith("image_encoder."))
    assert changed(before, after, "text_encoder.")
    assert Watch.grads
    assert not any(Watch.grads)


def test_statistics_stay_while_the_rest_is_trained(data: Path, tmp_path: Path) -> None:
    """They stay fixed even once the encoder trains; all its other weights change."""
    trained(data, tmp_path, IMAGE + "keep_statistics=true", IMAGE + "from_epoch=1", *WATCH)
    before, *_, after = Watch.seen
    moved = {name for name in before if changed(before, after, name)}
    names = {name for name in before if name.startswith("image_encoder.")}
    statistics = {name for name in names if "running_" in name or "num_batches" in name}
    assert statistics
    assert names - moved == statistics


def test_layers_join_epoch_by_epoch(data: Path, tmp_path: Path) -> None:
    told = [IMAGE + "from_epoch=1", IMAGE + "layers_per_epoch=1", *WATCH]
    trained(data, tmp_path, *told)
    before, first, second, third = Watch.seen
    stages = [f"image_encoder.stages.{n}." for n in range(4)]
    assert [changed(before, first, stage) for stage in stages] == [False] * 4
    assert [changed(first, second, stage) for stage in stages] == [False, False, False, True]
    assert [changed(second, third, stage) for stage in stages] == [False, False, True, True]
    # The encoder computes no gradient in the first epoch, but does in the others.
    count = len(Watch.grads) // 3
    assert Watch.grads == [False] * count + [True] * 2 * count


def test_a_gradient_that_is_dropped_comes_to_the_same(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several processes drop the gradient; one process does not compute it."""
    from vlm.training import task

    told = [IMAGE + "from_epoch=1", TEXT + "from_epoch=2", "--trainer.gradient_clip_val=0.1"]
    one = state(trained(data, tmp_path, *told).trainer)
    monkeypatch.setattr(task, "SingleDeviceStrategy", int)  # no strategy is an int
    other = state(trained(data, tmp_path, *told).trainer)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=1e-7, msg=name)


def test_rates_of_layers(data: Path, tmp_path: Path) -> None:
    told = [IMAGE + "layer_decay=0.5", IMAGE + "lr_scale=0.1", "--model.schedule=null"]
    cli = trained(data, tmp_path, *told, "--trainer.max_epochs=1")
    rate = {p: g["lr"] for g in cli.trainer.optimizers[0].param_groups for p in g["params"]}
    stages = cli.model.model.image_encoder.stages
    found = [rate[next(stage.parameters())] for stage in stages]
    assert found == pytest.approx([0.003 * 0.1 * 0.5**below for below in (3, 2, 1, 0)])
    assert rate[next(cli.model.model.fusion.parameters())] == 0.003


LORA = [IMAGE + "lora.rank=2", IMAGE + "lora.dropout=0.1", TEXT + "lora={layers: [mlp.0]}"]


def test_lora_travels_in_checkpoints(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = trained(data, tmp_path, *LORA, *WATCH)
    before, *_, after = Watch.seen
    base = [n for n in before if ".lora_" not in n and ".positions." not in n]
    assert not any(changed(before, after, n) for n in base if n.startswith("image_encoder."))
    assert changed(before, after, "image_encoder.stages.3.0.lora_B.default.weight")
    path = cli.run_folder / "checkpoints/last.ckpt"
    part = build(read_checkpoint(path).model["image_encoder"])
    assert part.lora.rank == 2
    assert part.lora.dropout == 0.1
    # `vlm.load` merges LoRA into plain weights, which answer the same.
    vqa = vlm.load(path)
    assert not any("lora" in name for name in vqa.model.state_dict())
    images = torch.rand(3, 3, 64, 64)
    cli.model.eval()
    with torch.no_grad():
        theirs = cli.model.model.image_encoder(images).tokens
        torch.testing.assert_close(vqa.model.image_encoder(images).tokens, theirs)
    # The checkpoint's LoRA is used for testing, but `fit` without it is refused.
    told = fit(data, tmp_path / "test", f"--ckpt_path={path}")
    tested = VQACLI(["test", *told[1:]])
    assert tested.model.model.text_encoder.lora.layers == ["mlp.0"]
    with pytest.raises(SystemExit) as stop:
        main(["fit", *told[1:]])
    assert stop.value.code == 1
    assert "tuning.image_encoder.lora: {'rank': 2, " in capsys.readouterr().err


def test_lora_without_peft_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from vlm.core.lora import LoRA, add_lora
    from vlm.image import ConvNet

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"pip install 'vlm-vqa\[lora\]'"):
        add_lora(ConvNet(), LoRA())


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback")
def test_a_checkpoint_holds_the_averaged_weights(data: Path, tmp_path: Path) -> None:
    """Validation and `vlm.load` use the averaged weights; training continues from its own."""
    cli = trained(data, tmp_path, *EMA, IMAGE + "from_epoch=1")
    path = cli.run_folder / "checkpoints/last.ckpt"
    content = torch.load(path, weights_only=True)
    averaged, own = content["state_dict"], content["current_model_state"]
    assert changed(own, averaged, "model.head.")
    loaded = vlm.load(path).model.state_dict()
    for name, value in loaded.items():
        assert torch.equal(value, averaged[f"model.{name}"]), name
    validated = VQACLI(
        ["validate", *fit(data, tmp_path / "validate", f"--ckpt_path={path}")[1:]]
    ).trainer.callback_metrics["val_loss"]
    with (cli.run_folder / "metrics.csv").open() as file:
        header, *rows = (line.strip().split(",") for line in file)
    last = [row for row in rows if row[header.index("val_loss")]][-1]
    assert float(last[header.index("val_loss")]) == pytest.approx(float(validated), rel=1e-5)


SETTINGS = {
    "mixed precision": ["--trainer.precision=bf16-mixed"],
    "half the numbers": ["--trainer.precision=bf16-true"],
    "clipped and accumulated": [
        "--trainer.gradient_clip_val=0.1",
        "--trainer.accumulate_grad_batches=2",
    ],
    "all of it": [
        "--trainer.precision=bf16-mixed",
        "--trainer.gradient_clip_val=0.1",
        "--trainer.accumulate_grad_batches=2",
    ],
    "another optimiser": [
        "--model.optimizer=torch.optim.Adamax",
        "--model.schedule=vlm.training.WarmupSteps",
        "--model.schedule.milestones=[1,2]",
        "--model.schedule.unit=epochs",
    ],
    "averaged": EMA,
}


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback")
@pytest.mark.parametrize("name", rest_slow(SETTINGS, "mixed precision", "averaged"))
def test_it_works_with_the_trainer_s_own_settings(name: str, data: Path, tmp_path: Path) -> None:
    told = [IMAGE + "lora.rank=2", IMAGE + "from_epoch=1", TEXT + "layers_per_epoch=1", *WATCH]
    cli = trained(data, tmp_path, *told, *SETTINGS[name])
    assert torch.isfinite(cli.trainer.callback_metrics["train_loss"])
    _, first, _, third = Watch.seen
    assert changed(first, third, "image_encoder.stages.0.0.lora_B.")
    assert not changed(first, third, "image_encoder.stages.0.0.base_layer.")


def test_the_table_at_the_start(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = [IMAGE + "frozen=true", TEXT + "from_epoch=1", TEXT + "layers_per_epoch=1"]
    told += [
        "--model.image_encoder.positions=none",
        "--model.tuning.fusion.from_epoch=2",
        "--model.tuning.head.lr_scale=10",
    ]
    trained(data, tmp_path, *told, "--trainer.max_epochs=3", "--trainer.precision=bf16-mixed")
    lines = capsys.readouterr().out.splitlines()
    cells = [[x.strip() for x in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    rows: dict[str, list[str]] = {}
    for first, *others in cells:
        if first:
            part = rows[first] = others
        else:  # continuation of a wrapped row
            part[:] = [f"{one} {more}".strip() for one, more in zip(part, others, strict=True)]
    assert rows["image encoder"][:5] == ["ConvNet", "33,264", "0", "never", "-"]
    # All but the embedding (15 words, width 64), which would only join after the end.
    assert rows["text encoder"][1:3] == ["9,088", f"{2 * (64 * 64 + 64):,}"]
    assert rows["text encoder"][3:5] == ["from epoch 1, 2 of 3 layers by the end", "0.003"]
    assert rows["fusion"][3] == "from epoch 2"
    assert rows["head"][3:5] == ["always", "0.03"]
    assert {rows[part][5] for part in ("image encoder", "text encoder", "head")} == {"bf16-mixed"}


MISTAKES = {
    IMAGE + "layer_decay=2": "layer_decay: got 2.0; expected a share above 0 and at most 1",
    IMAGE + "frosen=true": "Did you mean --model.tuning.image_encoder.frozen?",
    "--model.tuning.image_encodr.frozen=true": "Did you mean --model.tuning.image_encoder.frozen?",
    TEXT + "lora.rank=2": "text_encoder.lora: BagOfWords has no layer that LoRA can correct",
    TEXT + "from_epoch=3": "text_encoder.from_epoch: got 3 with trainer.max_epochs=3",
    "--model.tuning.fusion.layer_decay=0.5": "Pooled has no stack of layers",
    "--model.tuning.init_from=nowhere.ckpt": "nowhere.ckpt: there is no such file",
    "--model.schedule.warmup=1.5": "model.schedule: warmup: got 1.5; expected 0 or more share",
}


@pytest.mark.parametrize(("argument", "message"), MISTAKES.items())
def test_a_mistake_gets_one_line(
    argument: str, message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(fit(data, tmp_path, argument))
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vlm")]
    assert len(said) == 1
    assert message in said[0]


def test_nothing_to_train_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = ("image_encoder", "text_encoder", "fusion", "head")
    with pytest.raises(SystemExit) as stop:
        main(fit(data, tmp_path, *(f"--model.tuning.{part}.frozen=true" for part in parts)))
    assert stop.value.code == 2
    assert "every part is frozen, so there is nothing to train" in capsys.readouterr().err


def test_the_saved_configuration_says_it_all(data: Path, tmp_path: Path) -> None:
    cli = trained(data, tmp_path, *LORA, "--trainer.max_epochs=1")
    saved = yaml.safe_load((cli.run_folder / "config.yaml").read_text())["model"]["tuning"]
    assert saved["image_encoder"]["lora"]["rank"] == 2
    again = VQACLI(["fit", f"-c={cli.run_folder / 'config.yaml'}", f"--run.folder={tmp_path}/2"])
    for name, value in state(cli.trainer).items():
        assert torch.equal(value, again.model.model.state_dict()[name]), name
