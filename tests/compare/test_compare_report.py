"""The report of made-up runs contains everything it promises."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlm.evaluation.render import Section, to_html, to_markdown
from vlm.studies.comparison.build import Variant
from vlm.studies.comparison.cost import Cost
from vlm.studies.comparison.plan import Entry, Plan, PlanError
from vlm.studies.comparison.report import write_report
from vlm.studies.comparison.results import Comparison, read_outcomes
from vlm.studies.comparison.runs import FINISHED, LOG, Failure, Run, plan_run

SEEDS = (0, 1, 2)
TYPES = ["color", "yes/no"]
SHARES = {"good": 0.95, "equal": 0.94, "poor": 0.6, "question_only": 0.5}
VOCABULARY: dict[str, Any] = {
    "size": 1234,
    "hash": "a1b2c3d4e5f6",
    "from": "train+val",
    "validation_ceiling": 0.9321,
}
IN_WORDS = (
    "the 1,234 answers of the vocabulary (a1b2c3d4e5f6, from training and validation questions, "
    "so that validation leaks into it, 93.21 % of validation at best)"
)


def config(name: str) -> dict[str, Any]:
    part = {"class_path": f"vlm.parts.{name}", "init_args": {}}
    return {
        "model": {
            "image_encoder": part,
            "text_encoder": part,
            "head": part,
            "fusion": part,
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.003}},
        },
        "dataset": {"class_path": "vlm.datasets.EasyVQA", "init_args": {}},
        "data": {},
        "trainer": {"max_epochs": 5},
        "run": {},
    }


def finish(
    run: Run,
    share: float,
    questions: int = 300,
    vocabulary: dict[str, Any] | None = VOCABULARY,
    first: str = "red",
) -> None:
    """Write the files of a finished run that answered this share of the questions correctly."""
    results = run.folder / "20260101-000000"
    results.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng((run.seed, int(1000 * share)))
    rows = [
        {
            "id": f"test-{number}",
            "image": f"{number // 3}.png",
            "answer_type": TYPES[number % 2],
            "question": "what is it",
            "answers": [first if number == 0 else "red"],
            "score": float(rng.random() < share),
        }
        for number in range(questions)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (results / "test_predictions.jsonl").write_text(lines)
    floors = {
        "majority": 0.3333,
        # A control has different questions.
        "question_only": 0.1 if run.name == "question_only" else 0.4444,
        "ceiling": 0.9776 + 0.01 * run.seed,
    }
    test = {
        "about": {"seconds": 10.0 + run.seed, "vocabulary": vocabulary},
        "results": [{"type": kind, **floors} for kind in ("overall", *TYPES)],
    }
    (results / "test.json").write_text(json.dumps(test))
    (run.folder / FINISHED).write_text(json.dumps({"run": results.name}))


def comparison(
    folder: Path,
    budget: int | None = None,
    vocabulary: Callable[[Run], dict[str, Any] | None] = lambda run: VOCABULARY,
) -> Comparison:
    plan = Plan(
        folder / "mine.yaml",
        folder / "base.yaml",
        {name: Entry({}) for name in SHARES if name != "question_only"},
        SEEDS,
        budget,
        ("question_only",),
    )
    variants = {
        name: Variant(
            name,
            "question_only" if name == "question_only" else None,
            config(name),
            {"out_dim": 9} if budget else {},
            1000 * number,
            5000 * number,
        )
        for number, name in enumerate(SHARES, start=1)
    }
    runs = [plan_run(name, config(name), seed, folder) for name in SHARES for seed in SEEDS]
    failures = []
    for run in runs:
        if (run.name, run.seed) == ("equal", 2):
            run.folder.mkdir(parents=True)
            (run.folder / LOG).write_text("Traceback\nRuntimeError: too | big\n")
            failures.append(Failure(run, run.folder / LOG))
        else:
            finish(run, SHARES[run.name], vocabulary=vocabulary(run))
    questions, outcomes = read_outcomes(runs)
    assert questions is not None
    costs = {
        name: Cost(300, 100, 6 * 10**9, 3 * 10**8, 40.5, 39.0, 44.0, 2**20 * 7, "cpu, 1 threads")
        for name in ("good", "equal")
    }
    by_name = {outcome.name: outcome for outcome in outcomes}
    return Comparison(plan, variants, questions, by_name, costs, failures)


@pytest.fixture
def made(tmp_path: Path) -> dict[str, Any]:
    path = write_report(comparison(tmp_path), tmp_path)
    return {
        "folder": tmp_path,
        "html": path.read_text(),
        "markdown": path.with_suffix(".md").read_text(),
        "results": json.loads((tmp_path / "results.json").read_text()),
    }


def line(markdown: str, start: str) -> list[str]:
    [found] = [row for row in markdown.splitlines() if row.startswith(f"| {start}")]
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", found)[1:-1]]


def test_accuracy_by_type_with_intervals_and_controls(made: dict[str, Any]) -> None:
    text = made["markdown"]
    assert line(text, "fusion | overall")[:4] == ["fusion", "overall %", "color %", "yes/no %"]
    good = line(text, "1 good | 9")
    for kind, cell in zip(("overall", *TYPES), good[1:4], strict=True):
        mean, low, high = map(float, re.findall(r"[\d.]+", cell))
        assert low < mean < high
        found = made["results"]["lines"]["good"]["accuracy"][kind]
        assert mean == pytest.approx(100 * found["mean"], abs=0.006)
    assert line(text, "3 equal | 9")[-1] == "2 of 3"
    assert line(text, "question only (trained")[-1] == "3"
    assert line(text, "majority")[1:4] == ["33.33"] * 3
    assert line(text, "question only (most")[1:4] == ["44.44"] * 3
    assert line(text, "ceiling")[1] == "98.76"


def test_paired_significance_against_the_best(made: dict[str, Any]) -> None:
    assert "## Against the best, good" in made["markdown"]
    assert line(made["markdown"], "equal | ")[-1] == "not told apart"
    assert line(made["markdown"], "poor | ")[-1] == "worse"
    poor = made["results"]["against_best"]["poor"]
    by_seed = made["results"]["lines"]
    means = [np.mean(list(by_seed[name]["by_seed"].values())) for name in ("poor", "good")]
    assert poor["mean"] == pytest.approx(means[0] - means[1])
    assert poor["p"] < poor["p_holm"] < 0.05
    assert "question_only" not in made["results"]["against_best"]


def test_cost_and_failures(made: dict[str, Any]) -> None:
    good = line(made["markdown"], "1 good | 1,000")
    assert good[1:] == ["1,000", "5,000", "1", "20", "40.5", "39.0 - 44.0", "7.0", "11.0"]
    assert line(made["markdown"], "2 poor | 3,000")[3:8] == ["-"] * 5
    failed = line(made["markdown"], "equal, seed 2")
    assert failed[2] == r"RuntimeError: too \| big"
    assert failed[1].endswith(LOG)


def test_html_holds_everything_and_fetches_nothing(made: dict[str, Any]) -> None:
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', made["html"])
    assert len(images) == 2
    for image, name in zip(images, ("accuracy.png", "costs.png"), strict=True):
        content = base64.b64decode(image)
        assert content.startswith(b"\x89PNG")
        assert (made["folder"] / name).read_bytes() == content
        assert f"({name})" in made["markdown"]
    assert not re.search(r"""(src|href)=["'](?!data:)""", made["html"])
    for heading in re.findall("^## (.+)$", made["markdown"], re.MULTILINE):
        assert f"<h2>{heading}</h2>" in made["html"]
    assert made["html"].count("<tr>") == made["markdown"].count("\n| ") - 4  # the rules


def test_a_budget_that_is_missed_is_said(tmp_path: Path) -> None:
    write_report(comparison(tmp_path, budget=1010), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "sized to 1,010 trainable parameters" in text
    assert "equal (2,000), poor (3,000)" in text
    assert "good (1,000)" not in text


def test_runs_on_other_questions_are_refused(tmp_path: Path) -> None:
    runs = [plan_run("a", config("a"), seed, tmp_path) for seed in (0, 1)]
    finish(runs[0], 0.5)
    others: list[dict[str, Any]] = [{"questions": 9}, {"first": "blue"}]
    for more in others:
        finish(runs[1], 0.5, **more)
        with pytest.raises(PlanError, match="answers other questions than the runs before"):
            read_outcomes(runs)


def test_types_are_those_that_the_data_set_reports_by(tmp_path: Path) -> None:
    run = plan_run("good", config("good"), 0, tmp_path)
    finish(run, 0.9)
    (path,) = run.folder.glob("*/test_predictions.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [row | {"set": row["id"][-1], "cluster": row["id"][:6]} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    questions, _ = read_outcomes([run], "set")
    assert questions is not None
    assert questions.types[:2] == ["0", "1"]
    assert set(questions.clusters) == {f"test-{number}" for number in range(10)}
    assert questions.images[3] == "1.png"


def test_a_better_fusion_without_all_seeds_is_not_called_worse(tmp_path: Path) -> None:
    found = comparison(tmp_path)
    found.outcomes["equal"].scores.update({0: np.ones(300), 1: np.ones(300)})
    found.outcomes["good"].scores.update({seed: np.arange(300) % 2 for seed in SEEDS})
    found.outcomes["poor"].scores.pop(2), found.outcomes["poor"].scores.pop(1)
    report = write_report(found, tmp_path).with_suffix(".md").read_text()
    assert re.search(r"equal \| \+50.* \| better, but lacks seeds", report)
    assert "1 of 3, interval over images alone" in report


@pytest.mark.parametrize(
    ("epochs", "steps", "said"),
    [
        (None, 2, "; 2 steps;"),
        (-1, 2, "; 2 steps;"),
        (5, 2, "; 5 epochs at most; 2 steps at most;"),
    ],
)
def test_a_training_by_steps(epochs: int | None, steps: int, said: str, tmp_path: Path) -> None:
    found = comparison(tmp_path)
    for variant in found.variants.values():
        variant.config["trainer"] |= {"max_epochs": epochs, "max_steps": steps}
    assert said in write_report(found, tmp_path).with_suffix(".md").read_text()


def test_text_is_escaped() -> None:
    section = Section("a < b", ["c & d"], [["|", "x"], ["<i>", "1"]], [], "e: <f>")
    assert r"| \| | x |" in to_markdown("t", [section])
    html = to_html("t & u", [section])
    for text in ("a &lt; b", "c &amp; d", "&lt;i&gt;", "e: &lt;f&gt;", "t &amp; u"):
        assert text in html


def test_the_vocabulary_stands_beside_the_scores(made: dict[str, Any]) -> None:
    accuracy = made["markdown"].split("\n## ")[2]
    assert accuracy.startswith("Accuracy on test")
    assert f"\n\nAnswers: {IN_WORDS}.\n\n" in accuracy
    assert f"<p>Answers: {IN_WORDS}.</p>" in made["html"]
    for row in made["results"]["lines"].values():
        assert row["vocabularies"] == dict.fromkeys(row["by_seed"], VOCABULARY)


def with_hash(run: Run) -> dict[str, Any]:
    return VOCABULARY | {"hash": f"seed{run.seed}"}


@pytest.mark.parametrize(
    ("vocabulary", "said"),
    [
        (
            with_hash,
            ["the runs have different vocabularies. seed 0: the 1,234 answers of the vocabulary "
             "(seed0, from", "; seed 1: ", "; seed 2: "],
        ),
        (
            lambda run: VOCABULARY if run.seed else with_hash(run),
            ["the runs have different vocabularies. seed 0: ", f"; seed 1, seed 2: {IN_WORDS}."],
        ),
        (
            lambda run: with_hash(run) if (run.name, run.seed) == ("poor", 1) else VOCABULARY,
            ["the runs have different vocabularies. good (seed 0), ", "poor (seed 2)",
             "; poor (seed 1): the 1,234 answers of the vocabulary (seed1, from "],
        ),
        (
            lambda run: VOCABULARY | {"validation_ceiling": 0.9 + run.seed / 100},
            ["the runs have one vocabulary, and different validation parts. seed 0: the", "90.00 %",
             "91.00 %", "92.00 %"],
        ),
        (lambda run: None, ["Answers: each question's choices, or free text."]),
    ],
)  # fmt: skip
def test_different_vocabularies_are_said(
    vocabulary: Callable[[Run], dict[str, Any] | None], said: list[str], tmp_path: Path
) -> None:
    write_report(comparison(tmp_path, vocabulary=vocabulary), tmp_path)
    (paragraph,) = re.findall("^Answers: .*$", (tmp_path / "report.md").read_text(), re.MULTILINE)
    for part in said:
        assert part in paragraph
    lines = json.loads((tmp_path / "results.json").read_text())["lines"]
    kept = [row["vocabularies"] for row in lines.values()]
    made = [vocabulary(Run("poor", 1, {}, tmp_path)), vocabulary(Run("good", 0, {}, tmp_path))]
    assert [kept[2]["1"], kept[0]["0"]] == made
