"""A submission file has every question once, in the original order, under its own id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from vqa_miniature import save, write_a_okvqa, write_mscoco, write_text_vqa, write_vizwiz

from vlm.cli.commands.submit import submission
from vlm.cli.main import main

TEST_DEV = "v2_OpenEnded_mscoco_test-dev2015_questions.json"


def predictions(folder: Path, answers: list[tuple[Any, Any]]) -> Path:
    path = folder / "predictions.jsonl"
    lines = [json.dumps({"id": key, "answer": a, "probability": 0.5}) for key, a in answers]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = write_mscoco(tmp_path, ("test-dev2015",)) / TEST_DEV
    content = json.loads(path.read_text())
    content["questions"].reverse()
    return save(path, content)


IDS = [302001, 302000, 301001, 301000, 300001, 300000]
ANSWERS = [(str(key), f"answer {key}") for key in sorted(IDS)]


def test_answers_stand_in_the_order_of_the_questions(
    questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = predictions(tmp_path, ANSWERS)
    main(["submit", str(path), str(questions)])
    written = json.loads((tmp_path / "submission.json").read_text())
    assert written == [{"question_id": key, "answer": f"answer {key}"} for key in IDS]
    assert f"Wrote 6 answers to {tmp_path / 'submission.json'}" in capsys.readouterr().out
    main(["submit", str(path), str(questions), f"--out={tmp_path / 'other.json'}"])
    assert json.loads((tmp_path / "other.json").read_text()) == written


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (ANSWERS[2:], "2 questions without an answer (first ids 300001, 300000)"),
        ([*ANSWERS, ("9", "x")], "1 answer to no question of the file (first ids 9)"),
        ([*ANSWERS, ANSWERS[3]], "1 question answered twice (first ids 301001)"),
        ([*ANSWERS[1:], ("7", "x")], "without an answer (first ids 300000); 1 answer to no"),
        ([*ANSWERS[1:], (300000, "x")], "line 6: expected an 'id' and an 'answer'"),
        ([*ANSWERS[1:], ("300000", None)], "line 6: expected an 'id' and an 'answer'"),
    ],
)
def test_what_does_not_fit_is_an_error(
    answers: list[tuple[Any, Any]],
    message: str,
    questions: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["submit", str(predictions(tmp_path, answers)), str(questions)])
    assert message in str(stopped.value.code)
    assert str(stopped.value.code).startswith("vlm submit: ")
    assert not (tmp_path / "submission.json").exists()


def test_vizwiz_and_text_vqa_have_their_own_ids(tmp_path: Path) -> None:
    names = [f"VizWiz_test_{number:08d}.jpg" for number in range(3)]
    path = predictions(tmp_path, [(name, "soup") for name in reversed(names)])
    test = write_vizwiz(tmp_path) / "Annotations/test.json"
    assert submission(path, test) == [{"image": name, "answer": "soup"} for name in names]

    path = predictions(tmp_path, [(f"{34_000 + n}", "stop") for n in range(3)])
    test = write_text_vqa(tmp_path) / "TextVQA_0.5.1_test.json"
    wanted = [{"question_id": 34_000 + n, "answer": "stop"} for n in range(3)]
    assert submission(path, test) == wanted


@pytest.mark.parametrize("content", [{"rows": []}, [], [3], {"questions": [{"id": 3}]}])
def test_a_file_of_another_form_is_refused(content: Any, tmp_path: Path) -> None:
    path = save(tmp_path / "questions.json", content)
    with pytest.raises(ValueError, match=r"questions\.json: not a file of test questions that"):
        submission(predictions(tmp_path, ANSWERS), path)


@pytest.mark.parametrize("choices", [None, ["rain", "sun"], ["sun", "snow"]])
def test_a_okvqa_wants_an_object_by_id(choices: list[str] | None, tmp_path: Path) -> None:
    """The file states the setting: multiple choice if the model picked from the choices."""
    test = write_a_okvqa(tmp_path) / "aokvqa_v1p0_test.json"
    content = json.loads(test.read_text())
    save(test, [content[number] for number in (2, 0, 3, 1)])
    path = tmp_path / "predictions.jsonl"
    rows = [{"id": f"testKey{n}", "answer": "rain"} for n in range(4)]
    if choices:
        rows = [row | {"choices": ["rain", "sun"]} for row in rows]
        rows[3] |= {"choices": choices}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(["submit", str(path), str(test)])
    setting = "multiple_choice" if choices == ["rain", "sun"] else "direct_answer"
    written = json.loads((tmp_path / "submission.json").read_text())
    assert written == {f"testKey{n}": {setting: "rain"} for n in (2, 0, 3, 1)}
    assert list(written) == [f"testKey{n}" for n in (2, 0, 3, 1)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    with pytest.raises(ValueError, match=r"1 question without an answer \(first ids testKey0\)"):
        submission(path, test)


def test_gqa_names_ids_and_answers_its_own_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {f"20{n}": {"imageId": "n5", "question": "Who?", "isBalanced": True} for n in "312"}
    test = save(tmp_path / "submission_all_questions.json", asked)
    path = predictions(tmp_path, [(f"20{n}", f"cat {n}") for n in "123"])
    main(["submit", str(path), str(test)])
    wanted = [{"questionId": f"20{n}", "prediction": f"cat {n}"} for n in "312"]
    assert json.loads((tmp_path / "submission.json").read_text()) == wanted
    with pytest.raises(ValueError, match=r"1 question without an answer \(first ids 203\)"):
        submission(predictions(tmp_path, [("201", "cat"), ("202", "dog")]), test)


def test_clevr_wants_a_line_for_each_answer(tmp_path: Path) -> None:
    asked = [
        {"question_index": n, "image_filename": f"{n}.png", "question": "?"} for n in (2, 0, 1)
    ]
    test = save(tmp_path / "CLEVR_test_questions.json", {"info": {}, "questions": asked})
    path = predictions(tmp_path, [("0", "yes\nit is"), ("1", "metal"), ("2", "10")])
    main(["submit", str(path), str(test)])
    assert (tmp_path / "submission.txt").read_text() == "10\nyes it is\nmetal\n"
    main(["submit", str(path), str(test), f"--out={tmp_path / 'new' / 'lines.txt'}"])
    assert (tmp_path / "new/lines.txt").is_file()
    with pytest.raises(SystemExit, match=r"vlm submit: .*Is a directory"):
        main(["submit", str(path), str(test), f"--out={tmp_path}"])


def test_a_question_that_stands_twice_is_an_error(questions: Path, tmp_path: Path) -> None:
    content = json.loads(questions.read_text())
    content["questions"].append(content["questions"][0])
    save(questions, content)
    with pytest.raises(ValueError, match="got the same question_id more than once"):
        submission(predictions(tmp_path, ANSWERS), questions)
