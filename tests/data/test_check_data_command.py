"""`vlm check-data` on the command line: output, files and exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import COLORS, ROOT, rest_slow
from custom_files import CONFIG, small, write_photos, write_rows
from PIL import Image

from vlm.cli.main import main
from vlm.data import VQADataModule
from vlm.data.check.check import check_data
from vlm.data.check.report import write_check
from vlm.datasets import CustomDataset


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    """Rows for 20 questions about 10 images, with ids."""
    return [row | {"id": f"q{i}"} for i, row in enumerate(write_photos(tmp_path, images=10))]


def test_the_command(
    rows: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*more: str) -> tuple[int, str]:
        my = write_rows(tmp_path / "my.jsonl", rows)
        with pytest.raises(SystemExit) as stopped:
            main(["check-data", CONFIG, *small(tmp_path, my, *more)])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return stopped.value.code, said.out + said.err

    code, said = run()
    assert code == 0
    assert "0 errors" in said
    folder = tmp_path / "runs/own_data/check-data"
    assert f"Figures and plot: {folder}" in said
    with Image.open(folder / "distributions.png") as plot:
        assert min(plot.size) > 300
    for row in rows[:4]:
        row["question"] = ""
    code, said = run("--limit=3", f"--output={tmp_path / 'there'}")
    assert code == 1
    assert "error: empty question (4)" in said
    assert f"{tmp_path}/my.jsonl, line 3, column 'question' (id 'q2'): got" in said
    assert "line 4" not in said
    assert "... and 1 more" in said
    assert json.loads((tmp_path / "there/check.json").read_text())["errors"]["empty question"] == {
        "count": 4,
        "first": [m.strip() for m in said.splitlines() if "got the question" in m],
    }
    for wrong, message in (
        ("--dataset.pth=x", "Did you mean"),
        ("--dataset.columns={anwser: x}", "Did you mean answer"),
        ("--limit=0", "--limit: got 0"),
        (
            "--dataset.validation_share=2",
            "validation_share: got 2.0; expected a share between 0 and 1",
        ),
    ):
        code, said = run(wrong)
        assert code == 2
        assert message in said


def test_the_command_needs_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (([], "config"), (["nosuch.yaml"], "nosuch.yaml")):
        with pytest.raises(SystemExit) as stopped:
            main(["check-data", *arguments])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["check-data", CONFIG])
    assert stopped.value.code == 2
    assert "path" in capsys.readouterr().err


def test_the_plot_takes_any_text(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """Answers include Chinese, emoji, right-to-left text, formula-like text and a long text."""
    answers = ["红色", "🐈", "אדום", "$x_$", "an answer " * 30]
    for row, answer in zip(rows, answers * 4, strict=True):
        row["answer"] = answer
    my = write_rows(tmp_path / "my.jsonl", rows)
    found = check_data(VQADataModule(CustomDataset(str(my), images=tmp_path / "photos")))
    assert not found.errors.counts
    write_check(found, tmp_path / "out")
    assert "红色" in (tmp_path / "out/check.json").read_text("utf-8")


def test_every_experiment_can_be_checked(data: Path, tmp_path: Path) -> None:
    """The command also works for public data sets."""
    config = str(ROOT / "configs/easy_vqa.yaml")
    with pytest.raises(SystemExit) as stopped:
        main(["check-data", config, f"--dataset.root={data}", f"--output={tmp_path / 'out'}"])
    assert stopped.value.code == 0
    assert (tmp_path / "out/distributions.png").is_file()


@pytest.mark.slow
def test_a_decoder_that_ranks_choices_needs_them(
    rows: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing choices are an error whether the decoder is the only head or one of several."""
    chooses = {"class_path": "vlm.heads.Generation", "init_args": {"choose": True}}
    writes = {"class_path": "vlm.heads.Generation", "init_args": {"choose": False}}
    for head, code in ((chooses, 1), (writes, 0), (_several(writes), 0), (_several(chooses), 1)):
        my = write_rows(tmp_path / "my.jsonl", rows)
        with pytest.raises(SystemExit) as stopped:
            main(["check-data", CONFIG, *small(tmp_path, my), f"--model.head={json.dumps(head)}"])
        assert stopped.value.code == code
        assert ("error: no choices (20)" in capsys.readouterr().out) == bool(code)


HEADS = {
    "classify": {"class_path": "vlm.heads.Classification"},
    "choose": {"class_path": "vlm.heads.MultipleChoice"},
    "write": {"class_path": "vlm.heads.Generation"},
}
SAID = {
    "classify": r"Ceiling: the best that the \d answers of the vocabulary \(\w+\) can reach",
    "choose": "among the question's choices. Ceiling: the best that the set of each question's ch",
    "write": "Ceiling: the best that free text can reach",
}


@pytest.mark.parametrize("several", rest_slow([False, True], True))
@pytest.mark.parametrize("name", rest_slow(HEADS, "choose"))
def test_the_figures_are_those_of_the_head_that_answers(
    name: str,
    several: bool,
    rows: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With several heads, the choices are checked whichever head answers."""
    head: dict[str, Any] = HEADS[name]
    if several:
        arguments = {"heads": HEADS, "answers_by": name}
        head = {"class_path": "vlm.heads.MultiTask", "init_args": arguments}
    for row in rows:
        row["choices"] = ["yes", "no", *COLORS, "mauve"]
        row["answer"] = row["answer"].replace("red", "mauve")
    held_out = [row | {"id": f"h{i}"} for i, row in enumerate(write_photos(tmp_path, 2, seed=1))]
    for row in held_out:
        row["choices"] = ["yes", "no", *COLORS, "mauve"]
    held_out[0]["answer"] = "red"  # never an answer in training
    others = write_rows(tmp_path / "others.jsonl", held_out)
    options = small(
        tmp_path,
        write_rows(tmp_path / "my.jsonl", rows),
        f"--dataset.validation={others}",
        f"--model.head={json.dumps(head)}",
    )

    def run() -> tuple[int, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["check-data", CONFIG, *options])
        return stopped.value.code, capsys.readouterr().out

    code, said = run()
    assert code == 0, said
    assert re.search(SAID[name], " ".join(said.split())), said
    assert ("answer outside the vocabulary (1)" in said) == (name == "classify")
    found = json.loads((tmp_path / "runs/own_data/check-data/check.json").read_text())
    kinds = {"classify": "vocabulary", "choose": "choices", "write": "text"}
    assert found["answers"] == kinds[name]
    assert (found["vocabulary"] is None) == (name != "classify")
    validation = found["splits"]["validation"]
    assert validation["ceiling"] == (0.75 if name == "classify" else 1)
    assert validation["unanswerable"] == (name == "classify")
    assert {"majority", "question_only"} <= set(validation)
    for row in rows[:2]:
        del row["choices"]
    write_rows(tmp_path / "my.jsonl", rows)
    code, said = run()
    needed = several or name == "choose"
    assert (code, "error: no choices (2)" in said) == (int(needed), needed)


def _several(head: dict[str, Any]) -> dict[str, Any]:
    classify = {"class_path": "vlm.heads.Classification"}
    heads = {"classify": classify, "choose": head}
    return {"class_path": "vlm.heads.MultiTask", "init_args": {"heads": heads}}
