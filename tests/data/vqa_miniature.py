"""Miniatures in the official layouts of the VQA family, with made-up content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from conftest import COLORS
from PIL import Image

Record = dict[str, Any]
PHOTOS = {"train2014": 9, "val2014": 5, "test2015": 3, "test-dev2015": 3}


def question(image: int, number: int, text: str = "what color is it?") -> Record:
    return {"image_id": image, "question": text, "question_id": image * 1000 + number}


def annotation(asked: Record, answers: list[str], **changes: Any) -> Record:
    given = [
        {"answer": answer, "answer_confidence": "yes", "answer_id": number}
        for number, answer in enumerate(answers, start=1)
    ]
    most = max(answers, key=answers.count) if answers else ""
    content = {
        "question_type": "what color is",
        "multiple_choice_answer": most,
        "answers": given,
        "image_id": asked["image_id"],
        "answer_type": "other",
        "question_id": asked["question_id"],
    }
    return content | changes


def save(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def color_of(image: int) -> str:
    return list(COLORS)[image % 3]


def asked_and_answered(part: str) -> tuple[list[Record], list[Record]]:
    """Two questions about each photo of a part of COCO; eight of ten annotators agree."""
    first = {"train2014": 100, "val2014": 200}.get(part, 300)
    questions, annotations = [], []
    for image in range(first, first + PHOTOS[part]):
        color = color_of(image)
        questions += [question(image, 0), question(image, 1, "is it red?")]
        said = "yes" if color == "red" else "no"
        annotations += [
            annotation(questions[-2], [color] * 8 + ["dark", "two"]),
            annotation(
                questions[-1],
                [said] * 8 + ["maybe"] * 2,
                answer_type="yes/no",
                question_type="is it",
            ),
        ]
    return questions, annotations


def write_mscoco(
    root: Path,
    parts: tuple[str, ...] = tuple(PHOTOS),
    prefix: str = "v2_",
    folders: tuple[str, str] = (".", "."),
    photos: bool = False,
) -> Path:
    """Writes the files of VQA, or of a set with the same layout."""
    for part in parts:
        questions, annotations = asked_and_answered(part)
        head = {"info": {"version": "1"}, "data_type": "mscoco", "data_subtype": part}
        save(
            root / folders[0] / f"{prefix}OpenEnded_mscoco_{part}_questions.json",
            head | {"task_type": "Open-Ended", "questions": questions, "license": {}},
        )
        if not part.startswith("test"):
            save(
                root / folders[1] / f"{prefix}mscoco_{part}_annotations.json",
                # Reversed, because questions and annotations are joined by id.
                head | {"annotations": annotations[::-1]},
            )
        if photos:
            place = "test2015" if part.startswith("test") else part
            (root / place).mkdir(exist_ok=True)
            for image in {record["image_id"] for record in questions}:
                picture = Image.new("RGB", (64, 64), COLORS[color_of(image)])
                picture.save(root / place / f"COCO_{place}_{image:012d}.jpg")
    return root


def write_vqa_cp(root: Path, version: str = "v2") -> Path:
    for split, part in (("train", "val2014"), ("test", "train2014")):
        questions, annotations = asked_and_answered(part)
        for record in questions + annotations:
            record["coco_split"] = part
        save(root / f"vqacp_{version}_{split}_questions.json", questions)
        save(root / f"vqacp_{version}_{split}_annotations.json", annotations)
    return root


def write_a_okvqa(root: Path) -> Path:
    for part in ("train", "val", "test"):
        rows = []
        for number in range(4):
            row = {
                "split": part,
                "image_id": 10 + number,
                "question_id": f"{part}Key{number}",
                "question": "what is it for?",
                "choices": ["rain", "sun", "snow", "wind"],
            }
            if part != "test":
                row |= {
                    "correct_choice_idx": number,
                    "direct_answers": ["rain"] * 3 + ["rain "] + ["Wind"] * 6,
                    "difficult_direct_answer": number == 2,
                    "rationales": ["because"] * 3,
                }
            rows.append(row)
        save(root / f"aokvqa_v1p0_{part}.json", rows)
    return root


def write_vizwiz(root: Path, folder: str = "Annotations") -> Path:
    said = {
        "other": ["soup"] * 9 + ["unanswerable"],
        "yes/no": ["yes"] * 10,
        "unanswerable": ["unanswerable"] * 8 + ["soup"] * 2,
    }
    for part in ("train", "val", "test"):
        rows = []
        for number, (kind, answers) in enumerate(said.items()):
            row: Record = {"image": f"VizWiz_{part}_{number:08d}.jpg", "question": "What is it?"}
            if part != "test":
                given = [{"answer": a, "answer_confidence": "maybe"} for a in answers]
                row |= {
                    "answers": given,
                    "answer_type": kind,
                    "answerable": int(kind != "unanswerable"),
                }
            rows.append(row)
        save(root / folder / f"{part}.json", rows)
    return root


def write_text_vqa(root: Path) -> Path:
    for part in ("train", "val", "test"):
        rows = []
        for number in range(3):
            row = {
                "question": "what does it say?",
                "image_id": f"{part}0aff{number}",
                "question_id": 34_000 + number,
                "question_tokens": ["what", "does", "it", "say"],
                "set_name": part,
            }
            if part != "test":
                row["answers"] = ["stop"] * 7 + ["halt", "stop now", "no"]
            rows.append(row)
        content = {"dataset_name": "textvqa", "dataset_version": "0.5.1", "data": rows}
        save(root / f"TextVQA_0.5.1_{part}.json", content)
    return root


def write_tdiuc(root: Path) -> Path:
    """Writes three question types with one answer each, and one second answer that is ignored."""
    for part, number in (("train2014", 6), ("val2014", 6)):
        questions, annotations = [], []
        types = ["color", "counting", "absurd"]
        answers = {"color": "red", "counting": "2", "absurd": "doesnotapply"}
        for image in range(number):
            kind = types[image % 3]
            questions.append(question(image, 0, f"a question of {kind}?"))
            known = annotation(questions[-1], [answers[kind]], question_type=kind)
            del known["answer_type"], known["multiple_choice_answer"]
            annotations.append(known | {"ans_source": "generation"})
        annotations[0]["answers"].append({"answer": "scarlet", "answer_id": 2})
        save(root / f"Questions/OpenEnded_mscoco_{part}_questions.json", {"questions": questions})
        save(root / f"Annotations/mscoco_{part}_annotations.json", {"annotations": annotations})
    return root
