"""How the page and the API handle models, images and questions, without Gradio."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from demo_server import file_of, untrained
from PIL import Image

import vlm
from vlm.demo import view
from vlm.demo.asker import IMAGES_KEPT, Asker
from vlm.demo.examples import EXAMPLES, examples_for, world_of
from vlm.demo.facts import facts_of, kinds_of
from vlm.demo.reply import agreement, differing, doubts
from vlm.explain import METHODS
from vlm.inference import VQA, Answer
from vlm.serve.questions import MAX_QUESTION
from vlm.text import BagOfWords

IMAGE = file_of(Image.new("RGB", (40, 20), (200, 30, 30)))
QUESTION = "what color is it?"
CHOICES = ["red", "green", "the blue"]


@pytest.fixture
def asker() -> Asker:
    kinds = ("vocabulary", "choices", "text")
    return Asker({kind: VQA(untrained(kind)) for kind in kinds})


def test_every_kind_of_head_answers(asker: Asker) -> None:
    replies = asker.ask(IMAGE, QUESTION, list(asker.models), CHOICES)
    assert [asker.kind(reply.model) for reply in replies] == ["vocabulary", "choices", "text"]
    vocabulary, chosen, written = replies
    assert vocabulary.answer == asker.models["vocabulary"].answer(
        Image.new("RGB", (40, 20), (200, 30, 30)), QUESTION
    )
    assert chosen.answer.text in CHOICES
    assert written.answer.text == "o"
    assert sum(p for _, p in chosen.answer.top) == pytest.approx(1, abs=1e-5)
    assert "of its own" in vocabulary.scale
    assert "among the choices" in chosen.scale
    assert "exactly this" in written.scale
    assert all("Not calibrated" in reply.scale for reply in replies)


def test_an_image_is_encoded_once_for_all_its_questions(asker: Asker) -> None:
    seen = []
    encoder = asker.models["vocabulary"].model.image_encoder
    encoder.register_forward_hook(lambda *_: seen.append(1))
    for question in (QUESTION, "is it red?", "is it blue?"):
        asker.ask(IMAGE, question, ["vocabulary"])
    assert len(seen) == 1
    for shade in range(IMAGES_KEPT):
        asker.look(file_of(Image.new("RGB", (9, 9), (shade, 0, 0))), ["vocabulary"])
    asker.ask(IMAGE, QUESTION, ["vocabulary"])  # dropped from the cache and encoded again
    assert len(seen) == IMAGES_KEPT + 2
    assert len(asker._looks) == IMAGES_KEPT


def test_what_is_asked_is_checked(asker: Asker) -> None:
    def ask(question: str, name: str = "vocabulary", choices: tuple[str, ...] = ()) -> None:
        asker.ask(IMAGE, question, [name], choices)

    with pytest.raises(ValueError, match="empty"):
        ask("  \n")
    with pytest.raises(ValueError, match="10,000 characters; at most 500"):
        ask("x" * 10_000)
    ask("x" * MAX_QUESTION)
    with pytest.raises(ValueError, match="got 1"):
        ask(QUESTION, "choices", ("red",))
    with pytest.raises(ValueError, match="got the choice 'red' twice"):
        ask(QUESTION, "choices", ("red", "red"))
    with pytest.raises(ValueError, match="201 characters"):
        ask(QUESTION, "choices", ("red", "x" * 201))
    with pytest.raises(ValueError, match=r"models: got \['other'\]"):
        ask(QUESTION, "other")
    with pytest.raises(ValueError, match=r"expected some of .*, each once"):
        asker.ask(IMAGE, QUESTION, ["text", "text"])
    reply = asker.ask(IMAGE, QUESTION, ["text"])[0]
    with pytest.raises(ValueError, match="method: got 'guess'"):
        asker.explain(IMAGE, QUESTION, reply, "guess")
    with pytest.raises(ValueError, match="models: got none"):
        Asker({})


@pytest.mark.parametrize("kind", ["vocabulary", "choices", "text"])
def test_replies_are_explained_and_become_json(asker: Asker, kind: str) -> None:
    reply = asker.ask(IMAGE, QUESTION, [kind], CHOICES)[0]
    explained = asker.explain(IMAGE, QUESTION, reply, "grad_cam", CHOICES)
    data = json.loads(json.dumps(explained.as_dict()))
    assert data["explanation"]["words"] == ["what", "color", "is", "it"]
    assert data["explanation"]["answer"] == data["answer"] == reply.answer.text
    assert data["explanation"]["image_size"] == [40, 20]
    assert len(data["explanation"]["patches"]) == 8 * 8
    assert data["calibrated"] is False


def test_a_calibrated_model_abstains_where_the_risk_is_too_high() -> None:
    thresholds = [[0.01, None, 0.0, "few"], [0.05, 1.0, 0.1, ""]]
    about = {"method": "platt", "scale": 0.1, "questions": 7, "thresholds": thresholds}
    model = untrained("vocabulary")
    asker = Asker({"it": VQA(model, {"calibration": about})})
    assert asker.least_risk == 0.05
    assert Asker({"it": VQA(model)}).least_risk is None
    (reply,) = asker.ask(IMAGE, QUESTION, ["it"], max_risk=0.05)
    data = reply.as_dict()
    assert (data["answer"], data["abstains"], data["calibrated"]) == ("I don't know", True, True)
    assert "Calibrated on 7 validation questions" in reply.scale
    assert agreement([reply, reply]) is None
    explained = asker.explain(IMAGE, QUESTION, reply, "grad_cam").explanation
    assert explained is not None
    assert explained.answer == reply.answer.top[0][0]
    (reply,) = asker.ask(IMAGE, QUESTION, ["it"])
    assert reply.answer.text == reply.answer.top[0][0]
    with pytest.raises(ValueError, match=r"max_risk: got 0\.01"):
        asker.ask(IMAGE, QUESTION, ["it"], max_risk=0.01)


def test_a_method_that_does_not_fit_is_a_note(asker: Asker) -> None:
    assert set(asker.methods) <= set(METHODS)
    reply = asker.ask(IMAGE, QUESTION, ["text"])[0]
    explained = asker.explain(IMAGE, QUESTION, reply, "attention")
    assert explained.explanation is None
    assert "No reasons: " in explained.notes[-1]


def test_an_answer_that_never_ended_has_no_reasons(asker: Asker) -> None:
    reply = asker.ask(IMAGE, QUESTION, ["text"])[0]
    cut = replace(reply, answer=Answer("on and on…", 0.1, [("on and on…", 0.1)]))
    assert "never ended" in asker.explain(IMAGE, QUESTION, cut, "grad_cam").notes[-1]


def test_doubts_are_said() -> None:
    assert doubts(Answer("red", 0.9, [("red", 0.9), ("blue", 0.1)])) == []
    assert "unsure" in doubts(Answer("red", 0.3, [("red", 0.3), ("blue", 0.1)]))[0]
    assert "close call" in doubts(Answer("red", 0.9, [("red", 0.9), ("blue", 0.8)]))[0].lower()


def test_unknown_words_are_said(asker: Asker) -> None:
    reply = asker.ask(IMAGE, "what quixotic color is it?", ["vocabulary"])[0]
    assert "'quixotic' is unknown" in reply.warnings[0]
    assert (reply.standing, reply.headline) == ("not sure", "Not sure")
    assert "'quixotic' is unknown" in reply.as_dict()["notes"][0]
    assert reply.as_dict()["sure"] is False


@pytest.mark.parametrize("question", ["wie spät ist es jetzt?", "क्या यह लाल है?", "???"])
def test_a_question_beyond_the_models_has_no_answer(asker: Asker, question: str) -> None:
    replies = asker.ask(IMAGE, question, list(asker.models), CHOICES)
    assert agreement(replies) is None
    for reply in replies:
        said = reply.as_dict()
        assert (said["answer"], said["probability"], said["top"]) == (None, None, [])
        assert said["guess"] == reply.answer.text
        assert any("The answer is a guess." in note for note in said["notes"])
        assert asker.explain(IMAGE, question, reply, "occlusion", CHOICES) is reply
    html = view.results(replies)
    assert html.count("This question is beyond the model") == 3
    assert "vlm-answer" not in html
    assert "%" not in html.replace("100%", "")
    assert asker.ask(IMAGE, QUESTION, ["text"])[0].as_dict()["guess"] is None


def test_models_agree_or_differ(asker: Asker) -> None:
    replies = asker.ask(IMAGE, QUESTION, ["vocabulary", "text"])
    assert agreement(replies[:1]) is None
    assert agreement([replies[0], replies[0]]) is True
    assert agreement(replies) is False


def test_no_text_of_others_becomes_html() -> None:
    evil = "<img src=x onerror=alert(1)>"
    vqa = VQA(untrained("choices"))
    asker = Asker({evil: vqa})
    replies = asker.ask(IMAGE, f"what {evil} it?", [evil], [evil, "red"])
    explained = [asker.explain(IMAGE, f"what {evil} it?", r, "occlusion", [evil]) for r in replies]
    html = view.results(explained) + "".join(view.reasons(r, None) for r in explained)
    html += view.facts(evil, vqa) + view.failure(evil) + view.hint(evil)
    assert "<img src=x" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html


def test_a_model_of_one_s_own_data_is_only_asked_what_it_can_read() -> None:
    own = VQA(untrained())
    own.about["data"] = "vlm.datasets.custom.CustomDataset"
    assert examples_for([own]) == []
    assert {e.world for e in examples_for([own, vlm.load("scenes")])} == {"scenes"}
    own.model.text_encoder.tokenizer = BagOfWords(["is", "it", "day", "or", "night"]).tokenizer
    assert [e.question for e in examples_for([own])] == ["Is it day or night?"]
    assert any("its maker's own" in fact for fact in facts_of(own))


def test_the_gallery_has_images_of_the_model_s_world(run: Path) -> None:
    trained = vlm.load(run)
    assert world_of(trained) == "shapes"
    shapes = examples_for([trained])
    assert len(shapes) >= 6
    assert {e.world for e in shapes} == {"shapes"}
    assert {e.world for e in examples_for([vlm.load("scenes")])} == {"scenes"}
    photos = examples_for([VQA(untrained())])
    assert {e.world for e in photos} == {"photos"}
    assert len(photos) >= 5
    assert all(e.licence and e.shows for e in EXAMPLES)
    assert "site-packages" not in "".join(
        view.example(e, kind, "x") for kind in kinds_of(trained) for e in kind.examples
    )


def test_a_seen_image_gives_the_same_answers(run: Path, data: Path) -> None:
    vqa = vlm.load(run)
    path = data / "test/images/1.png"
    seen = vqa.see(path)
    for question in (QUESTION, "is it red?"):
        assert vqa.answer(seen, question) == vqa.answer(path, question)
    several = vqa.answer(seen, [QUESTION, "is it red?"])
    assert [a.text for a in several] == [vqa.answer(path, q).text for q in (QUESTION, "is it red?")]


def test_each_model_reads_a_dark_image_by_its_own_white_level() -> None:
    plain, model = VQA(untrained("vocabulary")), untrained("vocabulary")
    transform = replace(model.image_encoder.transform, white_level=4095)
    model.image_encoder.transform = transform
    deep = VQA(model)
    dark = np.full((8, 8), 3000, dtype=np.uint16)
    asker = Asker({"plain": plain, "deep": deep})
    look = asker.look(file_of(Image.fromarray(dark), "PNG"), ["plain", "deep"])
    levels = [look.seen[name].images.flatten()[0].item() for name in ("plain", "deep")]
    assert levels == [3000 * 255 // 65535, 3000 * 255 // 4095]


def test_going_back_to_a_method_computes_nothing(
    asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = asker.ask(IMAGE, QUESTION, ["vocabulary"])[0]
    first = asker.explain(IMAGE, QUESTION, reply, "grad_cam").explanation
    asker.explain(IMAGE, QUESTION, reply, "occlusion")
    monkeypatch.setattr("vlm.demo.asker.explain_case", None)
    assert asker.explain(IMAGE, QUESTION, reply, "grad_cam").explanation is first
    with pytest.raises(TypeError):
        asker.explain(IMAGE, "is it red?", reply, "grad_cam")


def test_what_a_model_can_be_asked() -> None:
    scenes = vlm.load("scenes")
    facts = " ".join(facts_of(scenes))
    assert "96.7 % of 29,700 test questions correctly" in facts
    assert "six colored circles" in facts
    assert "calibrated on 6,600" in facts
    kinds = {kind.name: kind for kind in kinds_of(scenes)}
    assert kinds["furthest"].accuracy == pytest.approx(0.9022, abs=1e-4)
    assert len(kinds) == 12
    for kind in kinds.values():  # each question can be asked: no word of it is unknown
        for example in kind.examples:
            answer = scenes.answer(example.path, example.question)
            assert answer.warnings == (), example.question
        assert kind.examples, kind.name
    facts = " ".join(facts_of(VQA(untrained("text"))))
    assert "does not say what it was trained on" in facts
    assert "Its accuracy is not known" in facts
    assert "not calibrated" in facts
    row = {"type": "overall", "questions": 3, "accuracy": 0.5}
    assert "50.0 % of 3" in " ".join(facts_of(VQA(untrained(), {"results": [row]})))
    for strange in (
        *({"accuracy": value} for value in ("high", None, True, math.nan)),
        *({"questions": value} for value in (True, -5, 2.5)),
        *({"low": "no"}, {"high": 1.5}, {"over": {}}, {"type": 3}),
    ):
        with pytest.raises(ValueError, match="results: got"):
            facts_of(VQA(untrained(), {"results": [row | strange]}))


def test_an_example_of_another_world_is_no_headline() -> None:
    asker = Asker({name: vlm.load(name) for name in ("scenes", "easy_vqa")})
    shape = next(e for e in EXAMPLES if e.question == "Is there a circle?").read()
    of_scenes, of_shapes = asker.ask(shape, "Is there a circle that is red?", list(asker.models))
    assert (of_scenes.standing, of_shapes.standing) == ("not sure", "not sure")
    assert "of another kind" in of_scenes.warnings[0]
    assert asker.ask(shape, "Is there a circle?", ["easy_vqa"])[0].standing == "answer"


def test_words_that_differ_are_marked() -> None:
    assert differing("a red car", ["a red bus", "a red car"]) == [
        ("a", False), ("red", False), ("car", True),
    ]  # fmt: skip


def test_several_images_are_asked_about_together() -> None:
    torch.manual_seed(0)
    model = untrained()
    model.fusion.take_images(2)
    assert model.fusion.image_numbers is not None
    torch.nn.init.normal_(model.fusion.image_numbers)
    vqa = VQA(model)
    asker = Asker({"it": vqa})
    blue = Image.new("RGB", (20, 40), (0, 0, 200))
    (reply,) = asker.ask(IMAGE, QUESTION, ["it"], others=[file_of(blue)])
    red = Image.new("RGB", (40, 20), (200, 30, 30))
    assert reply.answer == vqa.answer([red, blue], QUESTION)
    assert reply.answer != vqa.answer(red, QUESTION)
    shown = asker.look(IMAGE, ["it"], [file_of(blue)]).shown
    assert shown.size == (60, 40), "side by side"
    assert shown.getpixel((50, 30)) == (0, 0, 200)
    explained = asker.explain(IMAGE, QUESTION, reply, "occlusion", others=[file_of(blue)])
    assert explained.explanation is None
    assert "a map is of one image" in explained.notes[-1]
    with pytest.raises(ValueError, match="got 3 for a question; this model takes 1 to 2"):
        asker.ask(IMAGE, QUESTION, ["it"], others=[IMAGE, IMAGE])
    with pytest.raises(ValueError, match="got 2 for a question; this model takes one"):
        Asker({"one": VQA(untrained())}).ask(IMAGE, QUESTION, ["one"], others=[IMAGE])


def test_images_that_are_kept_at_full_size_are_few(
    asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [file_of(Image.new("RGB", (40, 20 + number))) for number in range(5)]
    asker.look(files[0], ["vocabulary"])
    (look,) = asker._looks.values()
    of_one = look.seen["vocabulary"].nbytes
    monkeypatch.setattr("vlm.demo.asker.BYTES_KEPT", 2.5 * of_one)
    for file in files:
        asker.look(file, ["vocabulary"])
    assert len(asker._looks) == 2


def test_images_of_a_question_are_limited_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model = untrained()
    model.fusion.take_images(4)
    asker = Asker({"model": VQA(model)})
    monkeypatch.setattr("vlm.demo.asker.PIXELS_TOGETHER", 2 * 40 * 20)
    asker.look(IMAGE, ["model"], [IMAGE])
    with pytest.raises(ValueError, match=r"more than .* million pixels together"):
        asker.look(IMAGE, ["model"], [IMAGE, IMAGE])


def test_what_keeps_reasons_away_is_said_and_nothing_else(asker: Asker) -> None:
    (reply,) = asker.ask(IMAGE, QUESTION, ["vocabulary"])
    noted = replace(reply, notes=("It is animated.",))
    assert noted.why_no_reasons == "Not asked for."
    (explained,) = [asker.explain(IMAGE, QUESTION, noted, "occlusion", others=[IMAGE])]
    assert explained.why_no_reasons.startswith("No reasons: a map is of one image")
    assert explained.why_no_reasons in view.reasons(explained, None)
