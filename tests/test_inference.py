"""`vlm.load(...).answer(...)` and `vlm ask`, with valid and bad input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vlm
from vlm.checkpoint.checkpoint import CheckpointError
from vlm.checkpoint.file import write_checkpoint
from vlm.cli.main import main
from vlm.image import ImageError


@pytest.fixture(scope="module")
def vqa(run: Path) -> vlm.VQA:
    return vlm.load(run)


@pytest.fixture
def picture(data: Path) -> Path:
    return data / "test/images/0.png"


def test_path_image_and_array_give_one_answer(vqa: vlm.VQA, picture: Path) -> None:
    image = Image.open(picture)
    pixels = np.asarray(image)
    answers = [
        vqa.answer(given, "what color is it?")
        for given in (picture, str(picture), image, pixels, torch.from_numpy(pixels.copy()))
    ]
    assert all(answer == answers[0] for answer in answers)
    assert answers[0].text == answers[0].top[0][0]
    assert answers[0].probability == max(p for _, p in answers[0].top)
    assert answers[0].warnings == ()


def test_batches_change_no_answer(vqa: vlm.VQA, data: Path) -> None:
    images = [data / f"test/images/{n}.png" for n in range(5)]
    questions = ["what color is it?", "is it red?", "is the image not blue?", "is it?", "blue?"]
    together = vqa.answer(images, questions)
    for picture, question, answer in zip(images, questions, together, strict=True):
        alone = vqa.answer(picture, question)
        assert alone.text == answer.text
        assert alone.probability == pytest.approx(answer.probability, abs=1e-5)
    about_one = vqa.answer(images[0], questions)
    assert about_one[0].text == together[0].text
    assert about_one[0].probability == pytest.approx(together[0].probability, abs=1e-5)
    assert vqa.answer(images[0], []) == []


def test_images_that_were_seen_together_are_asked_about_together(vqa: vlm.VQA, data: Path) -> None:
    images = [data / f"test/images/{n}.png" for n in range(3)]
    seen = vqa.see(images)
    assert vqa.see([]) == []
    assert [one.images.shape[0] for one in seen] == [1, 1, 1]
    assert seen[0].images.untyped_storage().nbytes() == seen[0].images.nbytes, "its own memory"
    read = []
    hook = vqa.model.fusion.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    order = [2, 0, 2, 1]
    together = vqa.answer([seen[n] for n in order], ["what color is it?"] * 4)
    hook.remove()
    assert read[0].images == 3, "an image that is asked about twice stands there once"
    for number, answer in zip(order, together, strict=True):
        alone = vqa.answer(images[number], "what color is it?")
        assert answer.text == alone.text
        assert answer.probability == pytest.approx(alone.probability, abs=1e-5)
    with pytest.raises(ValueError, match="images from `see` among others"):
        vqa.answer([seen[0], images[1]], ["is it red?"] * 2)
    with pytest.raises(ImageError, match=r"^image\[1\]"):
        vqa.see([images[0], b"no image"])


def test_unknown_words_are_answered_with_a_warning(vqa: vlm.VQA, picture: Path) -> None:
    answer = vqa.answer(picture, "wherefore quixotic?")
    assert answer.text
    assert "Every word is unknown" in answer.warnings[0]
    assert "'quixotic' is unknown" in vqa.answer(picture, "is it quixotic?").warnings[0]
    assert "no words" in vqa.answer(picture, "?!").warnings[0]


@pytest.mark.parametrize(
    ("question", "is_guess"),
    [
        ("what color is the shape?", False),
        ("is it not the", False),  # only function words, all in the vocabulary
        ("is the zebra red?", False),
        ("what color is the zebra?", False),
        ("is the zebra asleep?", True),  # only "is" and "the" are in the vocabulary
        ("who is the president of France?", True),
        ("какого цвета фигура?", True),
        ("ce qui a fait ça", True),  # "a" also occurs in the training questions
        ("?!", True),
    ],
)
def test_a_question_beyond_the_model_gets_no_answer(
    vqa: vlm.VQA, picture: Path, question: str, is_guess: bool
) -> None:
    answer = vqa.answer(picture, question)
    assert answer.is_guess == is_guess
    assert any("a guess" in warning for warning in answer.warnings) == is_guess


def test_ask_gives_no_answer_to_a_question_beyond_the_model(
    run: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["ask", str(run), str(picture), "какого цвета фигура?"])
    said = capsys.readouterr()
    assert ended.value.code == 3
    assert said.out.startswith("No answer: ")
    assert "%" not in said.out
    assert "Every word is unknown" in said.err
    main(["ask", str(run), str(picture), "what color is the shape?", "--device=cpu"])
    assert " %  " in capsys.readouterr().out


@pytest.mark.parametrize("command", ["ask", "explain"])
def test_a_device_that_is_not_there_is_named(command: str, run: Path, picture: Path) -> None:
    with pytest.raises(SystemExit, match=f"vlm {command}: --device: got 'cuda:99'; expected cpu"):
        main([command, str(run), str(picture), "what color is it?", "--device=cuda:99"])


@pytest.mark.parametrize("question", ["", "   ", 3])
def test_an_empty_question_is_refused(vqa: vlm.VQA, picture: Path, question: object) -> None:
    with pytest.raises(ValueError, match=r"question 1: got .*; expected text|images for"):
        vqa.answer(picture, [question])


def test_numbers_of_images_and_questions_must_fit(vqa: vlm.VQA, picture: Path) -> None:
    with pytest.raises(ValueError, match="got 2 images for 3 questions"):
        vqa.answer([picture, picture], ["a", "b", "c"])


def test_a_missing_image_is_named(vqa: vlm.VQA, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"nosuch.png: there is no such file"):
        vqa.answer(tmp_path / "nosuch.png", "is it red?")


def test_a_bad_image_among_several_has_its_number(vqa: vlm.VQA, picture: Path) -> None:
    with pytest.raises(ImageError, match=r"^image\[1\]: not a readable image"):
        vqa.answer([picture, b"no image"], ["is it red?", "is it blue?"])


@pytest.mark.parametrize("wrong", [3, {"path": "0.png"}])
def test_what_is_no_image_has_its_number(vqa: vlm.VQA, picture: Path, wrong: object) -> None:
    with pytest.raises(TypeError, match=rf"^image\[2\]: got {type(wrong).__name__}"):
        vqa.answer([picture, picture, wrong], ["is it red?"] * 3)
    with pytest.raises(TypeError, match=rf"^image: got {type(wrong).__name__}"):
        vqa.answer(wrong, "is it red?")


def test_a_checkpoint_says_which_run_made_it(vqa: vlm.VQA, run: Path) -> None:
    assert vqa.about["run"] == str(run)
    assert {"created", "vlm", "torch", "data"} <= set(vqa.about)


def broken(kind: str, run: Path, folder: Path) -> Path:
    whole = (run / "checkpoints/best.ckpt").read_bytes()
    path = folder / f"{kind}.ckpt"
    if kind == "other":
        write_checkpoint({"state_dict": {}}, path)
    elif kind == "pickle":
        torch.save({"vlm": Path("x")}, path)
    elif kind == "weights":
        content = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
        state = content["state_dict"]
        state["model.extra"] = state.pop("model.fusion.merge.x_projection.bias")
        write_checkpoint(content, path)
    elif kind == "foreign":
        content = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
        content["vlm"]["model"]["fusion"]["class_path"] = "subprocess.Popen"
        write_checkpoint(content, path)
    else:
        path.write_bytes(
            {
                "truncated": whole[: len(whole) // 2],
                "empty": b"",
                "page": b"<!DOCTYPE html><html>404</html>",
                "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
                "text": b"hello",
            }[kind]
        )
    return path


BROKEN = {
    "truncated": "damaged",
    "empty": "the file is empty",
    "page": "a web page",
    "lfs": "a Git LFS pointer",
    "text": "no checkpoint",
    "other": "not a checkpoint of vlm",
    "pickle": "more than weights and plain data",
    "weights": "missing here: fusion.merge.x_projection.bias.*\n.*not in the model: extra",
    "foreign": "subprocess.Popen is not a class of vlm",
}


@pytest.mark.parametrize(("kind", "message"), BROKEN.items())
def test_a_broken_checkpoint_is_named_with_the_reason(
    kind: str, message: str, run: Path, tmp_path: Path
) -> None:
    path = broken(kind, run, tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        vlm.load(path)
    assert str(path) in str(caught.value)
    assert "weights_only" not in str(caught.value), "never advise turning safe loading off"


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nosuch.ckpt: there is no such file.*`vlm share`"):
        vlm.load(tmp_path / "nosuch.ckpt")
    with pytest.raises(CheckpointError, match=r"has no checkpoints/best.ckpt.*`vlm share`"):
        vlm.load(tmp_path)


def test_ask_prints_the_answers(
    run: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["ask", str(run), str(picture), "what color is it?", "--top", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].split(" %  ")[1] == vlm.load(run).answer(picture, "what color is it?").text


def test_ask_says_what_is_wrong_in_a_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"vlm ask: .*nosuch.png: there is no such file"):
        main(["ask", str(run), str(tmp_path / "nosuch.png"), "is it red?"])


def test_loading_needs_no_training_code_and_no_network(run: Path, picture: Path) -> None:
    code = f"""
import socket, sys
def refuse(*args, **kwargs): raise AssertionError("network used")
socket.socket.connect = refuse
import vlm
print(vlm.load({str(run)!r}).answer({str(picture)!r}, "is it red?").text)
heavy = {{"lightning", "timm", "transformers", "open_clip", "gradio", "torchvision", "pyarrow"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("yes", "no", "red", "green", "blue")


def test_importing_the_fusions_loads_torch_and_einops_alone() -> None:
    code = """
import sys
import torch, einops
before = set(sys.modules)
import vlm.fusion
new = {name.split(".")[0] for name in set(sys.modules) - before}
assert new <= {"vlm"} | set(sys.stdlib_module_names) | {"einops"}, new
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("top_k", [0, -1])
def test_no_answers_are_not_an_answer(run: Path, top_k: int) -> None:
    with pytest.raises(ValueError, match=f"top_k: got {top_k}; expected a positive integer"):
        vlm.load(run).answer(Image.new("RGB", (8, 8)), "is it red?", top_k=top_k)


def test_a_question_that_is_no_text(run: Path) -> None:
    with pytest.raises(ValueError, match="question: got 3; expected a text or a list of texts"):
        vlm.load(run).answer(Image.new("RGB", (8, 8)), 3)


def test_images_that_another_model_has_seen_are_refused(vqa: vlm.VQA, picture: Path) -> None:
    other = vlm.VQA(vlm.VQAModel.from_config(vqa.model.config))
    for seen in ([other.see(picture)] * 2, [vqa.see(picture), other.see(picture)]):
        with pytest.raises(ValueError, match="images that another model has seen"):
            vqa.answer(seen, ["is it red?"] * 2)
