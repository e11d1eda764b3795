"""What a model can be asked, as its checkpoint knows it: its data, its accuracy, its answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from vlm.adapters.image_text_to_text import ImageTextToText
from vlm.checkpoint.publishing import published_in
from vlm.demo.examples import WORDS, Example, data_of, examples_for, world_of
from vlm.heads.multi_task import answering
from vlm.inference import VQA

ANSWERS = 24
"""Answers that are listed."""


class Kind(NamedTuple):
    """A kind of question.

    Attributes:
        name: its type in the data set.
        accuracy: share of its test questions that were answered right; None if it is not known.
        examples: questions of this kind, with their images.
    """

    name: str
    accuracy: float | None
    examples: list[Example]


def kinds_of(vqa: VQA | ImageTextToText) -> list[Kind]:
    """The kinds of questions that a model was tested on, and those of its examples."""
    examples = examples_for([vqa])
    tested = {row["type"]: float(row["accuracy"]) for row in published_in(vqa.about)[1:]}
    names = dict.fromkeys([*tested, *(example.kind for example in examples)])
    return [
        Kind(name, tested.get(name), [example for example in examples if example.kind == name])
        for name in names
    ]


def facts_of(vqa: VQA | ImageTextToText) -> list[str]:
    """What is known about a model, a sentence each, for people who want to ask it."""
    known, data = published_in(vqa.about), data_of(vqa)
    world = WORDS.get(world_of(vqa))
    facts = []
    if world:
        facts.append(f"It was trained on {world} (the data set {data}).")
    elif data == "CustomDataset":
        facts.append("It was trained on a data set of its maker's own.")
    elif data:
        facts.append(f"It was trained on the data set {data}.")
    else:
        facts.append("Its checkpoint does not say what it was trained on.")
    if known:
        overall = known[0]
        facts.append(
            f"It answered {100 * overall['accuracy']:.1f} % of {overall['questions']:,} test "
            f"questions correctly{_beside(overall)}."
        )
    else:
        facts.append("Its accuracy is not known: there is no test report.")
    facts.append(_answers(vqa))
    facts.append(
        f"Its probabilities are {vqa.calibration.about}."
        if vqa.calibration
        else "Its probabilities are not calibrated: 90 % does not mean right nine times in ten."
    )
    facts.append(
        "It cannot tell when an image is of another kind; what it then says means nothing."
    )
    return facts


def _beside(row: Mapping[str, Any]) -> str:
    usual = row.get("majority")
    if not isinstance(usual, (int, float)):
        return ""
    return f"; always giving the most frequent answer gets {100 * usual:.1f} %"


def _answers(vqa: VQA | ImageTextToText) -> str:
    if isinstance(vqa, ImageTextToText):
        return "It writes its answers, or picks one of the choices that you give it."
    head, tokenizer = answering(vqa.model.head), vqa.model.text_encoder.tokenizer
    reads = f"reads {tokenizer.vocab_size:,} words or pieces of words"
    if vqa.kind == "choices":
        return f"It picks one of the choices that you give it, and {reads}."
    if head.vocabulary is None:
        return f"It writes its answers, and {reads}."
    answers = list(head.vocabulary.answers)
    more = f", and {len(answers) - ANSWERS:,} more" if len(answers) > ANSWERS else ""
    return f"It {reads}, and gives one of these answers: {', '.join(answers[:ANSWERS])}{more}."
