"""`vlm forgetting` from runs to a report."""

from __future__ import annotations

import base64
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from forgetting_runs import (
    FROZEN,
    INIT_FROM,
    LORA,
    PRETRAINED,
    STAGED,
    ask,
    changed,
    fit,
    write_weights,
)
from safetensors.torch import load_file, save_file

from vlm.checkpoint.checkpoint import load_model, read_checkpoint
from vlm.datasets.easy_vqa import EasyVQA
from vlm.inference import load
from vlm.studies.forgetting.original import came_with, original
from vlm.studies.forgetting.run import read_run


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def runs(data: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    kinds = {"frozen": FROZEN, "full": [], "lora": LORA, "staged": STAGED}
    return {name: fit(data, weights, folder / name, *more) for name, more in kinds.items()}


@pytest.fixture(scope="module")
def report(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report on all runs."""
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
            assert list(text["cka"]) == ["embedding"]  # only the encoder's word vectors
    one, half = found["full", 1], found["full", 0.5]
    assert one["image_encoder"]["divergence"] > half["image_encoder"]["divergence"]
    # Words that occur in no question keep their vectors and remain each other's neighbours.
    words = one["text_encoder"]["words"]
    assert one["text_encoder"]["similarity_kept"] < 1 - 1e-6
    assert sum(words.values()) / len(words) > 0.7


def test_accuracy_is_that_of_the_answers(runs: dict[str, Path], data: Path, report: Path) -> None:
    questions = EasyVQA(data, validation_share=0.25).table("validation").to_pylist()
    for name, run in runs.items():
        vqa = load(run)
        right = [
            vqa.answer(row["image"], row["question"]).text == row["answers"][0] for row in questions
        ]
        assert states(report)[name, 1]["accuracy"] == pytest.approx(sum(right) / len(right))


def test_the_vocabulary_stands_beside_the_scores(runs: dict[str, Path], report: Path) -> None:
    """The report describes the vocabulary as the runs' own reports do; all share one seed's."""
    about = read_checkpoint(runs["full"]).about["vocabulary"]
    section = (report / "report.md").read_text().split("\n## ")[2]
    words = f"the {about['size']} answers of the vocabulary ({about['hash']}, from the training"
    assert re.search(rf"^Answers: {re.escape(words)}.* of validation at best\)\.$", section, re.M)
    assert f"<p>Answers: {words}" in (report / "report.html").read_text()
    found = json.loads((report / "results.json").read_text())["runs"]
    assert {name: run["vocabulary"] for name, run in found.items()} == dict.fromkeys(runs, about)


def test_a_vocabulary_of_unknown_source_is_one(runs: dict[str, Path]) -> None:
    run = read_run(runs["full"])
    known = run.vocabulary
    assert known is not None
    unsaid = replace(run, checkpoint=run.checkpoint._replace(about={}))
    assert unsaid.vocabulary == {name: known[name] for name in ("size", "hash")}


def test_the_report_holds_it_all(report: Path) -> None:
    text = (report / "report.md").read_text()
    for line in (
        "| frozen | frozen | frozen | 0 |",
        "| lora | LoRA of rank 2 | trained | 0 |",
        "| staged | trained, from epoch 1, learning rate x 0.5 | trained | 0 |",
        "frozen: its encoders are the original ones, so nothing lies between.",
        "| full, alpha 0.5 |",
        "| frozen | ",
        "12 images of the test split of EasyVQA; classes of its own classifier",
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


def test_a_run_from_a_run_began_where_that_one_did(
    runs: dict[str, Path], run: Path, weights: Path, tmp_path: Path
) -> None:
    """A run started from another run shares that run's pretrained original. If the earlier run
    began at random, its final weights are the original."""
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
        for name, value in came_with(getattr(first, part)).items():
            assert torch.equal(found.weights[name], value), name
    bundled = read_run(changed(run, tmp_path / "bundled", **{INIT_FROM: "scenes"}))
    found = original(bundled, "image_encoder", model.image_encoder)
    assert found is not None
    assert found.source == "the model scenes"
    parts = {"model__tuning__init_parts": ["fusion", "head"]}
    third = read_run(changed(run, tmp_path / "third", **{INIT_FROM: str(run)}, **parts))
    assert original(third, "image_encoder", model.image_encoder) is None


def test_without_data(runs: dict[str, Path], weights: Path, data: Path, tmp_path: Path) -> None:
    """A folder of photos, a probe and a file of sentences need no data set."""
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
    assert "12 images of the folder photos; classes of the probe probe.safetensors" in text


def test_one_encoder_was_not_pretrained(runs: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = {"model__text_encoder__init_args__tokenizer": None}
    ask(changed(runs["full"], tmp_path, **tokenizer), "--output", tmp_path / "report")
    text = (tmp_path / "report/report.md").read_text()
    assert "The text encoder (BagOfWords) was given no pretrained weights: it had" in text
    assert "neighbours" not in text.partition("How to read")[0]


def test_its_page_tells_every_option() -> None:
    from vlm.cli.commands.forgetting import _parser

    page = (ROOT / "docs/forgetting.md").read_text()
    for action in _parser()._actions:
        for option in action.option_strings:
            assert option in ("-h", "--help") or f"`{option}" in page, option
