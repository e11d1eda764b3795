"""Multiple choice and multiple heads in fit, validate, test, predict and ask."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import COLORS, ROOT, rest_slow, small_run
from custom_files import CONFIG, small, write_photos, write_rows
from PIL import Image

import vlm
from vlm.checkpoint.checkpoint import read_checkpoint
from vlm.cli.main import main
from vlm.cli.training_cli import VQACLI

CHOOSE = f"--model.head={ROOT / 'configs/head/multiple_choice.yaml'}"


def only(folder: Path, pattern: str) -> Path:
    found = list(folder.rglob(pattern))
    assert len(found) == 1, found
    return found[0]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos, a my.jsonl with varying numbers of choices, and a finished run."""
    folder = tmp_path_factory.mktemp("choices")
    rows = write_photos(folder, images=40)
    for number, row in enumerate(rows):
        colors = [*COLORS, "mauve", "pink"][: 3 + number // 2 % 3]
        row["choices"] = ["yes", "no"] if row["answer"] in ("yes", "no") else colors
    my = write_rows(folder / "my.jsonl", rows)
    main(["fit", "-c", CONFIG, *small(folder, my, CHOOSE, "--trainer.max_epochs=20")])
    return folder


def test_one_s_own_file_is_trained_and_tested(own: Path) -> None:
    run = only(own, "checkpoints").parent
    overall, *_ = json.loads((run / "test.json").read_text())["results"]
    assert overall["questions"] == 8
    assert overall["accuracy"] > overall["question_only"], "it looks at the images"
    assert overall["ceiling"] == 1
    for line in lines(run / "test_predictions.jsonl"):
        assert line["answer"] in line["choices"]
        assert line["choices"] in (["yes", "no"],) or line["choices"][:3] == list(COLORS)
    assert read_checkpoint(run).answers == []
    assert {"yes", "mauve", "pink"} <= set(read_checkpoint(run).words)


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_the_checkpoint_is_used_again(own: Path, command: str, tmp_path: Path) -> None:
    run = only(own, "checkpoints").parent
    again = ["-c", str(run / "config.yaml"), f"--ckpt_path={run / 'checkpoints/best.ckpt'}"]
    main([command, *again, f"--run.folder={tmp_path}"])
    if command == "predict":
        written = lines(only(tmp_path, "predictions.jsonl"))
        tested = lines(run / "test_predictions.jsonl")
        assert [row["answer"] for row in written] == [row["answer"] for row in tested]
    else:
        names = {"validate": "validation.json", "test": "test.json"}
        assert only(tmp_path, names[command])


def test_asking_with_choices(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = only(own, "checkpoints").parent
    vqa = vlm.load(run)
    photo = own / "photos/0-0.png"
    choices = ["red", "green", "blue"]
    answer = vqa.answer(photo, "what color is it?", choices=choices)
    assert answer.text in choices
    assert sum(p for _, p in answer.top) == pytest.approx(1)
    assert {text for text, _ in answer.top} == set(choices)
    assert answer.warnings == ()
    turned = vqa.answer(photo, "what color is it?", choices=choices[::-1])
    assert dict(turned.top) == pytest.approx(dict(answer.top), abs=1e-5)
    lists = [choices, ["yes", "no"], ["red", "wherefore"]]
    questions = ["what color is it?", "is it red?", "what color is it?"]
    together = vqa.answer(photo, questions, choices=lists)
    for question, given, one in zip(questions, lists, together, strict=True):
        alone = vqa.answer(photo, question, choices=given)
        assert (alone.text, alone.warnings) == (one.text, one.warnings)
        assert alone.probability == pytest.approx(one.probability, abs=1e-5)
    assert "Unknown to the model in the choice 'wherefore': 'wherefore'." in together[2].warnings
    assert vqa.answer(photo, "is it?", top_k=1, choices=["yes", "no"]).top[1:] == []
    asked = ["ask", str(run), str(photo), "what color is it?", "--choices", *choices]
    main(asked)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3
    assert said[0].endswith(f"  {answer.text}")


def test_choices_that_are_the_same_to_the_model_are_warned_of(own: Path) -> None:
    vqa = vlm.load(only(own, "checkpoints").parent)
    photo = own / "photos/0-0.png"

    def warned(*choices: str) -> tuple[str, ...]:
        answer = vqa.answer(photo, "what color is it?", choices=choices)
        gaps = [one[1] - other[1] for one, other in pairwise(answer.top)]
        assert not answer.warnings or min(gaps) < 1e-6
        return answer.warnings

    same = "The model cannot tell these choices apart: "
    assert warned("red", "Red", "blue") == (f"{same}'red', 'Red'.",)
    assert warned("red blue", "green", "blue red") == (f"{same}'red blue', 'blue red'.",)
    assert warned("red blue", "red green") == ()
    vqa.model.text_encoder.tokenizer.max_length = 4
    long = ("red green blue red green", "red green blue red mauve")
    with pytest.warns(UserWarning, match="cut to 4 tokens"):
        said = warned(*long, "blue red")
    assert said == (
        *(f"Only the first 4 words of the choice {text!r} were read." for text in long),
        f"{same}{long[0]!r}, {long[1]!r}.",
    )


@pytest.mark.parametrize(
    ("question", "choices", "message"),
    [
        ("what?", None, "choices: got none, but this model picks from candidates"),
        ("what?", "red", "choices: got 'red'; expected a list of texts"),
        (
            "what?",
            ["red"],
            r"choices of question 1: got the choices \['red'\]; expected at least two",
        ),
        ("what?", ["red", ""], "choices of question 1: got an empty choice"),
        ("what?", ["red", "red"], "choices of question 1: got the choice 'red' twice"),
        ("what?", ["red", None], "choices of question 1: got the choice None; expected texts"),
        (["a?", "b?"], [["red", "blue"]], "choices: got 1 list for 2 questions"),
        (["a?", "b?"], ["red", "blue"], "choices: got .* expected such a list for each question"),
        (["a?"], [["red"]], "choices of question 1: got the choices"),
    ],
)
def test_choices_that_cannot_be_asked(own: Path, question: Any, choices: Any, message: str) -> None:
    vqa = vlm.load(only(own, "checkpoints").parent)
    with pytest.raises(ValueError, match=message):
        vqa.answer(Image.new("RGB", (8, 8)), question, choices=choices)


def test_choices_for_a_head_that_takes_none(run: Path, data: Path) -> None:
    image = data / "test/images/0.png"
    with pytest.raises(ValueError, match="choices: got some, but this model's head takes none"):
        vlm.load(run).answer(image, "is it red?", choices=["yes", "no"])
    with pytest.raises(SystemExit, match="vlm ask: choices: got some"):
        main(["ask", str(run), str(image), "is it red?", "--choices", "yes", "no"])


def test_a_checkpoint_keeps_the_words_of_choices(data: Path, tmp_path: Path) -> None:
    """Loading a checkpoint uses its vocabulary instead of counting the words again."""
    fit = [*small_run(data, tmp_path), CHOOSE, "--trainer.max_epochs=1", "--run.test=false"]
    cli = VQACLI(fit)
    assert {"teal", "yes"} <= set(cli.model.model.text_encoder.tokenizer.words)
    best = next(tmp_path.rglob("best.ckpt"))
    again = VQACLI(["validate", *fit[1:], f"--ckpt_path={best}"])
    words = [c.model.model.text_encoder.tokenizer.words for c in (cli, again)]
    assert words[0] == words[1]


TASKS = {
    "class_path": "vlm.heads.MultiTask",
    "init_args": {
        "heads": {
            "classify": {"class_path": "Classification", "init_args": {"loss": "ce"}},
            "choose": {"class_path": "vlm.heads.MultipleChoice"},
        },
        "answers_by": "classify",
        "weights": {"choose": 0.5},
    },
}


@pytest.fixture(scope="module")
def tasks(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two heads on the small data set."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "tasks.yaml").write_text(yaml.safe_dump(TASKS))
    head = f"--model.head={folder / 'tasks.yaml'}"
    return VQACLI([*small_run(data, folder), head, "--trainer.max_epochs=12"]).run_folder


def test_the_accuracy_of_each_head_is_reported(tasks: Path) -> None:
    report = json.loads((tasks / "test.json").read_text())
    summary = report["summary"]
    assert set(summary) == {"classify_accuracy", "choose_accuracy"}
    assert summary["classify_accuracy"] == pytest.approx(report["results"][0]["accuracy"])
    predictions = lines(tasks / "test_predictions.jsonl")
    for name in ("classify", "choose"):
        right = [row["by_head"][name] == row["answers"][0] for row in predictions]
        assert summary[f"{name}_accuracy"] == pytest.approx(sum(right) / len(right))
        assert sum(right) > 18, "each of them has learned"
    assert all(row["answer"] == row["by_head"]["classify"] for row in predictions)
    metrics = (tasks / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"val_choose_accuracy", "val_classify_accuracy", "test_choose_accuracy"} <= set(metrics)


def test_several_heads_are_loaded_and_asked(tasks: Path, data: Path, tmp_path: Path) -> None:
    vqa = vlm.load(tasks)
    image = data / "test/images/0.png"
    assert vqa.answer(image, "what color is it?").text in ("red", "green", "blue", "yes", "no")
    with pytest.raises(ValueError, match="choices: got some, but this model's head takes none"):
        vqa.answer(image, "what color is it?", choices=["red", "green"])  # "classify" answers
    assert read_checkpoint(tasks).answers == vqa.model.head.vocabulary.answers
    best = tasks / "checkpoints/best.ckpt"
    main(["test", f"-c={tasks / 'config.yaml'}", f"--ckpt_path={best}", f"--run.folder={tmp_path}"])
    again = lines(only(tmp_path, "test_predictions.jsonl"))
    assert again == lines(tasks / "test_predictions.jsonl")


def test_a_swap_inside_several_heads_is_another_model(
    tasks: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load((tasks / "config.yaml").read_text())
    heads = config["model"]["head"]["init_args"]["heads"]
    heads["classify"]["init_args"]["loss"] = "bce"
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(config))
    best = tasks / "checkpoints/best.ckpt"
    with pytest.raises(SystemExit):
        main(["test", f"-c={tmp_path / 'other.yaml'}", f"--ckpt_path={best}"])
    said = capsys.readouterr().err
    assert "head.heads.classify.loss: ce in the checkpoint, bce asked" in said


@pytest.mark.parametrize("answers_by", rest_slow(["classify", "choose"], "choose"))
def test_predicting_needs_the_choices_of_the_head_that_answers_alone(
    answers_by: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file without choices and with unknown answers works if the answering head needs neither."""
    rows = write_photos(tmp_path, images=12)
    for row in rows:
        row["choices"] = [*COLORS, "yes", "no"]
    # The third head could not rank these answers but is not used to predict.
    write = {
        "class_path": "vlm.heads.Generation",
        "init_args": {
            "decoder": {
                "class_path": "vlm.heads.TransformerDecoder",
                "init_args": {"dim": 8, "num_layers": 1, "feedforward_dim": 8, "max_length": 8},
            },
            "choose": True,
        },
    }
    heads = {**TASKS["init_args"]["heads"], "rank": write}
    arguments = {**TASKS["init_args"], "heads": heads, "answers_by": answers_by}
    (tmp_path / "head.yaml").write_text(yaml.safe_dump({**TASKS, "init_args": arguments}))
    my = write_rows(tmp_path / "my.jsonl", rows)
    fast = ("--trainer.max_epochs=1", f"--model.head={tmp_path / 'head.yaml'}", "--run.test=false")
    main(["fit", "-c", CONFIG, *small(tmp_path, my, *fast)])
    run = only(tmp_path, "checkpoints").parent
    asked = write_photos(tmp_path, images=3, seed=1)
    asked[1]["answer"] = asked[5]["answer"] = "an answer nobody could choose or write"
    test = write_rows(tmp_path / "asked.jsonl", asked)
    again = ["-c", str(run / "config.yaml"), f"--ckpt_path={run / 'checkpoints/best.ckpt'}"]
    predict = [
        "predict",
        *again,
        f"--dataset.test={test}",
        f"--run.folder={tmp_path / 'predicted'}",
    ]
    if answers_by == "choose":
        with pytest.raises(SystemExit):
            main(predict)
        assert "there are no choices, and the model's head picks" in capsys.readouterr().err
        return
    main(predict)
    written = lines(only(tmp_path / "predicted", "predictions.jsonl"))
    assert len(written) == 6
    vqa = vlm.load(run)
    for row, line in zip(asked, written, strict=True):
        assert (
            line["answer"] == vqa.answer(tmp_path / "photos" / row["image"], row["question"]).text
        )
        assert line["by_head"] == {"classify": line["answer"]}
        assert "choices" not in line
