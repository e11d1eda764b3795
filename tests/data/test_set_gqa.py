"""GQA and GQA-OOD: reading a miniature in the official layout, and the official metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from PIL import Image

from vlm.cli.training_cli import VQACLI
from vlm.datasets import GQA, GQAOOD
from vlm.metrics import gqa_consistency, gqa_distribution


def question(number: int, answer: str, **changes: Any) -> dict[str, Any]:
    record = {
        "imageId": f"n{number % 3}",
        "question": f"What is thing {number}?",
        "answer": answer,
        "fullAnswer": f"It is a {answer}.",
        "isBalanced": True,
        "entailed": [],
        "equivalent": [],
        "groups": {"global": "thing", "local": f"{number}-thing"},
        "types": {"structural": "query", "semantic": "obj", "detailed": "categoryThis"},
        "semantic": [{"operation": "select", "argument": "thing", "dependencies": []}],
        "semanticStr": "select: thing [0]",
        "annotations": {"question": {}, "answer": {}, "fullAnswer": {}},
    }
    return record | changes


YES = {"structural": "verify", "semantic": "attr", "detailed": "verifyAttr"}
COMMON = {"structural": "compare", "semantic": "attr", "detailed": "diffCommon"}
VAL = {
    "010": question(1, "cat", entailed=["010", "011", "012"]),
    "011": question(2, "yes", types=YES, isBalanced=False),
    "012": question(3, "no", types=YES, isBalanced=False, groups={"global": None, "local": "l"}),
    "013": question(4, "dog"),
    "014": question(5, "yes", types=YES, groups={"global": None, "local": "l"}),
    "015": question(6, "color", types=COMMON, groups={"global": None, "local": "l"}),
}
CHOICES = {key: {"valid": ["cat", "yes"], "plausible": ["cat"]} for key in VAL}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "questions1.2"
    (folder / "train_all_questions").mkdir(parents=True)
    balanced = {key: record for key, record in VAL.items() if record["isBalanced"]}
    save(folder / "train_balanced_questions.json", {"07": question(7, "cat")})
    for n in range(10):
        part = {f"{n}{i}": question(i, "dog") for i in range(n)}
        save(folder / f"train_all_questions/train_all_questions_{n}.json", part)
    for split in ("val", "testdev"):
        save(folder / f"{split}_balanced_questions.json", balanced)
        save(folder / f"{split}_all_questions.json", VAL)
    bare = {"imageId": "n5", "question": "Who is that?", "isBalanced": True}
    save(folder / "test_balanced_questions.json", {"020": bare})
    save(folder / "submission_all_questions.json", {"020": bare, "021": bare})
    return tmp_path


def save(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_questions_are_read_as_they_stand(root: Path) -> None:
    (row,) = GQA(root).table("train").to_pylist()
    assert row["id"] == "07"
    assert row["image"] == str(root / "images/n1.jpg")
    assert row["question"] == "What is thing 7?"
    assert row["answers"] == ["cat"]
    assert (row["answer_type"], row["question_type"]) == ("query", "object")

    validation = GQA(root).table("validation")
    assert validation["id"].to_pylist() == ["010", "013", "014", "015"]
    assert validation["answer_type"].to_pylist() == ["query", "query", "verify", "compare"]
    everything = GQA(root, test_questions="all").table("test")
    assert everything["id"].to_pylist() == list(VAL)
    assert everything["balanced"].to_pylist() == [True, False, False, True, True, True]


def test_all_training_questions_are_in_ten_files(root: Path) -> None:
    table = GQA(root, train_questions="all").table("train")
    assert table["id"].to_pylist() == [f"{n}{i}" for n in range(10) for i in range(n)]
    (root / "questions1.2/train_all_questions/train_all_questions_3.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"train_all_questions_3\.json: there is no such"):
        GQA(root, train_questions="all").table("train")


def test_test_questions_have_no_answers(root: Path) -> None:
    assert GQA(root).table("predict")["id"].to_pylist() == ["010", "013", "014", "015"]
    table = GQA(root, predict_split="test").table("predict")
    assert table["answers"].to_pylist() == [None]
    assert table["image"].to_pylist() == [str(root / "images/n5.jpg")]
    assert len(GQA(root, predict_split="submission").table("predict")) == 2


def figures(data: GQA, given: list[str]) -> dict[str, float]:
    table = data.table("validation")
    pairs = zip(given, table["answers"].to_pylist(), strict=True)
    return data.summarize(table, given, [data.score(a, known) for a, known in pairs])


def test_figures_of_the_evaluator(root: Path) -> None:
    # Right: 010, 011, 014. 010 entails 011 (right) and 012 (wrong), so consistency is 1/2.
    given = ["cat", "yes", "yes", "cat", "yes", "shape"]
    found = figures(GQA(root, test_questions="all"), given)
    assert found == {
        "balanced_accuracy": 2 / 4,
        "open_accuracy": 1 / 2,
        "binary_accuracy": 1 / 2,
        "consistency": 1 / 2,
        # Group "thing": a cat and a dog are right, two cats given: ((2-1)^2 + (0-1)^2) / 100.
        "distribution": pytest.approx(0.02),
    }
    balanced = figures(GQA(root), ["cat", "cat", "yes", "shape"])
    assert balanced == {name: found[name] for name in found if name != "consistency"}

    save(root / "eval/val_choices.json", CHOICES)
    found = figures(GQA(root), ["cat", "mouse", "yes", "shape"])
    assert found["validity"] == 3 / 4, "a shape may be common whatever the file says"
    assert found["plausibility"] == 2 / 4


# The overlap is deliberate: 30 epochs learn all the questions.
@pytest.mark.filterwarnings("ignore:Trained on too:UserWarning")
@pytest.mark.filterwarnings("ignore:.* are validation questions too:UserWarning")
def test_the_figures_reach_the_report(root: Path) -> None:
    save(root / "questions1.2/train_balanced_questions.json", VAL)
    (root / "images").mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (90 * number, 0, 0)).save(root / f"images/n{number}.jpg")
    cli = VQACLI(
        [
            "fit",
            f"-c={ROOT / 'configs/easy_vqa.yaml'}",
            "--dataset=vlm.datasets.GQA",
            f"--dataset.root={root}",
            "--dataset.test_questions=all",
            f"--run.folder={root / 'runs'}",
            "--trainer.max_epochs=30",
            "--trainer.enable_progress_bar=false",
        ]
    )
    report = json.loads((cli.run_folder / "test.json").read_text())
    overall, *types = report["results"]
    assert overall["questions"] == len(VAL)
    assert {row["type"] for row in types} == {"compare", "query", "verify"}
    assert set(report["question_types"]) == {"attribute", "object"}
    assert overall["accuracy"] == 1
    names = ("balanced_accuracy", "binary_accuracy", "open_accuracy", "consistency")
    assert report["summary"] == dict.fromkeys(names, 1.0) | {"distribution": 0.0}


def test_consistency_by_hand() -> None:
    right = {"a": True, "b": False, "c": True, "d": True}
    # a: b wrong, c right, a ignored. b: wrong, so excluded. c: entails only itself. d: all right.
    entailed = {"a": ["a", "b", "c"], "b": ["c"], "c": ["c"], "d": ["a", "c", "never asked"]}
    assert gqa_consistency(right, entailed) == (1 / 2 + 1) / 2
    assert gqa_consistency(right, {"c": ["c"]}) is None


def test_distribution_by_hand() -> None:
    groups = ["x"] * 4 + ["y", None]
    answers = ["a", "a", "a", "b", "c", "z"]
    given = ["a", "b", "b", "b", "c", "y"]
    # x: a 3 -> 1 gives 4/3, b 1 -> 3 gives 4; y: 0. Weighted: (4 * 16/3 + 1 * 0) / 5 / 100.
    assert gqa_distribution(groups, answers, given) == pytest.approx(64 / 3 / 5 / 100)
    assert gqa_distribution(groups, answers, answers) == 0
    assert gqa_distribution([None], ["a"], ["b"]) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"imageId": 3}, "question '013': got 3 for 'imageId'; expected a text"),
        ({"answer": None}, "question '013': got None for 'answer'; expected a text"),
        ({"types": None}, "question '013': got None for 'types'; expected an object"),
        (
            {"isBalanced": "yes"},
            "question '013': got 'yes' for 'isBalanced'; expected true or false",
        ),
        ({"entailed": ["010", 3]}, "question '013': got 3 in a list of its ids or answers"),
        ({"groups": {"global": 3}}, "question '013': got 3 for 'global'; expected a text or null"),
        ({"question": " "}, r"question 4 \(id '013'\): got the question ' '; expected some text"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], message: str, root: Path) -> None:
    path = root / "questions1.2/val_all_questions.json"
    save(path, VAL | {"013": VAL["013"] | change})
    with pytest.raises(ValueError, match=rf"val_all_questions\.json, {message}"):
        GQA(root, test_questions="all").table("validation")


def test_a_wrong_choice_is_named(root: Path) -> None:
    save(root / "eval/val_choices.json", CHOICES | {"013": {"valid": [["cat"]], "plausible": []}})
    with pytest.raises(ValueError, match=r"val_choices\.json, question '013': got \['cat'\]"):
        GQA(root).table("validation")


def test_a_missing_file_says_where_to_get_it(root: Path) -> None:
    (root / "questions1.2/val_balanced_questions.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"val_balanced.*cs\.stanford\.edu/people/dorarad"):
        GQA(root).table("validation")
    save(root / "questions1.2/val_balanced_questions.json", [])
    with pytest.raises(ValueError, match=r"expected an object with a question for each id"):
        GQA(root).table("validation")


@pytest.fixture
def ood(root: Path) -> Path:
    for split in ("val", "testdev"):
        save(root / f"gqa_ood/ood_{split}_head.json", {"010": VAL["010"], "014": VAL["014"]})
        save(root / f"gqa_ood/ood_{split}_tail.json", {"013": VAL["013"], "015": VAL["015"]})
    return root


def test_ood_tells_head_from_tail(ood: Path) -> None:
    data = GQAOOD(ood)
    table = data.table("test")
    assert table["id"].to_pylist() == ["010", "014", "013", "015"]
    assert table["answer_type"].to_pylist() == ["head", "head", "tail", "tail"]
    assert table["question_type"].to_pylist() == ["query", "verify", "query", "compare"]
    assert data.table("train")["id"].to_pylist() == ["07"]
    # acc-head 1, acc-tail 1/2: (1 - 1/2) / (1/2).
    assert data.summarize(table, ["cat", "yes", "dog", "?"], [1, 1, 1, 0]) == {"delta": 1.0}
    assert data.summarize(table, ["cat", "yes", "?", "?"], [1, 1, 0, 0]) == {}
    tail = GQAOOD(ood, part="tail").table("validation")
    assert tail["id"].to_pylist() == ["013", "015"]
    assert GQAOOD(ood, part="tail").summarize(tail, ["dog", "?"], [1, 0]) == {}


def test_ood_without_its_files_says_where_to_get_them(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"ood_val_head\.json.*github\.com/gqa-ood/GQA-OOD"):
        GQAOOD(root).table("validation")
