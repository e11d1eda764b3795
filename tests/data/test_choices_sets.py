"""Multiple choice on miniatures of the sets with choices, in their official layouts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import COLORS, ROOT, rest_slow
from PIL import Image
from vqa_miniature import write_a_okvqa

from vlm.cli.training_cli import VQACLI

pytestmark = pytest.mark.filterwarnings("ignore:.*Get the file again, unless it was shortened")
SPLITS = {"train": 6, "val": 3, "test": 3}


def image(path: Path, number: int) -> str:
    """Writes a single-colour image and returns the colour."""
    color = list(COLORS)[number % 3]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (11, 7), COLORS[color]).save(path)
    return color


def visual7w(root: Path) -> None:
    images = []
    for split, count in SPLITS.items():
        for number in range(count):
            name = f"v7w_{split}_{number}.jpg"
            color = image(root / "images" / name, number)
            wrong = [f"A {c} one." for c in (*COLORS, "mauve") if c != color]
            pair = {
                "qa_id": len(images),
                "question": "What is there?",
                "answer": f"A {color} one.",
                "multiple_choices": wrong,
                "type": "what",
            }
            images.append({"split": split, "filename": name, "qa_pairs": [pair]})
    content = {"dataset": "visual7w-telling", "images": images}
    (root / "dataset_v7w_telling.json").write_text(json.dumps(content))


def nlvr(root: Path) -> None:
    for split, count in {"train": 4, "dev": 2, "test": 2}.items():
        lines = []
        for number in range(count):
            label = ["true", "false"][number % 2]
            content = {"sentence": "It is red.", "identifier": f"{number}-0", "directory": "4"}
            lines.append(json.dumps(content | {"label": label}) + "\n")
            for permutation in range(6):
                name = f"{split}-{number}-0-{permutation}.png"
                image(root / split / "images/4" / name, number)
        (root / split / f"{split}.json").write_text("".join(lines))


def a_okvqa(root: Path) -> None:
    write_a_okvqa(root)
    for part in ("train", "val", "test"):
        for row in json.loads((root / f"aokvqa_v1p0_{part}.json").read_text()):
            image(root / f"{part}2017/{row['image_id']:012d}.jpg", row["image_id"])


SETS: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "visual7w": (visual7w, []),
    "nlvr": (nlvr, []),
    "a_okvqa": (a_okvqa, ["--dataset.task=multiple_choice", "--run.test=false"]),
}


def arguments(name: str, root: Path, folder: Path) -> list[str]:
    return [
        f"-c={ROOT / 'configs/easy_vqa.yaml'}",
        f"--dataset={ROOT / f'configs/datasets/{name}.yaml'}",
        f"--model.head={ROOT / 'configs/head/multiple_choice.yaml'}",
        f"--dataset.root={root}",
        "--data.images_per_batch=3",
        "--data.workers=0",
        f"--run.folder={folder}",
        "--trainer.max_epochs=1",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        *SETS[name][1],
    ]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", rest_slow(SETS, "visual7w"))
def test_a_set_with_choices_is_chosen_from(name: str, tmp_path: Path) -> None:
    SETS[name][0](tmp_path)
    fit = arguments(name, tmp_path, tmp_path / "runs")
    cli = VQACLI(["fit", *fit])
    assert type(cli.model.model.head).__name__ == "MultipleChoice"
    best = cli.run_folder / "checkpoints/best.ckpt"
    again = VQACLI(["predict", *fit, f"--ckpt_path={best}"])
    for row in lines(again.run_folder / "predictions.jsonl"):
        assert row["answer"] in row["choices"]
        assert len(row["choices"]) == {"nlvr": 2}.get(name, 4)
    if name == "a_okvqa":
        return  # its test split has no answers
    report = json.loads((cli.run_folder / "test.json").read_text())
    overall = report["results"][0]
    assert overall["ceiling"] == 1
    assert 0 <= overall["accuracy"] <= 1
    if name == "nlvr":
        assert overall["questions"] == 12
        assert set(report["summary"]) == {"consistency"}
