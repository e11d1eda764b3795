"""What augmentation, a teacher, other losses and missing sides change where images are few.

    python benchmarks/augmentation.py --out runs/augmentation/results.json
    python benchmarks/augmentation.py --out runs/augmentation/results.json --variants plain mirror
    python benchmarks/augmentation.py --out runs/augmentation/results.json --daquar DAQUAR

Trains `configs/scenes.yaml` with the product in the place of attention on few images, with each
variant and seed, and tests the best epoch on the 900 images of Scenes' own test: as they are,
without the images, and without the questions. With --daquar, it trains `configs/daquar.yaml` with
the variants of missing sides, and tests on DAQUAR's test. What is finished is read from the file,
so the command can be stopped and given again. Beside the file lies a Markdown table.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
from repeats import repeat, trained

import vlm
from vlm.data.ablations import Control

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
MISSING = ["--data.augment.no_image=0.15", "--data.augment.no_question=0.15"]
AUXILIARY = ["--model.head.class_path=vlm.heads.AuxiliaryClassification"]
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
    "missing sides": MISSING,
    "unimodal heads": AUXILIARY,
    "missing sides, unimodal heads": [*MISSING, *AUXILIARY],
}  # fmt: skip
DAQUAR = {
    variant: VARIANTS[variant]
    for variant in ("plain", "missing sides", "unimodal heads", "missing sides, unimodal heads")
}
SIDES: dict[str, Control | None] = {
    "both": None,
    "no image": "no_image",
    "no question": "no_question",
}


def measured(variant: str, seed: int, given: argparse.Namespace) -> dict[str, float]:
    """Train once and test on each kind of question; accuracies in %."""
    data_set: vlm.datasets.Dataset
    if given.daquar is None:
        data_set = vlm.datasets.Scenes(abilities=given.abilities)
        settings = [
            "--config=configs/scenes.yaml",
            f"--dataset.scenes={given.scenes}",
            f"--dataset.abilities=[{','.join(given.abilities)}]",
            "--model.fusion=Pooled",
            f"--trainer.max_epochs={given.epochs or 20}",
        ]
    else:
        data_set = vlm.datasets.DAQUAR(given.daquar)
        settings = [
            "--config=configs/daquar.yaml",
            f"--dataset.root={given.daquar}",
            f"--data.images.features={given.out.parent / 'features'}",
            f"--trainer.max_epochs={given.epochs or 12}",
        ]
    run = trained(given.out.parent, "augmentation", seed, [*settings, *VARIANTS[variant]])
    found = {}
    for side, control in SIDES.items():
        torch.manual_seed(0)
        data = vlm.VQADataModule(
            data_set, images_per_batch=64, images=run.cli.datamodule.images, control=control
        )
        found[side] = run.accuracy(data)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    parser.add_argument("--daquar", type=Path, help="folder of DAQUAR, instead of Scenes")
    parser.add_argument("--variants", nargs="+", choices=[*VARIANTS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="20 on Scenes, 12 on DAQUAR if omitted")
    parser.add_argument("--scenes", type=int, default=300, help="training images")
    parser.add_argument("--abilities", nargs="+", default=["attribute", "exist"])
    given = parser.parse_args()
    if given.daquar is None:
        images = f"{given.scenes:,} training images"
        setting = f"{', '.join(given.abilities)}; {images}, {given.epochs or 20} epochs"
        known = VARIANTS
    else:
        setting, known = f"DAQUAR, {given.epochs or 12} epochs", DAQUAR
    if wrong := [variant for variant in given.variants or () if variant not in known]:
        parser.error(f"--variants: got {', '.join(wrong)}; this set has {', '.join(known)}.")
    train = partial(measured, given=given)
    print(repeat(given.out, setting, given.variants or known, given.seeds, train))


if __name__ == "__main__":
    main()
