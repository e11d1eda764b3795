"""Sections of the report on what is missing: an answer, the image, a before; and on rewordings."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import ROOT
from hub_folders import vilt_folder

from vlm.cli.main import main
from vlm.data.images.store import ImageStore
from vlm.datasets import Scenes
from vlm.datasets.table import image_groups
from vlm.trust import absence
from vlm.trust.perturb import Changed, mirrored_text
from vlm.trust.stress import consistency

EASY = str(ROOT / "configs/easy_vqa.yaml")
SCENES = str(ROOT / "configs/scenes.yaml")


def report(output: Path, *arguments: str) -> dict[str, Any]:
    main(["report", *arguments, f"--output={output}"])
    content: dict[str, Any] = json.loads((output / "report.json").read_text())
    return content["sections"]  # type: ignore[no-any-return]


def of_answers(tmp_path: Path, table: pa.Table, answers: list[str], *arguments: str) -> Any:
    """The report of a file of answers to Scenes."""
    ids = table["id"].to_pylist()
    rows = [
        json.dumps({"id": key, "answer": answer, "probability": 0.9 - 0.6 * (answer == "1")})
        for key, answer in zip(ids, answers, strict=True)
    ]
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join(rows))
    return report(tmp_path / "out", f"--predictions={path}", "-c", SCENES, *arguments)


def test_questions_without_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All answers are right, but for every second "not there", in the place of which stands "1"
    with a low probability."""
    monkeypatch.setattr(absence, "LEAST", 3)
    table = Scenes(part="absent", scenes=36).table("test")
    answers = [given for (given,) in table["answers"].to_pylist()]
    nothing = [n for n, answer in enumerate(answers) if answer == "not there"]
    missed = nothing[::2]
    for n in missed:
        answers[n] = "1"
    ones = answers.count("1") - len(missed)
    options = ("--dataset.scenes=36", "--dataset.part=absent", "--only", "unanswerable")
    found = of_answers(tmp_path, table, answers, *options)["unanswerable"]["numbers"]
    said = found['without an answer: says "not there"']
    assert said["questions"] == len(nothing)
    assert said["share"] == pytest.approx(1 - len(missed) / len(nothing))
    assert found["with an answer: accuracy"]["share"] == 1
    assert found['with an answer: says "not there"']["share"] == 0
    assert found['says "not there": there is none']["share"] == 1
    # Of the pairs with and without an answer: those whose confidences differ, and half of the ties.
    with_answer, a, b = len(answers) - len(nothing), len(missed), len(nothing) - len(missed)
    higher = (with_answer - ones) * (a + b / 2) + ones * a / 2
    assert found["auroc"]["value"] == pytest.approx(higher / (with_answer * len(nothing)))


def test_counterexamples_to_the_prior(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who always gives the most frequent training answer to the question is right where that guess
    is, and nowhere else."""
    monkeypatch.setattr(absence, "LEAST", 3)
    data = Scenes(scenes=36, abilities=["count"])
    most: dict[str, Counter[str]] = defaultdict(Counter)
    for row in data.table("train").to_pylist():
        most[row["question"]].update(row["answers"])
    table = data.table("test")
    answers = [most[q].most_common(1)[0][0] for q in table["question"].to_pylist()]
    options = ("--dataset.scenes=36", "--dataset.abilities=[count]", "--only", "language")
    found = of_answers(tmp_path, table, answers, *options)["language"]["numbers"]
    assert found["that guess is right"]["accuracy"] == 1
    assert found["that guess is wrong"]["accuracy"] == 0
    assert found["that guess is wrong"]["questions"] >= 3
    assert "with another image" not in found


def test_rewordings_that_come_with_the_set(tmp_path: Path) -> None:
    """All right, but for the paraphrases, to which the answer is always "1": a contradiction
    changes the answer, and an equivalent question does not."""
    table = Scenes(pairs=True, scenes=36).table("test")
    rows = table.to_pylist()
    answers = ["1" if row["relation"] == "paraphrase" else row["answers"][0] for row in rows]
    options = ("--dataset.scenes=36", "--dataset.pairs=true", "--only", "consistency")
    numbers = of_answers(tmp_path, table, answers, *options)["consistency"]["numbers"]
    found = {row["wording"].partition(",")[0]: row for row in numbers}
    ones = [row["answers"] == ["1"] for row in rows if row["relation"] == "paraphrase"]
    assert found["paraphrase"]["flips"] == pytest.approx(1 - sum(ones) / len(ones))
    assert found["paraphrase"]["both"] == pytest.approx(sum(ones) / len(ones))
    assert found["paraphrase"]["accuracy"][0] == 1
    assert (found["equivalent"]["flips"], found["equivalent"]["both"]) == (0, 1)
    assert (found["contradiction"]["flips"], found["contradiction"]["both"]) == (1, 1)


def test_a_mirror_exchanges_left_and_right() -> None:
    assert mirrored_text("Is the left object left of it, or right?") == (
        "Is the right object right of it, or left?"
    )
    assert mirrored_text("Ist es links?") == "Ist es rechts?"
    assert mirrored_text("Is it bright or leftover?") == "Is it bright or leftover?"

    class Store:
        def read(self, paths: object, questions: object) -> torch.Tensor:
            return torch.arange(3, dtype=torch.uint8).expand(1, 3, 2, 3)

    found = Changed(Store(), lambda images: images.flip(-1)).read([], [])
    assert found[0, 0, 0].tolist() == [2, 1, 0]


def test_who_sees_the_mirrored_image_is_right_about_it() -> None:
    """The model answers what is right of the questions and images that it is given."""
    table = Scenes(scenes=36, abilities=["position"]).table("test")
    mirrored: list[bool] = []

    def ask(asked: pa.Table, images: Any = None) -> Any:
        mirrored.append(images is not None)
        answers = [answer for (answer,) in asked["answers"].to_pylist()]
        assert all(a in c for a, c in zip(answers, asked["choices"].to_pylist(), strict=True))
        return SimpleNamespace(answers=answers)

    subject: Any = SimpleNamespace(
        vqa=True,
        sampled=table,
        sample=np.ones(36, bool),
        scores=np.ones(36),
        clusters=image_groups(table).tolist(),
        images_store=ImageStore.__new__(ImageStore),
        results=SimpleNamespace(answers=ask(table).answers, takes_choices=True, table=table),
        ask=ask,
        scored=lambda asked, found: np.array(
            [a in b for a, b in zip(found.answers, asked["answers"].to_pylist(), strict=True)],
            float,
        ),
    )
    rows = consistency(subject)["numbers"]
    assert [row["wording"] for row in rows][-2:] == [
        "mirrored image, no side named",
        "mirrored image, left and right exchanged",
    ]
    assert [row["questions"] for row in rows][-2:] == [18, 18]
    assert all(row["flips"] == 0 and row["both"] == 1 for row in rows)
    assert mirrored == [False] * (len(rows) - 1) + [True]


def test_what_fine_tuning_kept_is_read_from_its_results(
    run: Path, data: Path, tmp_path: Path
) -> None:
    folder = run / "forgetting"
    folder.mkdir()
    kept = {"same_class": 0.75, "cka": {"stem": 0.9, "last": 0.5}}
    state = {"run": "r", "alpha": 1, "image_encoder": kept}
    (folder / "results.json").write_text(json.dumps({"states": [state]}))
    found = report(tmp_path, str(run), f"--dataset.root={data}", "--only", "forgetting")
    (folder / "results.json").unlink()
    folder.rmdir()
    assert found["forgetting"]["table"][1:] == [
        ["image encoder: images of the same class", "0.750"],
        ["image encoder: CKA, last layer", "0.500"],
    ]


def test_a_model_of_the_hub(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = vilt_folder(tmp_path / "vilt")
    monkeypatch.chdir(tmp_path)
    name = f"hf:{folder}"
    main(["report", name, "-c", EASY, f"--dataset.root={data}", "--only", "accuracy", "selective",
          f"--against={name}"])  # fmt: skip
    content = json.loads((tmp_path / "vilt_report/report.json").read_text())
    assert content["about"]["calibration"] == "probabilities as given"
    assert content["sections"]["accuracy"]["numbers"][0]["questions"] == 36
    assert content["sections"]["against"]["numbers"]["accuracy"]["mean"] == 0
    assert "run `vlm calibrate`" in " ".join(content["sections"]["selective"]["text"])


def test_ten_questions(run: Path, data: Path, tmp_path: Path) -> None:
    """Nothing is claimed of so few: no group, and no coverage at 1 %."""
    few = tmp_path / "data"
    for split in ("train", "test"):
        (few / split).mkdir(parents=True)
        (few / split / "images").symlink_to(data / split / "images")
        rows = json.loads((data / split / "questions.json").read_text())
        rows = rows if split == "train" else rows[:10]
        (few / split / "questions.json").write_text(json.dumps(rows))
    only = ("--only", "accuracy", "groups", "calibration", "selective", "sets", "language")
    found = report(tmp_path / "out", str(run), f"--dataset.root={few}", *only)
    assert found["groups"]["numbers"] == []
    rows = {row[0]: row for row in found["selective"]["table"]}
    assert rows["C@1 %: coverage at this risk, %"][2] == "not measurable"
    assert rows["C@20 %: coverage at this risk, %"][2] == "not measurable"
    last = found["language"]["table"][-1]
    assert last[2] == "not measurable"
    assert found["accuracy"]["numbers"][0]["questions"] == 10
