"""Training on two data sets together or on each alone: accuracy on both.

    python benchmarks/mixtures.py --out runs/mixtures/results.json
    python benchmarks/mixtures.py --out runs/mixtures/results.json --variants "temperature 2"

Trains `configs/scenes.yaml` with the product in the place of attention on few images of Scenes, on
easy-VQA's 4,000, and on both, and tests the best epoch on the test part of each set. An epoch of
every mixture has as many images as both sets together; "easy-VQA alone" trains as many epochs,
"Scenes alone" as many images as the mixture of equal shares takes from Scenes. What is finished is
read from the file, so the command can be stopped and given again. Beside it lies a Markdown table.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

from repeats import repeat, trained

import vlm

EASY_VQA_IMAGES = 4000
SHARES: dict[str, dict[str, Any]] = {
    "every question once": {},
    "temperature 2": {"temperature": 2},
    "equal shares": {"weights": {"scenes": 1, "easy_vqa": 1}},
}
ALONE = ("Scenes alone", "easy-VQA alone")


def measured(variant: str, seed: int, given: argparse.Namespace) -> dict[str, float]:
    """Train once and test on both sets; accuracies in %."""
    scenes: dict[str, Any] = {
        "class_path": "vlm.datasets.Scenes",
        "init_args": {"abilities": given.abilities, "scenes": given.scenes},
    }
    easy_vqa: dict[str, Any] = {"class_path": "vlm.datasets.EasyVQA"}
    epochs = given.epochs
    data_set: dict[str, Any]
    if variant == "Scenes alone":
        data_set = scenes
        epochs = round(epochs * (given.scenes + EASY_VQA_IMAGES) / 2 / given.scenes)
    elif variant == "easy-VQA alone":
        data_set = easy_vqa
    else:
        both = {"scenes": scenes, "easy_vqa": easy_vqa}
        data_set = {
            "class_path": "vlm.datasets.Mixture",
            "init_args": {"datasets": both, **SHARES[variant]},
        }
    settings = [
        "--config=configs/scenes.yaml",
        f"--dataset={json.dumps(data_set)}",
        "--model.fusion=Pooled",
        f"--trainer.max_epochs={epochs}",
    ]
    run = trained(given.out.parent, "mixtures", seed, settings)
    tests = {
        "Scenes": vlm.datasets.Scenes(abilities=given.abilities),
        "easy-VQA": vlm.datasets.EasyVQA(),
    }
    return {
        name: run.accuracy(vlm.VQADataModule(test, images_per_batch=64))
        for name, test in tests.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    known = [*ALONE, *SHARES]
    parser.add_argument("--variants", nargs="+", choices=known, default=known)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=8, help="of the mixtures")
    parser.add_argument("--scenes", type=int, default=300, help="training images of Scenes")
    parser.add_argument("--abilities", nargs="+", default=["attribute", "exist"])
    given = parser.parse_args()
    abilities = ", ".join(given.abilities)
    setting = f"{abilities}; {given.scenes:,} images of Scenes; mixtures of {given.epochs} epochs"
    print(repeat(given.out, setting, given.variants, given.seeds, partial(measured, given=given)))


if __name__ == "__main__":
    main()
