"""Questions about several images, from a file to answers: which image has the circle?"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from circles import QUESTION, write_circles
from conftest import ROOT
from mishaps import Mishap
from torch.testing import assert_close
from training_runs import assert_same, callback, outcome

import vlm
from vlm.cli.main import main
from vlm.cli.training_cli import VQACLI
from vlm.explain import explain
from vlm.export.manifest import ExportError
from vlm.export.write import export

SMALL = [
    "--model.image_encoder.image_size=32",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.accelerator=cpu",
]


def fit(folder: Path, data: Path, *more: str) -> list[str]:
    config = ["-c", str(ROOT / "configs/own_data.yaml"), f"--dataset.path={data / 'my.jsonl'}"]
    return ["fit", *config, f"--run.folder={folder}", *SMALL, *more]


@pytest.fixture(scope="module")
def circles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("circles")
    write_circles(folder, 300)
    return folder


@pytest.fixture(scope="module")
def trained(circles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; its training takes some seconds."""
    return VQACLI(fit(tmp_path_factory.mktemp("runs"), circles)).run_folder


@pytest.fixture(scope="module")
def model(trained: Path) -> Any:
    return vlm.load(trained)


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Other pairs, and their rows."""
    folder = tmp_path_factory.mktemp("new")
    return folder, write_circles(folder, 12, seed=1)


def paths(folder: Path, image: str | list[str]) -> Any:
    names = [image] if isinstance(image, str) else image
    found = [str(folder / name) for name in names]
    return found if isinstance(image, list) else found[0]


def test_it_is_learned_and_tested(trained: Path, model: Any) -> None:
    overall, *_ = json.loads((trained / "test.json").read_text())["results"]
    assert overall["accuracy"] > 0.9
    lines = (trained / "test_predictions.jsonl").read_text().splitlines()
    said = [json.loads(line) for line in lines]
    images = [line["image"] for line in said]
    assert {len(image) for image in images if isinstance(image, list)} == {2}
    assert any(isinstance(image, str) for image in images)
    assert model.model.config["fusion"]["max_images"] == 2
    answers = model.answer(images, [line["question"] for line in said])
    assert [answer.text for answer in answers] == [line["answer"] for line in said]


def test_the_order_of_the_images_decides(model: Any, new: tuple[Path, list[Any]]) -> None:
    folder, rows = new
    pairs = [row for row in rows if row["question"] == QUESTION]
    said = [model.answer(paths(folder, row["image"]), QUESTION).text for row in pairs]
    assert np.mean([text == row["answer"] for text, row in zip(said, pairs, strict=True)]) > 0.9
    other = [model.answer(paths(folder, row["image"])[::-1], QUESTION).text for row in pairs]
    assert np.mean([one != text for one, text in zip(other, said, strict=True)]) > 0.9


@pytest.mark.parametrize("seen", [False, True])
def test_a_batch_of_one_and_of_several_images_changes_no_answer(
    seen: bool, model: Any, new: tuple[Path, list[Any]]
) -> None:
    folder, rows = new
    images = [paths(folder, row["image"]) for row in rows]
    questions = [row["question"] for row in rows]
    given = model.see(images) if seen else images
    together = model.answer(given, questions)
    for image, question, answer in zip(images, questions, together, strict=True):
        alone = model.answer(image, question)
        assert [text for text, _ in alone.top] == [text for text, _ in answer.top]
        shares = ([share for _, share in one.top] for one in (alone, answer))
        assert_close(*map(torch.tensor, shares), rtol=1e-4, atol=1e-6)
    one = model.answer([images[0]], [questions[0]] * 2)
    assert one[0] == one[1]
    assert one[0].text == together[0].text


def test_a_missing_side_leaves_the_others(model: Any, new: tuple[Path, list[Any]]) -> None:
    folder, rows = new
    pair, single = (paths(folder, row["image"]) for row in rows[1:3])
    together = model.answer([pair, None, single], [QUESTION] * 3)
    for image, answer in zip((pair, None, single), together, strict=True):
        alone = model.answer(image, QUESTION)
        assert abs(alone.probability - answer.probability) < 1e-4


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "image: got an empty list"),
        (["a.png"] * 3, "image: got 3 images for a question; expected at most 2"),
        (["a.png", None], r"image\[1\]: got None among the images of a question"),
        ([["a.png"], "b.png"], r"image\[0\]: got \['a.png'\] among the images"),
        (["a.png", "b.png"], r"image\[0\]: a.png: there is no such file"),
    ],
)
def test_wrong_images_are_named(images: list[Any], message: str, model: Any) -> None:
    with pytest.raises(ValueError, match=message):
        model.answer(images, QUESTION)


def test_a_model_of_one_image_says_so(run: Path) -> None:
    one = vlm.load(run)
    with pytest.raises(ValueError, match="got 2 images for a question; expected one, as the model"):
        one.answer(["a.png", "b.png"], "is it red?")


def test_explanations_and_exports_are_refused(
    model: Any, new: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    folder, rows = new
    with pytest.raises(ValueError, match="image: got a list of 2 images; expected one image"):
        explain(model, paths(folder, rows[0]["image"]), QUESTION)
    found = explain(model, paths(folder, rows[0]["image"])[0], QUESTION)
    assert found.grid is not None
    with pytest.raises(ExportError, match="questions about up to 2 images"):
        export(model, tmp_path / "export")


def test_commands_take_several(
    trained: Path,
    new: tuple[Path, list[Any]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, rows = new
    monkeypatch.chdir(folder)  # check-data writes its plot to runs/
    pair = paths(folder, rows[0]["image"])
    main(["ask", str(trained), *pair, QUESTION])
    expected = vlm.load(trained).answer(pair, QUESTION)
    assert capsys.readouterr().out.split()[2] == expected.text
    with pytest.raises(SystemExit):
        main(["ask", str(trained), pair[0], "which", "image?"])
    assert "which: there is no such image file. Write the question in quotes" in (
        capsys.readouterr().err
    )
    output = folder / "answers.jsonl"
    main(["predict", str(trained), f"--dataset.path={folder / 'my.jsonl'}", f"--output={output}"])
    said = [json.loads(line) for line in output.read_text().splitlines()]
    assert [one["image"] for one in said] == [row["image"] for row in rows]
    assert (
        np.mean([one["prediction"] == row["answer"] for one, row in zip(said, rows, strict=True)])
        > 0.9
    )
    check = ["check-data", str(ROOT / "configs/own_data.yaml")]
    with pytest.raises(SystemExit) as stopped:
        main([*check, f"--dataset.path={folder / 'my.jsonl'}"])
    assert stopped.value.code == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out


def test_more_images_than_it_was_trained_with_are_refused(
    trained: Path, new: tuple[Path, list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, rows = new
    three = folder / "three.jsonl"
    names = [*rows[0]["image"], rows[2]["image"] if isinstance(rows[2]["image"], str) else
             rows[2]["image"][0]]  # fmt: skip
    three.write_text("".join(json.dumps(row) + "\n" for row in (
        rows[0], {"image": names, "question": QUESTION, "answer": "first"}
    )))  # fmt: skip
    with pytest.raises(SystemExit):
        main(["test", str(trained), f"--dataset.test={three}"])
    assert "three.jsonl, line 2, column 'image' (id '2'): got 3 images; expected at most 2" in (
        capsys.readouterr().err
    )


def test_a_continued_run_comes_to_the_same(tmp_path: Path) -> None:
    write_circles(tmp_path / "data", 14)
    told = ["--trainer.max_epochs=3", "--data.images_per_batch=3", "--run.test=false",
            "--data.augment.no_image=0.2"]  # fmt: skip
    whole = VQACLI(fit(tmp_path / "whole", tmp_path / "data", *told)).run_folder
    told.append("--run.checkpoint_steps=2")
    strike = callback("Strike", what="raise", hook="on_train_batch_start", step=8)
    with pytest.raises(Mishap):
        VQACLI(fit(tmp_path / "b", tmp_path / "data", *told, *strike))
    (last,) = (tmp_path / "b").rglob("last.ckpt")
    again = VQACLI(fit(tmp_path / "b", tmp_path / "data", *told, f"--ckpt_path={last}"))
    assert_same(outcome(whole), outcome(again.run_folder))


@pytest.mark.slow
def test_kept_features_and_shards_are_of_single_images(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_circles(data, 14)
    told = ["--trainer.max_epochs=1", "--run.test=false", "--data.images.in_memory=false"]
    frozen = ["--model.tuning.image_encoder.frozen=true"]
    plain = VQACLI(fit(tmp_path / "a", data, *told, *frozen)).model
    features = f"--data.images.features={tmp_path / 'features'}"
    cached = VQACLI(fit(tmp_path / "b", data, *told, *frozen, features)).model
    config = str(ROOT / "configs/own_data.yaml")
    main(["shard", config, str(tmp_path / "shards"), f"--dataset.path={data / 'my.jsonl'}"])
    for image in data.glob("*.png"):
        image.unlink()
    shards = f"--data.images.shards.path={tmp_path / 'shards'}"
    sharded = VQACLI(fit(tmp_path / "c", data, *told, *frozen, shards)).model
    for name, weight in plain.state_dict().items():
        assert_close(cached.state_dict()[name], weight, rtol=1e-4, atol=1e-5, msg=name)
        assert_close(sharded.state_dict()[name], weight, rtol=0, atol=0, msg=name)
    shutil.rmtree(data)
