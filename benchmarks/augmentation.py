"""What augmentation, a teacher, other losses and missing sides change where images are few.

    python benchmarks/augmentation.py --out runs/augmentation/results.json
    python benchmarks/augmentation.py --out runs/augmentation/results.json --variants plain mirror

Trains `configs/scenes.yaml` with the product in the place of attention on few images, with each
variant and seed, and tests the best epoch on the 900 images of Scenes' own test: as they are,
without the images, and without the questions. What is finished is read from the file, so the
command can be stopped and given again. Beside the file lies a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from scipy.stats import t

import vlm
from vlm.cli.training_cli import VQACLI
from vlm.core.files import write_whole
from vlm.inference import load
from vlm.training.fit import saved_checkpoint
from vlm.training.task import VQATask

MIRROR = "--data.augment.mirror.probability=0.5"
TRIVIAL = (
    "--data.augment.images={class_path: vlm.data.augmentation.TrivialAugment, init_args: "
    "{colors: false, rotations: false}}"
)
RAND = (
    "--data.augment.images={class_path: vlm.data.augmentation.RandAugment, init_args: "
    "{colors: false}}"
)
WORDS = "--data.augment.questions=vlm.data.augmentation.DroppedWords"
BCE = "--model.head.init_args.loss=bce"
VARIANTS: dict[str, list[str]] = {
    "plain": [],
    "mirror": [MIRROR],
    "TrivialAugment": [TRIVIAL],
    "RandAugment": [RAND],
    "dropped words": [WORDS],
    "mirror, RandAugment, dropped words": [MIRROR, RAND, WORDS],
    "label smoothing": ["--model.head.init_args.label_smoothing=0.1"],
    "bce": [BCE],
    "focal": ["--model.head.init_args.loss=focal"],
    "teacher": ["--model.distillation.teacher=scenes", "--model.distillation.weight=0.7"],
    "teacher, mirror": ["--model.distillation.teacher=scenes", "--model.distillation.weight=0.7",
                        MIRROR],
    "missing sides": ["--data.augment.no_image=0.15", "--data.augment.no_question=0.15"],
}  # fmt: skip
SIDES = {"both": None, "no image": "no_image", "no question": "no_question"}


def measured(variant: str, seed: int, given: argparse.Namespace) -> dict[str, float]:
    """Train once and test on each kind of question; accuracies in %."""
    cli = VQACLI(
        [
            "fit",
            "--config=configs/scenes.yaml",
            f"--dataset.scenes={given.scenes}",
            f"--dataset.abilities=[{','.join(given.abilities)}]",
            "--model.fusion=Pooled",
            f"--trainer.max_epochs={given.epochs}",
            f"--seed_everything={seed}",
            f"--data.seed={seed}",
            f"--run.folder={given.out.parent}",
            "--run.name=augmentation",
            "--run.monitor=val_accuracy",
            "--run.test=false",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            *VARIANTS[variant],
        ]
    )
    checkpoint = saved_checkpoint(Path(cli.run_folder))
    assert checkpoint is not None
    model = load(checkpoint).model
    task = VQATask(model.image_encoder, model.text_encoder, model.fusion, model.head)
    found = {}
    for side, control in SIDES.items():
        torch.manual_seed(0)
        scenes = vlm.datasets.Scenes(abilities=given.abilities)
        data = vlm.VQADataModule(scenes, images_per_batch=64, control=control)  # type: ignore[arg-type]
        quiet = Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False,
                        accelerator="cpu")  # fmt: skip
        (figures,) = quiet.test(task, datamodule=data, verbose=False)
        found[side] = 100 * figures["test_accuracy"]
    return found


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Means over seeds with their 95 % intervals (Student's t)."""
    lines = [f"| variant | seeds | {' | '.join(SIDES)} |", f"|---|---|{'---|' * len(SIDES)}"]
    for variant, seeds in results.items():
        cells = []
        for side in SIDES:
            values = [each[side] for each in seeds.values()]
            cell = f"{statistics.mean(values):.1f}"
            if len(values) > 1:
                half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values)
                cell += f" ± {half / math.sqrt(len(values)):.1f}"
            cells.append(cell)
        lines.append(f"| {variant} | {len(seeds)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    parser.add_argument("--variants", nargs="+", choices=[*VARIANTS], default=[*VARIANTS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--scenes", type=int, default=300, help="training images")
    parser.add_argument("--abilities", nargs="+", default=["attribute", "exist"])
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}
    images = f"{given.scenes:,} training images"
    setting = f"{', '.join(given.abilities)}; {images}, {given.epochs} epochs"
    for seed in given.seeds:
        for variant in given.variants:
            of_variant = results.setdefault(setting, {}).setdefault(variant, {})
            if str(seed) not in of_variant:
                of_variant[str(seed)] = measured(variant, seed, given)
                write_whole(given.out, json.dumps(results, indent=1).encode())
                made = f"{setting}\n\n{table(results[setting])}"
                write_whole(given.out.with_suffix(".md"), made.encode())
    print(table(results[setting]))


if __name__ == "__main__":
    main()
