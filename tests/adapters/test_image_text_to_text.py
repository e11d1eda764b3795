"""Models of eight architectures, asked as they are, answer as transformers' own calls do."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_vlms import CHAT, MODELS, vlm_folder
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import vlm
from vlm.adapters import ImageTextToText
from vlm.adapters.prompts import PROMPT, PROMPTS
from vlm.checkpoint.checkpoint import CheckpointError
from vlm.explain import explain

QUESTIONS = ["what color is the cat", "is it", "what a dog answers the question using a word"]
SIZES = [(60, 60), (200, 90), (40, 100)]
CHOICES = [["red", "green dog"], ["yes", "no", "blue"], ["a", "cat"]]
TOKENS = 6


def image(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


IMAGES = [image(*size) for size in SIZES]
Folders = Callable[[str], Path]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    root = tmp_path_factory.mktemp("vlms")
    return cache(lambda kind: vlm_folder(root / kind, kind))


def loaded(folder: Path, **options: Any) -> ImageTextToText:
    vqa = vlm.load(folder)
    assert isinstance(vqa, ImageTextToText)
    vqa.model.generation_config.repetition_penalty = 5.0  # a published one, which is not asked for
    return ImageTextToText(vqa.model, vqa.processor, **{"max_tokens": TOKENS, **options})


@pytest.fixture(params=MODELS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def theirs(folder: Path, kind: str, image: Image.Image, question: str) -> tuple[Any, Any, Any]:
    """transformers' model, tokenizer and inputs for one question, by its own documentation."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    prompt = PROMPTS.get(kind, PROMPT).replace("{question}", question)
    if kind == "paligemma":
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # its own
            inputs = processor(images=image, text="<image>" + prompt, return_tensors="pt")
        del inputs["labels"]
    else:
        parts = [{"type": "image", "image": image}, {"type": "text", "text": prompt}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=True,
            return_dict=True, return_tensors="pt",
        )  # fmt: skip
    return model, processor.tokenizer, inputs


def test_answers_and_probabilities_are_transformers_own(kind: str, folders: Folders) -> None:
    found = loaded(folders(kind)).answer(IMAGES, QUESTIONS)
    for row, answer in enumerate(found):
        model, tokenizer, inputs = theirs(folders(kind), kind, IMAGES[row], QUESTIONS[row])
        made = model.generate(
            **inputs, max_new_tokens=TOKENS, do_sample=False, temperature=None, top_p=None,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        written = made.sequences[:, inputs["input_ids"].shape[1] :]
        text = tokenizer.decode(written[0], skip_special_tokens=True).strip()
        assert answer.text.removesuffix("…") == text
        scores = model.compute_transition_scores(written, made.logits, normalize_logits=True)
        assert np.log(answer.probability) == pytest.approx(scores.sum().item(), abs=1e-3)
        assert not answer.calibrated
        assert answer.top == [(answer.text, answer.probability)]


def test_several_images_are_one_question_s(kind: str, folders: Folders) -> None:
    vqa = loaded(folders(kind))
    given: list[Any] = [IMAGES[0], IMAGES[1:], IMAGES[:2]]
    together = vqa.answer(given, QUESTIONS)
    seen = vqa.answer(vqa.see(given), QUESTIONS)
    for image, question, answer, other in zip(given, QUESTIONS, together, seen, strict=True):
        alone = vqa.answer(image, question)
        for one in (answer, other):
            assert one.text == alone.text
            assert one.probability == pytest.approx(alone.probability, rel=1e-3)
    places = vqa.prompts.asked("what?", images=2).count(vqa.processor.image_token)
    assert places == 2
    ranked = vqa.answer(IMAGES[:2], QUESTIONS[0], choices=CHOICES[0])
    assert {text for text, _ in ranked.top} == set(CHOICES[0])


def test_no_answer_depends_on_its_batch(kind: str, folders: Folders) -> None:
    vqa = loaded(folders(kind))
    together = vqa.answer(IMAGES, QUESTIONS)
    ranked = vqa.answer(IMAGES, QUESTIONS, choices=CHOICES)
    assert len({answer.text for answer in together}) > 1 or kind in ("gemma3", "paligemma")
    for row, (image, question) in enumerate(zip(IMAGES, QUESTIONS, strict=True)):
        alone = vqa.answer(image, question)
        assert alone.text == together[row].text
        assert alone.probability == pytest.approx(together[row].probability, rel=1e-3)
        alone = vqa.answer(image, question, choices=CHOICES[row])
        assert [text for text, _ in alone.top] == [text for text, _ in ranked[row].top]
        assert alone.probability == pytest.approx(ranked[row].probability, rel=1e-3)


def test_choices_are_ranked_by_the_likelihood_of_their_tokens(kind: str, folders: Folders) -> None:
    """Teacher forcing by hand: a pass over prompt and choice, read where each token is next."""
    vqa = loaded(folders(kind))
    found = dict(vqa.answer(IMAGES[1], QUESTIONS[1], choices=CHOICES[1]).top)
    model, tokenizer, inputs = theirs(folders(kind), kind, IMAGES[1], QUESTIONS[1])
    log_p = []
    for choice in CHOICES[1]:
        # CHAT puts a space before the answer, which is no part of the generation prompt.
        text = choice if kind == "paligemma" else f" {choice}"
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        total, given = 0.0, inputs
        for token in [*ids, None]:
            made = model.generate(
                **given, max_new_tokens=1, do_sample=False, temperature=None, top_p=None,
                output_logits=True, return_dict_in_generate=True,
            )  # fmt: skip
            shares = made.logits[0][0].log_softmax(-1)
            ends = shares[[2, 3]].logsumexp(0)  # of any token that ends a text
            total += float(ends if token is None else shares[token])
            if token is not None:
                given = {**given, **_longer(given, token, kind)}
        log_p.append(total)
    expected = torch.tensor(log_p).softmax(0)
    assert [found[choice] for choice in CHOICES[1]] == pytest.approx(expected.tolist(), rel=2e-3)
    assert sum(found.values()) == pytest.approx(1)


def _longer(given: Any, token: int, kind: str) -> dict[str, Any]:
    """The inputs per token with one more, of text that the model writes."""
    longer = {"input_ids": torch.cat((given["input_ids"], torch.tensor([[token]])), 1)}
    for name in ("attention_mask", "token_type_ids", "mm_token_type_ids"):
        if name in given:
            # What PaliGemma reads is of type 0, and sees all of itself; what it writes does not.
            fill = 1 if name == "attention_mask" or kind == "paligemma" else 0
            longer[name] = torch.nn.functional.pad(given[name], (0, 1), value=fill)
    return longer


def test_beams_rank_several_texts(folders: Folders) -> None:
    vqa = loaded(folders("llava"), beams=3)
    answer = vqa.answer(IMAGES[0], QUESTIONS[0], top_k=2)
    assert len(answer.top) == 2
    assert answer.top[0][1] > answer.top[1][1]
    greedy = loaded(folders("llava")).answer(IMAGES[0], QUESTIONS[0])
    assert answer.probability >= greedy.probability
    model, _, inputs = theirs(folders("llava"), "llava", IMAGES[0], QUESTIONS[0])
    made = model.generate(
        **inputs, max_new_tokens=TOKENS, do_sample=False, temperature=None, top_p=None,
        num_beams=3, num_return_sequences=3, length_penalty=0.0,
        output_scores=True, return_dict_in_generate=True,
    )  # fmt: skip
    assert np.log(answer.probability) == pytest.approx(made.sequences_scores[0].item(), abs=1e-3)


def test_the_answer_depends_on_image_question_and_prompt(folders: Folders) -> None:
    vqa = loaded(folders("llava"))
    p = vqa.answer(IMAGES[0], QUESTIONS[0]).probability
    assert vqa.answer(IMAGES[1], QUESTIONS[0]).probability != pytest.approx(p, rel=1e-3)
    assert vqa.answer(IMAGES[0], QUESTIONS[1]).probability != pytest.approx(p, rel=1e-3)
    other = loaded(folders("llava"), prompt="{question} In a word?")
    assert other.answer(IMAGES[0], QUESTIONS[0]).probability != pytest.approx(p, rel=1e-3)
    assert other.digest != vqa.digest
    with pytest.raises(ValueError, match=r"prompt: got 'What\?'"):
        loaded(folders("llava"), prompt="What?")


def test_images_are_seen_and_asked_several_times(folders: Folders) -> None:
    vqa = loaded(folders("qwen2_vl"))
    seen = vqa.see(IMAGES[1])
    assert seen.nbytes == 4 * 200 * 90, "as Pillow keeps it"
    assert vqa.answer(seen, QUESTIONS) == vqa.answer(IMAGES[1], QUESTIONS)


def test_occlusion_explains_by_likelihood(folders: Folders) -> None:
    vqa = loaded(folders("llava"))
    found = explain(vqa, IMAGES[1], QUESTIONS[0], answer="red")
    assert found.grid == (3, 6)  # 6 along the longer side
    assert found.words == QUESTIONS[0].split()
    assert found.word_patch is None
    assert np.abs(found.patches).max() > 0
    whole = vqa.log_likelihood([IMAGES[1]], [QUESTIONS[0]], "red").item()
    less = vqa.log_likelihood([IMAGES[1]], ["what color is the"], "red").item()
    assert found.evidence == pytest.approx(whole, rel=1e-4)
    assert found.word_relevance[-1] == pytest.approx(whole - less, abs=1e-3)


def test_several_weight_files_are_read(folders: Folders, tmp_path: Path) -> None:
    vqa = loaded(folders("llava"))
    processor = AutoProcessor.from_pretrained(folders("llava"))
    processor.save_pretrained(tmp_path)
    vqa.model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len([*tmp_path.glob("model-*.safetensors")]) > 1
    again = loaded(tmp_path)
    own, other = (model.answer(IMAGES[0], QUESTIONS[0]) for model in (vqa, again))
    assert other.text == own.text
    assert other.probability == pytest.approx(own.probability, rel=1e-3)


# Bad input.


def test_a_template_without_a_place_for_the_image(tmp_path: Path) -> None:
    folder = vlm_folder(tmp_path / "llava", "llava", CHAT.replace("SLOT", ""))
    with pytest.raises(ValueError, match=r"chat template: writes .*without the image token"):
        vlm.load(folder)


def test_of_a_question_that_is_too_long_the_end_is_cut_and_said(folders: Folders) -> None:
    vqa = loaded(folders("llava"))
    short = " ".join(["cat"] * 20)
    inputs = vqa.prompts.read([[IMAGES[0]]], [short])["input_ids"].shape[1]
    vqa.prompts.limit = inputs + TOKENS
    assert vqa.answer(IMAGES[0], short).warnings == vqa.answer(IMAGES[0], "cat").warnings
    longer = f"{short} dog dog dog"
    answers = vqa.answer([IMAGES[0]] * 2, [longer, "cat"])
    assert "Only the first 20 of 23 words of the question were read" in answers[0].warnings[0]
    assert answers[0].probability == pytest.approx(
        vqa.answer(IMAGES[0], short).probability, rel=1e-3
    )
    ranked = vqa.answer(IMAGES[0], f"{longer} {longer}", choices=["red", "blue"])
    assert "of 46 words" in ranked.warnings[0]
    vqa.prompts.limit = 20
    with pytest.raises(ValueError, match="image: fills the model's context of 20 tokens"):
        vqa.answer(IMAGES[0], longer)


def test_a_tokenizer_without_a_padding_token(folders: Folders, tmp_path: Path) -> None:
    vqa = loaded(folders("llava"))
    other = loaded(vlm_folder(tmp_path / "llava", "llava", pad_token=None))
    for given, expected in zip(
        other.answer(IMAGES, QUESTIONS), vqa.answer(IMAGES, QUESTIONS), strict=True
    ):
        assert given.text == expected.text
        assert given.probability == pytest.approx(expected.probability, rel=1e-3)


def test_control_tokens_in_a_question_or_choice_are_refused(folders: Folders) -> None:
    vqa = loaded(folders("llava"))
    with pytest.raises(ValueError, match=r"question: got 'is <image> red', with .*'<image>'"):
        vqa.answer(IMAGES[0], "is <image> red")
    with pytest.raises(ValueError, match="answer: got 'red</s>'"):
        vqa.answer(IMAGES[0], "is it", choices=["red</s>", "blue"])


def test_a_model_with_code_of_its_own(folders: Folders, tmp_path: Path) -> None:
    config = json.loads((folders("llava") / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoModel": "modeling_own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "modeling_own.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ValueError, match="which vlm never does; use a release"):
        vlm.load(tmp_path, trust=True)


@pytest.mark.parametrize("kind", [["llava"], {}, 3, None])
def test_a_config_of_any_json(tmp_path: Path, kind: object) -> None:
    for config in ({"architectures": ["Own"], "model_type": kind}, {"architectures": kind}):
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match="expected one of"):
            vlm.load(tmp_path)


@pytest.mark.parametrize("listed", [["model.safetensors"], {}, None, 3])
def test_an_index_without_files(folders: Folders, tmp_path: Path, listed: object) -> None:
    (tmp_path / "config.json").write_bytes((folders("llava") / "config.json").read_bytes())
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": listed}))
    with pytest.raises(ValueError, match=r"weight_map: got .*; expected files"):
        vlm.load(tmp_path)


def test_weights_that_are_pickles_or_of_another_model(folders: Folders, tmp_path: Path) -> None:
    for path in folders("llava").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is a pickle"):
        vlm.load(tmp_path)
    weights.rename(tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"weights do not fit its config\.json"):
        vlm.load(tmp_path)
    config["text_config"]["vocab_size"] = 10**9
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="cannot fill"):
        vlm.load(tmp_path)
    config["_attn_implementation"] = "stranger/kernel"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="stranger/kernel"):
        vlm.load(tmp_path)


def test_parts_of_vlm_are_asked_for_where_they_are_needed(folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is asked as it is"):
        vlm.adapters.convert(folders("qwen2_vl"), tmp_path / "qwen.ckpt")
    with pytest.raises(ValueError, match="prompt: got 'Q: "):
        vlm.load("easy_vqa", prompt="Q: {question}")
    with pytest.raises(CheckpointError, match="there is no such file"):
        vlm.load(tmp_path / "nothing")
