"""A teacher: what is learned from it, what is said about it, and that it leaves no trace."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import rest_slow
from mishaps import Mishap
from training_runs import DDP, EXACT, assert_same, callback, fit, only_run, outcome, run

import vlm
from vlm.cli.training_cli import VQACLI
from vlm.core.batch import Batch
from vlm.core.errors import ConfigError
from vlm.heads import (
    AnswerHead,
    AuxiliaryClassification,
    Classification,
    LearnedMixin,
    MultipleChoice,
    MultiTask,
)
from vlm.heads.auxiliary import Sides
from vlm.heads.losses import distillation
from vlm.training import Distillation
from vlm.training.distillation import Teacher

WORDS = ["what", "color", "is", "it"]


def model() -> vlm.VQAModel:
    torch.manual_seed(3)
    image, text = vlm.image.ConvNet(image_size=16), vlm.text.BagOfWords(WORDS)
    fusion = vlm.fusion.Pooled(image.dim, text.dim)
    head = Classification(fusion.out_dim, ("red", "blue", "green"))
    return vlm.VQAModel(image, text, fusion, head)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(vlm.VQA(model()).save(tmp_path_factory.mktemp("teacher") / "model"))


def asked(made: vlm.VQAModel) -> Batch:
    images = torch.randint(256, (2, *made.processor.transform.shape), dtype=torch.uint8)  # type: ignore[union-attr]
    return made.processor.batch(images, [0, 1], ["what is it", "what color is it"])


def test_answers_are_compared_by_their_text(saved: str) -> None:
    head = Classification(128, ["blue", "pink", "red"], loss="ce")
    teacher = Teacher(Distillation(saved, temperature=3), head)
    assert (teacher.shared, teacher.missing, teacher.unused) == (["blue", "red"], ["pink"], 1)
    told = "knows 2 of the 3 answers to learn, not 'pink'; 1 of its own are left out."
    assert str(teacher) == f"Teacher {saved}: {told}"
    batch = asked(teacher.vqa.model)
    known = teacher.vqa.model(batch)  # red, blue, green
    logits = torch.randn(2, 3, requires_grad=True)
    loss = teacher.loss(logits, batch._replace(total=5, teacher=batch))
    expected = distillation(logits[:, [0, 2]], known[:, [1, 0]], 3, independent=False).sum() / 5
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad[:, 1].any()
    assert all(p.grad is None and not p.requires_grad for p in teacher.vqa.model.parameters())
    assert not any(module.training for module in teacher.vqa.model.modules())


def test_independent_answers_learn_the_shares_of_a_distribution(tmp_path: Path) -> None:
    """The teacher's logits are known up to a constant, which no share depends on."""
    made, losses = model(), []
    made.head = Classification(made.fusion.out_dim, ("red", "blue", "green"), loss="ce")
    student = model()
    batch = asked(student)
    batch = batch._replace(teacher=batch)
    for shift in (0.0, 5.0):
        with torch.no_grad():
            [*made.head.parameters()][-1].add_(shift)  # the bias of the logits
        folder = str(vlm.VQA(made).save(tmp_path / f"teacher{shift}"))
        teacher = Teacher(Distillation(folder), student.head)
        losses.append(teacher.loss(torch.zeros(2, 3), batch).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_head_among_several_learns(saved: str) -> None:
    heads = {"choose": MultipleChoice, "answer": Classification}
    head = MultiTask(128, heads, answers_by="answer", text_dim=64, answers=["red", "blue"])
    teacher = Teacher(Distillation(saved), head)
    batch = asked(teacher.vqa.model)
    loss = teacher.loss({"answer": torch.zeros(2, 2)}, batch._replace(teacher=batch))
    assert loss > 0


def test_a_head_with_auxiliary_classifiers_learns_by_its_joint_answers(saved: str) -> None:
    head = AuxiliaryClassification(128, 64, 64, ["red", "blue"])
    teacher = Teacher(Distillation(saved), head)
    batch = asked(teacher.vqa.model)
    batch = batch._replace(teacher=batch)
    logits, others = torch.randn(2, 2), torch.randn(2, 2)
    assert teacher.loss(Sides(logits, others, others), batch).equal(teacher.loss(logits, batch))


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (Classification(128, ["cat", "dog", "red"]), r"knows 1 answer of the 3 to learn \('cat'"),
        (MultipleChoice(128, 64), "the head is a MultipleChoice; expected a head that scores"),
        (LearnedMixin(128, 64, ["red", "blue"]), "the head is a LearnedMixin"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(head: AnswerHead, said: str, saved: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Teacher(Distillation(saved), head)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"weight": 0}, "distillation.weight: got 0"),
        ({"weight": 1.5}, "distillation.weight: got 1.5"),
        ({"temperature": 0}, "distillation.temperature: got 0"),
        ({"temperature": float("inf")}, "distillation.temperature: got inf"),
    ],
)
def test_a_wrong_option_is_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Distillation("run", **arguments)


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of the small training's answers, at another size and with words of its own."""
    torch.manual_seed(1)
    image = vlm.image.ConvNet(image_size=32)
    text = vlm.text.BagOfWords(["what", "shape", "color"])
    fusion = vlm.fusion.Pooled(image.dim, text.dim)
    answers = [*vlm.datasets.EasyVQA(root=data).answers[1:], "mauve"]
    made = vlm.VQAModel(image, text, fusion, Classification(fusion.out_dim, answers))
    return str(vlm.VQA(made).save(tmp_path_factory.mktemp("teacher") / "model"))


def taught(teacher: str) -> list[str]:
    return [
        f"--model.distillation.teacher={teacher}",
        "--model.distillation.weight=0.7",
        "--data.augment.mirror.probability=0.5",
        "--data.augment.no_image=0.2",
    ]


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_taught_run_is_continued_bit_for_bit_and_keeps_no_teacher(
    teacher: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = taught(teacher)
    whole = VQACLI(fit(data, tmp_path / "whole", *told)).run_folder
    assert re.search(r"Teacher .*: knows \d+ of the \d+ answers to learn, not '\w+'; 1 of its own",
                     capsys.readouterr().out)  # fmt: skip
    strike = callback("Strike", what="raise", hook="on_train_batch_start", step=8)
    with pytest.raises(Mishap):
        VQACLI(fit(data, tmp_path, *told, "--run.checkpoint_steps=2", *strike))
    (last,) = tmp_path.glob("easy_vqa/*/checkpoints/last.ckpt")
    again = VQACLI(fit(data, tmp_path, *told, "--run.checkpoint_steps=2", f"--ckpt_path={last}"))
    assert_same(outcome(whole), outcome(again.run_folder))
    plain = VQACLI(fit(data, tmp_path / "plain")).run_folder
    states = [outcome(folder)["state_dict"] for folder in (whole, plain)]
    assert states[0].keys() == states[1].keys()
    assert any(not states[0][name].equal(states[1][name]) for name in states[0])


@pytest.mark.parametrize("side", rest_slow(["no_image", "no_question"], "no_image"))
def test_a_teacher_sees_no_side_that_a_control_takes_away(
    side: str, teacher: str, data: Path, tmp_path: Path
) -> None:
    short = [
        f"--model.distillation.teacher={teacher}",
        "--trainer.max_epochs=1",
        "--run.test=false",
    ]
    for option, sees in ((f"--data.control={side}", False), (f"--data.augment.{side}=0.9", True)):
        cli = VQACLI(fit(data, tmp_path, *short, option))
        for batch in cli.trainer.train_dataloader:  # type: ignore[union-attr]
            assert getattr(batch, side).any()
            missing = getattr(batch.teacher, side)
            assert missing is None if sees else missing.equal(getattr(batch, side))


def test_a_teacher_does_not_read_what_was_left_out_as_unreadable(
    teacher: str, data: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "data"
    shutil.copytree(data, broken)
    for number in range(3):
        (broken / f"train/images/{number}.png").write_text("no image")
    told = [f"--model.distillation.teacher={teacher}", "--data.images.skip_unreadable=3"]
    with pytest.warns(UserWarning, match="as unreadable"):
        cli = VQACLI(fit(broken, tmp_path, *told, "--trainer.max_epochs=1", "--run.test=false"))
    taught = [batch.teacher for batch in cli.trainer.train_dataloader]  # type: ignore[union-attr]
    assert sum(len(batch.image_index) for batch in taught) == len(cli.datamodule.table("train"))
    assert {tuple(batch.images.shape[1:]) for batch in taught} == {(3, 32, 32)}


def test_another_teacher_is_no_continuation(
    teacher: str, saved: str, data: Path, tmp_path: Path
) -> None:
    folder = VQACLI(fit(data, tmp_path, *taught(teacher), "--trainer.max_epochs=1")).run_folder
    other = tmp_path / "other"
    loaded = vlm.load(teacher)
    with torch.no_grad():
        next(iter(loaded.model.parameters())).add_(1)
    loaded.save(other)
    told = [*taught(str(other)), "--trainer.max_epochs=1"]
    with pytest.raises(vlm.checkpoint.checkpoint.CheckpointError, match="the teacher: digest"):
        VQACLI(fit(data, tmp_path, *told, f"--ckpt_path={folder}"))


@pytest.mark.slow
def test_two_processes_learn_the_same(teacher: str, data: Path, tmp_path: Path) -> None:
    # Adam turns the rounding of a gradient near zero into a whole step.
    told = [*EXACT, *taught(teacher), "--trainer.max_epochs=2", "--trainer.deterministic=true"]
    told += ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.03"]
    one = run(fit(data, tmp_path / "one", *told, "--data.images_per_batch=2"))
    two = run(fit(data, tmp_path / "two", *told, "--data.images_per_batch=1", *DDP), 2)
    assert (one.returncode, two.returncode) == (0, 0), (one.stderr + two.stderr)[-3000:]
    states = [outcome(only_run(tmp_path / name))["state_dict"] for name in ("one", "two")]
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-3, atol=1e-5)
