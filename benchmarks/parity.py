"""Parity of exports: three data sets, each encoder kind and six fusions, in 32 and in 8 bits.

    OMP_NUM_THREADS=1 python benchmarks/parity.py FOLDER --daquar DAQUAR > docs/export/parity.md

On each data set each fusion has another pair of encoders, so that each pair occurs once on each
data set. The models are trained only briefly: parity needs weights that were trained, no accuracy.
FOLDER keeps runs and exports; what is there already is not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from pairs import machine

from vlm.cli.commands.export import export_command
from vlm.cli.training_cli import VQACLI

CONFIGS = Path(__file__).parents[1] / "configs"
FUSIONS = {
    "Product": ["--model.fusion=Pooled", "--model.fusion.merge=Product"],
    "GlimpseAttention": ["--model.fusion=GlimpseAttention"],
    "CrossAttention": ["--model.fusion=CrossAttention"],
    "MCAN": ["--model.fusion=MCAN"],
    "FiLM": ["--model.fusion=FiLM"],
    "BAN": ["--model.fusion=BAN"],
}
ENCODERS = [
    ("CNN", "bag_of_words"),
    ("ViT", "gru"),
    ("CNN", "transformer"),
    ("ViT", "bag_of_words"),
    ("CNN", "gru"),
    ("ViT", "transformer"),
]
SMALL = {"CNN": ["image/cnn.yaml"], "ViT": ["image/vit.yaml"]}
DATA_SETS: dict[str, tuple[str, dict[str, list[str]]]] = {
    # The epochs have few images, the validation part is whole.
    "easy-VQA": ("easy_vqa", SMALL),
    "Scenes": ("scenes", SMALL),
    # Photos: a pretrained CNN that stays as it is, and a ViT of the usual width from nothing.
    "DAQUAR": (
        "daquar",
        {
            "CNN": ["image/efficientnet_lite0.yaml"],
            "ViT": [
                "TimmEncoder",
                "name=vit_tiny_patch16_224",
                "pretrained=false",
                "positions=auto",
                "image_size=112",
                "fit=squash",
            ],
        },
    ),
}
HEADINGS = (
    "data set | image encoder | text encoder | fusion | bits | MB | equal answers | of "
    "| largest difference | torch % | export % | torch ms | export ms"
)


def image_options(data_set: str, encoder: str, folder: Path) -> list[str]:
    """The command line's options for an image encoder."""
    first, *arguments = DATA_SETS[data_set][1][encoder]
    path = CONFIGS / first
    options = [f"--model.image_encoder={path if path.is_file() else first}"]
    options += [f"--model.image_encoder.{argument}" for argument in arguments]
    if data_set == "DAQUAR":
        frozen = encoder == "CNN"
        options.append(f"--model.tuning.image_encoder.frozen={str(frozen).lower()}")
        options.append(f"--data.images.features={folder / 'features' if frozen else 'null'}")
    return options


def compare(data_set: str, fusion: str, encoders: tuple[str, str], given: Any) -> list[str]:
    """Train a model, export it twice, and give the two rows."""
    config, _ = DATA_SETS[data_set]
    image, text = encoders
    folder = given.folder / config / fusion
    made = folder / "run.txt"
    if not made.is_file():
        cli = VQACLI(
            [
                "fit",
                f"--config={CONFIGS / config}.yaml",
                *([f"--dataset.root={given.daquar}"] if data_set == "DAQUAR" else []),
                *image_options(data_set, image, given.folder),
                f"--model.text_encoder={CONFIGS / 'text' / text}.yaml",
                *FUSIONS[fusion],
                f"--trainer.max_epochs={given.epochs}",
                f"--trainer.limit_train_batches={given.batches}",
                "--trainer.enable_progress_bar=false",
                "--trainer.enable_model_summary=false",
                "--model.optimizer.lr=0.001",
                "--run.test=false",
                f"--run.folder={folder}",
            ]
        )
        made.write_text(str(cli.run_folder), encoding="utf-8")
    rows = []
    for bits, options in ((32, []), (8, ["--int8"])):
        report = folder / f"{bits}_bits" / "parity.json"
        if not report.is_file():
            export_command([made.read_text(), str(report.parent), *options])
        found = json.loads(report.read_text(encoding="utf-8"))
        shares = (
            f"{100 * found['accuracy'][name]:.2f} ({100 * found['interval'][name]['low']:.2f} - "
            f"{100 * found['interval'][name]['high']:.2f})"
            for name in ("torch", "export")
        )
        times = (
            ", ".join(f"{t:.2f}" for t in found["milliseconds"][name].values())
            for name in ("torch", "export")
        )
        cells = (data_set, image, text, fusion, bits, f"{found['megabytes']:.2f}")
        cells += (f"{found['equal']:,}", f"{found['questions']:,}")
        cells += (f"{found['largest_difference']:.1e}", *shares, *times)
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="keeps runs and exports")
    parser.add_argument("--daquar", required=True, help="folder of DAQUAR")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batches", type=int, default=100, help="of 16 images, in an epoch")
    given = parser.parse_args()
    rows: dict[tuple[str, str], list[str]] = {}
    # Each round has every fusion and every pair of encoders once.
    for turn in range(len(DATA_SETS)):
        for place, fusion in enumerate(FUSIONS):
            shift = (place + turn) % len(DATA_SETS)
            data_set, encoders = [*DATA_SETS][shift], ENCODERS[(place + shift) % len(ENCODERS)]
            print(data_set, fusion, *encoders, file=sys.stderr, flush=True)
            with redirect_stdout(sys.stderr):
                rows[data_set, fusion] = compare(data_set, fusion, encoders, given)
    print(f"{machine()}\n\n| {HEADINGS} |\n|{'---|' * len(HEADINGS.split('|'))}")
    for data_set in DATA_SETS:
        for fusion in FUSIONS:
            print("\n".join(rows[data_set, fusion]))


if __name__ == "__main__":
    main()
