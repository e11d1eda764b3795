"""`vlm forgetting` from runs to a report, and each of its errors."""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from conftest import ROOT, small_run, write_data
from safetensors.torch import load_file, save_file

from vlm.checkpoint import load_model, read_checkpoint
from vlm.cli import main
from vlm.data.easy_vqa import EasyVQA
from vlm.forgetting.original import original
from vlm.forgetting.run import read_run
from vlm.forgetting.texts import read_sentences
from vlm.inference import load
from vlm.training.cli import VQACLI

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
WORDS = ["what", "color", "is", "it", "the", "picture", "not", "red", "green", "blue"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what "pretrained" encoders begin with: a network with its classifier, and a
    table of word vectors."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(1)
    whole = timm.create_model("vit_tiny_patch16_224", **VIT)
    save_file(whole.state_dict(), folder / "vit.safetensors")
    words = list(dict.fromkeys([*WORDS, *read_sentences(None).words]))
    rows = [" ".join([w, *(f"{x:.5f}" for x in torch.randn(7).tolist())]) for w in words]
    (folder / "vectors.txt").write_text("\n".join(rows) + "\n")
    return folder


def fit(data: Path, weights: Path, folder: Path, *more: str) -> Path:
    """Train, and return the run's folder."""
    vectors = {"class_path": "vlm.text.VectorTokenizer"}
    vectors["init_args"] = {"vectors": str(weights / "vectors.txt")}
    image = {
        "class_path": "vlm.image.TimmEncoder",
        "init_args": {
            "name": "vit_tiny_patch16_224",
            "pretrained": str(weights / "vit.safetensors"),
            "model_args": VIT,
        },
    }
    text = {"class_path": "vlm.text.BagOfWords"}
    text["init_args"] = {"dim": 7, "hidden_dim": 5, "tokenizer": vectors}
    config = weights / "model.yaml"
    config.write_text(yaml.safe_dump({"model": {"image_encoder": image, "text_encoder": text}}))
    told = [*small_run(data, folder), f"-c={config}", "--trainer.max_epochs=1", "--run.test=false"]
    return VQACLI([*told, "--trainer.enable_model_summary=false", *more]).run_folder


FROZEN = [f"--model.tuning.{part}_encoder.frozen=true" for part in ("image", "text")]
STAGED = ["--model.tuning.image_encoder.from_epoch=1", "--model.tuning.image_encoder.lr_scale=0.5"]
STAGED += ["--trainer.max_epochs=2"]


@pytest.fixture(scope="module")
def runs(data: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    kinds = {
        "frozen": FROZEN,
        "full": [],
        "lora": ["--model.tuning.image_encoder.lora.rank=2"],
        "staged": STAGED,
    }
    return {name: fit(data, weights, folder / name, *more) for name, more in kinds.items()}


def ask(*arguments: object) -> None:
    main(["forgetting", *map(str, arguments)])


def fails(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 1) -> str:
    """The message of a command that ends in an error."""
    with pytest.raises(SystemExit) as stopped:
        ask(*arguments)
    if isinstance(stopped.value.code, str):
        assert code == 1
        assert stopped.value.code.startswith("vlm forgetting: ")
        return stopped.value.code
    assert stopped.value.code == code
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def report(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report on all of them."""
    folder = tmp_path_factory.mktemp("report") / "deeper"
    named = [f"{name}={path}" for name, path in runs.items()]
    ask(*named, "--interpolate", "0", "0.5", "1", "--output", folder, "--batch-size=8")
    return folder


def states(report: Path) -> dict[tuple[str, float], dict[str, Any]]:
    found = json.loads((report / "results.json").read_text())
    return {(state["run"], state["alpha"]): state for state in found["states"]}


def test_what_was_kept(report: Path) -> None:
    found = states(report)
    assert set(found) == {("frozen", 1)} | {
        (run, alpha) for run in ("full", "lora", "staged") for alpha in (0, 0.5, 1)
    }
    for key, state in found.items():
        image, text = state["image_encoder"], state["text_encoder"]
        kept = [*image["cka"].values(), *text["cka"].values()]
        whole = key == ("frozen", 1) or key[1] == 0
        if whole:
            assert kept == pytest.approx([1] * len(kept))
            assert (image["same_class"], image["top_classes_kept"], image["divergence"]) == (
                1,
                1,
                0,
            )
            assert (text["neighbours_kept"], text["similarity_kept"]) == pytest.approx((1, 1))
        else:
            assert min(image["cka"].values()) < 1 - 1e-6
            assert image["divergence"] > 0
            assert list(text["cka"]) == ["embedding"]  # of the encoder only its word vectors
    one, half = found["full", 1], found["full", 0.5]
    assert one["image_encoder"]["divergence"] > half["image_encoder"]["divergence"]
    # Words that no question has keep their vectors, and are still each other's neighbours.
    words = one["text_encoder"]["words"]
    assert min(words[w] for w in WORDS if w in words) < 1
    assert sum(words.values()) / len(words) > 0.7


def test_accuracy_is_that_of_the_answers(runs: dict[str, Path], data: Path, report: Path) -> None:
    questions = EasyVQA(data, validation_share=0.25).table("validation").to_pylist()
    for name, run in runs.items():
        vqa = load(run)
        right = [
            vqa.answer(row["image"], row["question"]).text == row["answers"][0] for row in questions
        ]
        assert states(report)[name, 1]["accuracy"] == pytest.approx(sum(right) / len(right))


def test_the_report_holds_it_all(report: Path) -> None:
    text = (report / "report.md").read_text()
    for line in (
        "| frozen | frozen | frozen | 0 |",
        "| lora | LoRA of rank 2 | trained | 0 |",
        "| staged | trained, from epoch 1, learning rate x 0.5 | trained | 0 |",
        "frozen: its encoders are the original ones, so nothing lies between.",
        "| full, alpha 0.5 |",
        "| frozen | ",
        "12 photos of the test split of EasyVQA; classes of its own classifier",
        "image 1: blocks.0",
        "Words of full that lost most neighbours",
        "Every word kept its neighbours.",
    ):
        assert line in text, line
    page = (report / "report.html").read_text()
    pngs = [base64.b64decode(found) for found in re.findall(r"base64,([^\"]+)", page)]
    assert pngs == [(report / name).read_bytes() for name in ("tradeoff.png", "layers.png")]
    assert all(png.startswith(b"\x89PNG") for png in pngs)


def test_the_original_is_the_file_s_bit_for_bit(runs: dict[str, Path], weights: Path) -> None:
    given = load_file(weights / "vit.safetensors")
    for run in runs.values():
        read = read_run(run)
        now = load_model(read.checkpoint).image_encoder
        found = original(read, "image_encoder", now)
        assert found is not None
        for name, value in found.weights.items():
            assert torch.equal(value, given[name.removeprefix("model.")]), name


def changed(run: Path, folder: Path, **settings: object) -> Path:
    """A copy of a run whose configuration says something else, by dotted names with `__`."""
    shutil.copytree(run, folder / "copy")
    path = folder / "copy/config.yaml"
    config = yaml.safe_load(path.read_text())
    for name, value in settings.items():
        *above, last = name.split("__")
        place = config
        for key in above:
            place = place[key]
        place[last] = value
    path.write_text(yaml.safe_dump(config))
    return folder / "copy"


PRETRAINED = "model__image_encoder__init_args__pretrained"
INIT_FROM = "model__tuning__init_from"


def test_a_run_from_a_run_began_where_that_one_did(
    runs: dict[str, Path], run: Path, weights: Path, tmp_path: Path
) -> None:
    """Its own configuration asks for no pretrained weights; the earlier run's does, or began at
    random, and then what it ended with is the original."""
    told = {INIT_FROM: str(runs["full"]), PRETRAINED: False}
    later = read_run(changed(runs["staged"], tmp_path / "later", **told))
    found = original(later, "image_encoder", load_model(later.checkpoint).image_encoder)
    assert found is not None
    assert found.source == str(weights / "vit.safetensors")
    second = read_run(changed(run, tmp_path / "second", **{INIT_FROM: str(run)}))
    model, first = load_model(second.checkpoint), load_model(read_checkpoint(run))
    for part in ("image_encoder", "text_encoder"):
        found = original(second, part, getattr(model, part))
        assert found is not None
        assert found.source == f"the run {run}"
        for name, value in getattr(first, part).state_dict().items():
            assert torch.equal(found.weights[name], value), name
    parts = {"model__tuning__init_parts": ["fusion", "head"]}
    third = read_run(changed(run, tmp_path / "third", **{INIT_FROM: str(run)}, **parts))
    assert original(third, "image_encoder", model.image_encoder) is None


def test_without_data(runs: dict[str, Path], weights: Path, data: Path, tmp_path: Path) -> None:
    """Photos of a folder, a probe and sentences of one's own need no data set."""
    photos = tmp_path / "photos"
    shutil.copytree(data / "train/images", photos)
    shutil.copytree(runs["full"], tmp_path / "run")
    config = tmp_path / "run/config.yaml"
    config.write_text(config.read_text().replace(str(data), str(tmp_path / "moved")))
    probe = {"weight": torch.randn(5, 24), "bias": torch.randn(5)}
    save_file(probe, tmp_path / "probe.safetensors")
    (tmp_path / "mine.txt").write_text(
        "".join(f"is it {c} or not {n}\n" for n in range(5) for c in ("red", "blue"))
    )
    given = ["--photos", photos, "--probe", tmp_path / "probe.safetensors"]
    given += ["--sentences", tmp_path / "mine.txt", "--neighbours=3", "--no-accuracy"]
    ask(tmp_path / "run", *given, "--output", tmp_path / "report")
    (state,) = states(tmp_path / "report").values()
    assert "accuracy" not in state
    assert state["image_encoder"]["same_class"] <= 1
    text = (tmp_path / "report/report.md").read_text()
    assert "12 photos of the folder photos; classes of the probe probe.safetensors" in text


def test_nothing_was_pretrained(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "neither encoder was given pretrained weights" in fails(capsys, run)


def test_one_encoder_was_not_pretrained(runs: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = {"model__text_encoder__init_args__tokenizer": None}
    ask(changed(runs["full"], tmp_path, **tokenizer), "--output", tmp_path / "report")
    text = (tmp_path / "report/report.md").read_text()
    assert "The text encoder (BagOfWords) was given no pretrained weights: it had" in text
    assert "neighbours" not in text.partition("How to read")[0]


def test_weights_that_are_not_to_be_had(
    runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gone = changed(runs["full"], tmp_path / "gone", **{PRETRAINED: str(tmp_path / "w.pt")})
    assert "w.pt: there is no such file or folder" in fails(capsys, gone)
    missing = changed(runs["full"], tmp_path / "x", **{PRETRAINED: "package:no-such-weights"})
    assert "the package is not installed" in fails(capsys, missing)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    args = {"model__image_encoder__init_args__model_args": None}
    hub = changed(runs["full"], tmp_path / "hub", **{PRETRAINED: True}, **args)
    assert "HF_HUB_OFFLINE is set" in fails(capsys, hub)


def test_weights_of_another_architecture(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = timm.create_model("vit_tiny_patch16_224", **VIT | {"depth": 3})
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    path = changed(runs["full"], tmp_path, **{PRETRAINED: str(tmp_path / "other.safetensors")})
    assert "its weights do not fit the model" in fails(capsys, path)


def test_a_checkpoint_without_its_run(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "alone.ckpt"
    shutil.copy((runs["full"] / "checkpoints/best.ckpt").resolve(), alone)
    assert "there is no config.yaml of its run" in fails(capsys, alone)
    other = changed(runs["full"], tmp_path, model__image_encoder__init_args__name="resnet18")
    assert "is of another model than" in fails(capsys, other)
    (other / "config.yaml").write_text("model: [")
    assert "cannot be read as the configuration of a run" in fails(capsys, other)
    assert "no checkpoints/best.ckpt" in fails(capsys, tmp_path)


def test_runs_that_cannot_be_compared(
    runs: dict[str, Path], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = runs["frozen"]
    shutil.copy(weights / "vit.safetensors", tmp_path / "copy.safetensors")
    elsewhere = {PRETRAINED: str(tmp_path / "copy.safetensors")}
    other = changed(runs["full"], tmp_path / "elsewhere", **elsewhere)
    found = fails(capsys, one, other, "--no-accuracy")
    assert "wanted runs that fine-tuned the same encoders" in found
    squash = {"model__image_encoder__init_args__fit": "squash"}
    other = changed(runs["full"], tmp_path / "squash", **squash)
    shutil.rmtree(other / "checkpoints")
    content = torch.load(runs["full"] / "checkpoints/best.ckpt", weights_only=True)
    content["vlm"]["model"]["image_encoder"]["init_args"]["fit"] = "squash"
    (other / "checkpoints").mkdir()
    torch.save(content, other / "checkpoints/best.ckpt")
    found = fails(capsys, one, other, "--no-accuracy")
    assert "has another architecture or other arguments than that of" in found
    held_out = changed(runs["full"], tmp_path / "seed", data__init_args__seed=5)
    assert "was asked other questions than" in fails(capsys, one, held_out)
    twice = [f"same={runs['full']}", f"same={one}"]
    assert "two are called same" in fails(capsys, *twice, code=2)


def test_photos_that_are_missing(
    runs: dict[str, Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = fails(capsys, runs["full"], "--photos", tmp_path / "nowhere")
    assert "nowhere is no folder" in found
    few = write_data(tmp_path / "few", images=3)
    found = fails(capsys, runs["full"], f"--data.root={few}")
    assert "--photos: got 3 pictures of the test split of EasyVQA; wanted 8 or more" in found
    broken = tmp_path / "broken"
    shutil.copytree(data / "test/images", broken)
    (broken / "7.png").write_bytes(b"no picture")
    assert "7.png: not a readable picture" in fails(capsys, runs["full"], "--photos", broken)


@pytest.mark.parametrize(
    ("option", "wanted"),
    [
        ("--interpolate=1.5", "--interpolate: got 1.5; wanted shares from 0"),
        ("--batch-size=7", "--batch-size: got 7; wanted 8 or more"),
        ("--neighbours=0", "--neighbours: got 0; wanted 1 or more"),
        ("--max-photos=3", "--max-photos: got 3; wanted 8 or more"),
        ("--photo=x", "unknown: --photo=x"),
    ],
)
def test_a_wrong_command(option: str, wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert wanted in fails(capsys, "run", option, code=2)


def test_a_probe_that_does_not_fit(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"weight": torch.ones(5, 7), "bias": torch.ones(5)}, tmp_path / "p.safetensors")
    found = fails(capsys, runs["full"], "--probe", tmp_path / "p.safetensors")
    assert "features 7 wide; TimmEncoder gives 24" in found
    found = fails(capsys, runs["full"], "--neighbours=5000")
    assert "--neighbours: got 5000, and the encoder knows" in found


def test_its_page_tells_every_option() -> None:
    from vlm.forgetting.command import _parser

    page = (ROOT / "docs/forgetting.md").read_text()
    for action in _parser()._actions:
        for option in action.option_strings:
            assert option in ("-h", "--help") or f"`{option}" in page, option
