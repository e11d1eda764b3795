"""Several data sets in one training: tables, vocabulary, shares, metrics and reports."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, write_data
from custom_files import write_photos, write_rows
from test_set_visual_genome import pair, save

import vlm
from vlm.cli.main import main
from vlm.cli.training_cli import VQACLI
from vlm.data.check.check import check_data
from vlm.data.datamodule import VQADataModule
from vlm.data.images.sources import ImageOptions
from vlm.data.sampler import ImageGroupSampler, Mixing, quotas
from vlm.data.shared_questions import check_shared
from vlm.datasets import DAQUAR, CustomDataset, Dataset, EasyVQA, Mixture, VisualGenome
from vlm.datasets.base import Score
from vlm.datasets.baselines import compute_floors
from vlm.datasets.errors import DataError
from vlm.datasets.mixture import SET
from vlm.evaluation.report import Report
from vlm.evaluation.results import Prediction, Results
from vlm.image import ConvNet


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """Two sets whose ids clash: numbers, and the rows' numbers in a file."""
    folder = tmp_path_factory.mktemp("sets")
    write_rows(folder / "my.jsonl", write_photos(folder, images=8))
    mine = CustomDataset(folder / "my.jsonl", images=folder / "photos")
    return {"shapes": EasyVQA(write_data(folder / "shapes")), "mine": mine}


def test_tables_hold_the_questions_of_all_sets(sets: dict[str, Dataset]) -> None:
    data = Mixture(sets)
    train, held_out = data.table("train"), data.table("validation")
    both = train["id"].to_pylist() + held_out["id"].to_pylist()
    assert len(set(both)) == len(both) == sum(len(s.read("train") or ()) for s in sets.values())
    assert {key.split("/")[0] for key in both} == set(sets) == set(train[SET].to_pylist())
    assert set(data.answers) == {a for s in sets.values() for a in s.answers}
    assert not {*train["image"].to_pylist()} & {*held_out["image"].to_pylist()}
    assert Counter(data.table("test")[SET].to_pylist()) == {
        name: len(one.table("test")) for name, one in sets.items()
    }


def test_the_answer_to_what_has_none_is_that_of_its_sets(sets: dict[str, Dataset]) -> None:
    assert Mixture(sets).unanswerable is None
    one, other = copy.copy(sets["shapes"]), copy.copy(sets["shapes"])
    one.unanswerable, other.unanswerable = "unanswerable", "not there"
    assert Mixture(sets | {"one": one}).unanswerable == "unanswerable"
    assert Mixture(sets | {"one": one, "other": other}).unanswerable is None


def test_ids_that_clash_are_told_apart(tmp_path: Path) -> None:
    rows = write_photos(tmp_path, images=4)
    write_rows(tmp_path / "a.jsonl", [row | {"id": str(n)} for n, row in enumerate(rows)])
    one = CustomDataset(tmp_path / "a.jsonl", images=tmp_path / "photos")
    table = Mixture({"a": one, "b": one}).table("train")
    assert len(set(table["id"].to_pylist())) == len(table)


def test_each_set_scores_and_sums_up_by_its_own_ids(tmp_path: Path) -> None:
    class Ordered(CustomDataset):
        """A metric of the row, and one of the ids."""

        def scoring(self, table: pa.Table) -> Iterator[Score]:
            return iter([lambda *_, own=own: float(own == "q-1") for own in _ids(table)])

        def summarize(self, table: pa.Table, *_: Any) -> dict[str, float]:
            return {"first": float("q-1" in _ids(table))}

    rows = [
        row | {"id": f"q-{n}", "group": f"g{n // 4}"}
        for n, row in enumerate(write_photos(tmp_path, images=8))
    ]
    write_rows(tmp_path / "a.jsonl", rows)
    write_rows(tmp_path / "b.jsonl", [row | {"id": f"other {row['id']}"} for row in rows])
    a = Ordered(tmp_path / "a.jsonl", test=tmp_path / "a.jsonl", images=tmp_path / "photos")
    b = CustomDataset(tmp_path / "b.jsonl", test=tmp_path / "b.jsonl", images=tmp_path / "photos")
    table = Mixture({"b": b, "a-1": a}).table("test")
    results = Results(
        table, dict.fromkeys(_ids(table), Prediction("?")), Mixture({"b": b, "a-1": a})
    )
    own = results.by_set()["a-1"]
    assert own.summary() == {"first": 1.0}
    assert sum(results.scores) == sum(own.scores) == 1
    assert _ids(own.table) == [row["id"] for row in rows]
    assert set(table["group"].to_pylist()) >= {"a-1/g0", "b/g0"}


def _ids(table: pa.Table) -> list[str]:
    found: list[str] = table["id"].to_pylist()
    return found


def test_an_auxiliary_file_is_used_whole(sets: dict[str, Dataset], tmp_path: Path) -> None:
    rows = write_photos(tmp_path, images=20)
    color = next(a for a in sets["shapes"].answers if a not in ("yes", "no"))
    write_rows(tmp_path / "my.jsonl", [row | {"answer": color} for row in rows])
    mine = CustomDataset(tmp_path / "my.jsonl", images=tmp_path / "photos")
    table = Mixture({**sets, "more": mine}, auxiliary=["more"]).table("train")
    assert table.filter(pc.equal(table[SET], "more")).num_rows == len(rows)


@pytest.mark.filterwarnings("ignore:.* are validation questions too")
def test_each_set_decides_on_its_shared_questions(tmp_path: Path) -> None:
    rows = write_photos(tmp_path, images=8)
    for name in ("a", "b"):
        write_rows(
            tmp_path / f"{name}.jsonl", [row | {"id": f"{name}{n}"} for n, row in enumerate(rows)]
        )
    strict, lenient = (
        CustomDataset(
            tmp_path / f"{name}.jsonl",
            test=tmp_path / f"{name}.jsonl",
            images=tmp_path / "photos",
            allow_shared_questions=name == "b",
        )
        for name in ("a", "b")
    )
    advice = r"--dataset\.datasets\.x\.init_args\.allow_shared_questions=true"
    with pytest.raises(DataError, match=advice):
        check_shared(Mixture({"y": lenient, "x": strict}), "test")
    with pytest.warns(UserWarning, match="partly measure known questions"):
        check_shared(Mixture({"y": lenient, "z": lenient}), "test")


def test_each_set_decides_on_its_shared_images(tmp_path: Path) -> None:
    """One set is meant to have the images of its test in training, too; the other is not."""
    sets: dict[str, Dataset] = {}
    for name in ("meant", "wrong"):
        (tmp_path / name).mkdir()
        rows = write_photos(tmp_path / name, images=8)
        write_rows(tmp_path / f"{name}.jsonl", rows)
        asked = [row | {"question": "is this another question"} for row in rows]
        write_rows(tmp_path / f"{name}_test.jsonl", asked)
        sets[name] = CustomDataset(
            tmp_path / f"{name}.jsonl",
            test=tmp_path / f"{name}_test.jsonl",
            images=tmp_path / name / "photos",
        )
    sets["meant"].shared_images = True
    found = check_data(VQADataModule(Mixture(sets)), images=False)
    for problems, name in ((found.errors, "wrong"), (found.warnings, "meant")):
        said = problems.kept["image in two splits"]
        assert len(said) == problems.counts["image in two splits"] == 8
        assert all(f"{tmp_path}/{name}/photos" in text for text in said)


def test_images_inside_data_files_of_both_sets(tmp_path: Path) -> None:
    """Both files have the same name, so their images' keys are the same texts."""
    made: dict[str, Dataset] = {}
    for name in ("a", "b"):
        rows = write_photos(tmp_path / name, images=4) if (tmp_path / name).mkdir() is None else []
        content = [(tmp_path / name / "photos" / row["image"]).read_bytes() for row in rows]
        marked = [c + name.encode() for c in content]  # tells whose bytes these are
        table = {
            "image": marked,
            "question": [row["question"] for row in rows],
            "answer": [row["answer"] for row in rows],
        }
        pq.write_table(pa.table(table), tmp_path / name / "q.parquet")
        made[name] = CustomDataset(tmp_path / name / "q.parquet")
    data = Mixture(made)
    table = data.table("train")
    assert data.image_source is not None
    for image, name in zip(table["image"].to_pylist(), table[SET].to_pylist(), strict=True):
        content = data.image_source(image)
        assert isinstance(content, bytes)
        assert content.endswith(name.encode())


def test_auxiliary_sets_are_only_trained_on(sets: dict[str, Dataset], tmp_path: Path) -> None:
    color = next(a for a in sets["shapes"].answers if a not in ("yes", "no"))
    genome = save(tmp_path, [pair(1, answer=color.title() + "."), pair(2, answer="In a storm.")])
    made = {**sets, "genome": VisualGenome(genome)}
    data = Mixture(made, auxiliary=["genome"])
    with pytest.warns(UserWarning, match=r"genome: left out 1 of its 2 questions"):
        train = data.table("train")
    assert [key for key in train["id"].to_pylist() if key.startswith("genome")] == ["genome/1"]
    assert "in a storm" not in data.answers
    assert "genome" not in data.table("validation")[SET].to_pylist()
    save(genome, [pair(2, answer="In a storm.")])
    with pytest.raises(ValueError, match=r"datasets\.genome: none of its 1 question has"):
        Mixture({**sets, "genome": VisualGenome(genome)}, auxiliary=["genome"]).table("train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"datasets": {}}, r"datasets: got \{\}; expected a dict of two or more"),
        ({"names": ("a b", "c")}, "got the name 'a b'; expected letters"),
        ({"weights": {"a": 1}}, r"weights: got \{'a': 1\}; expected one for each of a, b"),
        ({"weights": {"a": 1, "b": 0}}, r"weights\.b: got 0; expected a finite number above 0"),
        ({"weights": {"a": 1, "b": -1}}, r"weights\.b: got -1"),
        ({"weights": {"a": float("nan"), "b": 1}}, r"weights\.a: got nan"),
        ({"weights": {"a": float("inf"), "b": 1}}, r"weights\.a: got inf"),
        ({"weights": {"a": True, "b": 1}}, r"weights\.a: got True"),
        ({"weights": [1, 2]}, r"weights: got \[1, 2\]; expected one for each"),
        ({"temperature": 0}, "temperature: got 0; expected a finite number above 0"),
        ({"temperature": 1, "weights": {"a": 1, "b": 1}}, "weights and temperature: got both"),
        ({"auxiliary": ["c"]}, "auxiliary: got 'c'; expected one of a, b"),
        ({"auxiliary": ["a", "b"]}, "auxiliary: got all sets"),
    ],
)
def test_a_mixture_that_makes_no_sense(
    change: dict[str, Any], message: str, sets: dict[str, Dataset]
) -> None:
    names = change.pop("names", ("a", "b"))
    made = {"datasets": dict(zip(names, sets.values(), strict=True))} | change
    with pytest.raises(ValueError, match=message):
        Mixture(**made)


def test_a_set_without_questions_is_named(sets: dict[str, Dataset], tmp_path: Path) -> None:
    save(tmp_path)
    with pytest.raises(ValueError, match=r"datasets\.b: VisualGenome has no training questions"):
        Mixture({"a": sets["mine"], "b": VisualGenome(tmp_path)}).table("train")
    (tmp_path / "one").mkdir()
    write_rows(tmp_path / "one/my.jsonl", write_photos(tmp_path / "one", images=4)[:1])
    one = CustomDataset(
        tmp_path / "one/my.jsonl", test=tmp_path / "one/my.jsonl", images=tmp_path / "one/photos"
    )
    with pytest.raises(ValueError, match=r"datasets\.a: all of its images were held out"):
        Mixture({"a": sets["mine"], "b": one}, validation_share=0.99).table("train")
    with pytest.raises(TypeError, match=r"datasets\.b: got 3"):
        Mixture({"a": sets["mine"], "b": 3})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match=r"datasets\.b: .* that is no mixture"):
        Mixture({"a": sets["mine"], "b": Mixture(sets)})


def test_a_set_without_an_image_that_can_be_read_is_named(
    sets: dict[str, Dataset], tmp_path: Path
) -> None:
    write_rows(tmp_path / "my.jsonl", write_photos(tmp_path, images=8))
    for path in (tmp_path / "photos").iterdir():
        path.write_text("no image")
    lost = CustomDataset(tmp_path / "my.jsonl", images=tmp_path / "photos")
    mixed = Mixture({"shapes": sets["shapes"], "lost": lost}, weights={"shapes": 1, "lost": 1})
    data = vlm.VQADataModule(mixed, images=ImageOptions(skip_unreadable=9))
    with (
        pytest.warns(UserWarning, match="Left out"),
        pytest.raises(DataError, match=r"datasets\.lost: .*skip_unreadable left out all"),
    ):
        data.skip_unreadable("train", ConvNet().transform)


def test_each_set_has_its_metric_floors_and_report(tmp_path: Path) -> None:
    rows = [
        {"image": "a.png", "question": "what?", "answers": ["cup", "box"], "question_id": str(n)}
        for n in range(4)
    ]
    (tmp_path / "daquar").mkdir()
    for split in ("train", "test"):
        write_rows(tmp_path / f"daquar/{split}.jsonl", rows)
    pairs = write_photos(tmp_path, images=4)
    write_rows(tmp_path / "my.jsonl", pairs)
    own = CustomDataset(tmp_path / "my.jsonl", test=tmp_path / "my.jsonl", images=tmp_path)
    members: dict[str, Dataset] = {"daquar": DAQUAR(tmp_path / "daquar"), "mine": own}
    data = Mixture(members)
    table = data.table("test")
    assert data.table("predict")["id"].equals(table["id"])
    # Objects in another order are right by DAQUAR's metric alone.
    said = ["cup, box"] * len(table)
    answers = dict(zip(table["id"].to_pylist(), map(Prediction, said), strict=True))
    results = Results(table, answers, data)
    assert results.types()["daquar"].mean == 1
    assert results.types()["mine"].mean == 0
    assert results.summary() == {"mean_over_sets": 0.5}
    assert results.accuracy == pytest.approx(4 / (4 + len(pairs)))
    floors = compute_floors(data, data.table("train"), table, data.answers)
    of_daquar = np.array([s == "daquar" for s in table[SET].to_pylist()])
    assert set(floors.of(of_daquar).majority) == {1.0}, "its own most frequent answer"
    trained, tested = (
        part.filter(pc.equal(part[SET], "mine")) for part in (data.table("train"), table)
    )
    alone = compute_floors(own, trained, tested, data.answers)
    assert floors.of(~of_daquar) == alone
    report = Report(results, "test", floors)
    assert {row["type"] for row in report.rows} == {"overall", "daquar", "mine"}
    assert report.sets["daquar"].accuracy == 1
    assert "Accuracy on test: daquar" in str(report)
    report.write(tmp_path / "out")
    content = json.loads((tmp_path / "out/test.json").read_text())
    assert set(content["sets"]) == {"daquar", "mine"}
    assert content["sets"]["daquar"]["results"][0]["accuracy"] == 1
    lines = (tmp_path / "out/test_predictions.jsonl").read_text().splitlines()
    assert len(lines) == len(table)


GROUPS = np.repeat(np.arange(100), 3)
SETS = np.repeat([0, 1], [90, 10])


def taken(shares: tuple[float, float], **options: Any) -> ImageGroupSampler:
    mixing = Mixing(SETS, lambda units: np.array(shares))
    return ImageGroupSampler(GROUPS, 4, mixing=mixing, **options)


def images(sampler: ImageGroupSampler, epoch: int) -> list[int]:
    sampler.set_epoch(epoch)
    return [int(i) for rows, *_ in sampler for i in GROUPS[rows][::3]]


def test_an_epoch_has_the_shares_and_every_image_its_turn() -> None:
    sampler = taken((0.5, 0.5), seed=3)
    epochs = [images(sampler, epoch) for epoch in range(9)]
    for epoch in epochs:
        assert len(epoch) == 100
        assert sum(i < 90 for i in epoch) == 50
    counts = Counter(i for epoch in epochs for i in epoch)
    assert {counts[i] for i in range(90)} == {5}, "450 draws of 90 images"
    assert {counts[i] for i in range(90, 100)} == {45}
    partly = Counter(i for epoch in epochs[:4] for i in epoch)
    assert {partly[i] for i in range(90)} == {2, 3}, "to within one time"


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    assert images(taken((0.3, 0.7), seed=3), 5) == images(taken((0.3, 0.7), seed=3), 5)
    assert images(taken((0.3, 0.7), seed=3), 5) != images(taken((0.3, 0.7), seed=4), 5)
    assert images(taken((0.3, 0.7), seed=3), 5) != images(taken((0.3, 0.7), seed=3), 6)
    resumed = taken((0.3, 0.7), seed=3)
    resumed.epoch, resumed.start = 5, 7
    rest = [int(i) for rows, *_ in resumed for i in GROUPS[rows][::3]]
    assert rest == images(taken((0.3, 0.7), seed=3), 5)[28:]


def test_processes_share_one_global_order() -> None:
    alone = ImageGroupSampler(
        GROUPS, 8, seed=3, mixing=Mixing(SETS, lambda u: np.array([0.5, 0.5]))
    )
    two = [taken((0.5, 0.5), seed=3, rank=rank, world=2) for rank in (0, 1)]
    for whole, first, second in zip(alone, *two, strict=True):
        assert sorted(whole.rows) == sorted([*first.rows, *second.rows])
        assert whole.total == first.total == second.total


def test_single_questions_come_equally_often_too() -> None:
    mixing = Mixing(SETS, lambda units: np.array([0.5, 0.5]))
    sampler = ImageGroupSampler(GROUPS, 4, questions_per_image=1, seed=3, mixing=mixing)
    counts: Counter[int] = Counter()
    for epoch in range(9):
        sampler.set_epoch(epoch)
        counts.update(int(row) for rows, *_ in sampler for row in rows)
    assert {counts[row] for row in range(270)} == {5}


def test_a_temperature_of_one_takes_every_image_once(sets: dict[str, Dataset]) -> None:
    data = Mixture(sets, temperature=1)
    mixing = Mixing(SETS, data.shares)
    sampler = ImageGroupSampler(GROUPS, 4, seed=3, mixing=mixing)
    assert sorted(images(sampler, 0)) == list(range(100))
    assert Mixture(sets, temperature=1e9).shares([90, 10]) == pytest.approx([0.5, 0.5])
    assert Mixture(sets, weights={"shapes": 3, "mine": 1}).shares([9, 9]).tolist() == [0.75, 0.25]


def test_a_share_of_less_than_one_image_is_refused() -> None:
    assert quotas(np.array([0.255, 0.745]), 10).tolist() == [3, 7]
    with pytest.raises(ValueError, match="less than one of the 10 images"):
        quotas(np.array([0.001, 0.999]), 10)


def command(sets: dict[str, Dataset], folder: Path, *more: str) -> list[str]:
    shapes, mine = sets["shapes"], sets["mine"]
    content = {
        "class_path": "vlm.datasets.Mixture",
        "init_args": {
            "datasets": {
                "shapes": {"class_path": "EasyVQA", "init_args": {"root": str(shapes.root)}},  # type: ignore[attr-defined]
                "mine": {
                    "class_path": "CustomDataset",
                    "init_args": {
                        "path": str(mine.arguments["path"]),
                        "images": str(mine.arguments["images"]),
                    },
                },
            },
            "temperature": 2.0,
            "validation_share": 0.25,
        },
    }
    path = folder / "mixture.yaml"
    path.write_text(json.dumps(content))
    return [
        "-c", str(ROOT / "configs/easy_vqa.yaml"), f"--dataset={path}",
        "--data.images_per_batch=4", f"--run.folder={folder}", "--trainer.max_epochs=2",
        "--trainer.enable_progress_bar=false", *more,
    ]  # fmt: skip


def test_a_training_reports_each_set(
    sets: dict[str, Dataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command(sets, tmp_path)
    folder = VQACLI(["fit", *arguments]).run_folder
    printed = capsys.readouterr().out
    assert "Accuracy on test: mine" in printed
    assert "mean over sets" in printed
    header = (folder / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"val_accuracy/shapes", "test_accuracy/mine", "test_mean_over_sets"} <= set(header)
    with pytest.raises(SystemExit) as left:
        main(["fit", *arguments, f"--ckpt_path={folder}", "--dataset.temperature=3"])
    assert left.value.code == 1
    assert "dataset.temperature" in capsys.readouterr().err
