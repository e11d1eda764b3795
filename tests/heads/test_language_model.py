"""A language model that reads image and question in its own prompt: a tiny one, and bad input."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_vlms import CHAT, STRING, TEXT, language_model_folder
from torch.testing import assert_close

import vlm
from vlm.data.compatibility import check_compatible
from vlm.datasets.base import Split
from vlm.datasets.errors import DataError
from vlm.fusion import MCAN, Fusion, PixelShuffle, Projector, QFormer, Resampler
from vlm.heads import Classification, Generation, LanguageModel, MultiTask
from vlm.image import ConvNet
from vlm.model import VQAModel
from vlm.pretrained.chat import read_chat
from vlm.text import BagOfWords, Prompt

QUESTIONS = ["what color is the cat", "is it", "what a dog answers the question"]
PROMPT = "{image} {question}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return language_model_folder(tmp_path_factory.mktemp("hub") / "model")


def model_of(
    folder: Path,
    *,
    choose: bool = False,
    connector: Callable[..., Fusion] = PixelShuffle,
    **options: Any,
) -> VQAModel:
    image = ConvNet(24, widths=(5, 7))
    prompt = Prompt(name=str(folder), prompt=PROMPT)
    fusion = connector(image.dim, prompt.dim, out_dim=24)
    decoder = partial(LanguageModel, name=str(folder), max_length=6, **options)
    return VQAModel(image, prompt, fusion, Generation(24, decoder, choose=choose)).eval()


def batch_of(model: VQAModel, questions: list[str] = QUESTIONS, **more: Any) -> Any:
    torch.manual_seed(1)
    rows = len(questions)
    images = torch.randint(256, (3, *model.image_encoder.transform.shape), dtype=torch.uint8)
    return model.processor.batch(images[:rows], range(rows), questions, [["red"]] * rows, **more)


@torch.no_grad()
def test_padding_and_batch_change_nothing(folder: Path) -> None:
    model = model_of(folder)
    batch = batch_of(model)
    evidence = model.head.evidence(model(batch), ["red", "a dog", "no"])
    texts = model.head.decode(model(batch), 1)
    longer = batch._replace(
        words=torch.nn.functional.pad(batch.words, (0, 3), value=-100),
        words_mask=torch.nn.functional.pad(batch.words_mask, (0, 3)),
    )
    assert_close(model.head.evidence(model(longer), ["red", "a dog", "no"]), evidence)
    image = model.image_encoder(batch.images)
    junk = torch.cat((image.tokens, torch.full_like(image.tokens, float("nan"))), 1)
    mask = torch.cat((image.mask, torch.zeros_like(image.mask)), 1)
    wide = VQAModel(
        model.image_encoder, model.text_encoder, columns_of(model.fusion, image), model.head
    )
    padded = wide(batch, image._replace(tokens=junk, mask=mask, boxes=None))
    assert_close(model.head.evidence(padded, ["red", "a dog", "no"]), evidence)
    for row, answer in enumerate(("red", "a dog", "no")):
        alone = model.processor.batch(batch.images[row : row + 1], [0], [QUESTIONS[row]])
        output = model(alone)
        assert_close(model.head.evidence(output, [answer])[0], evidence[row], atol=1e-4, rtol=1e-4)
        assert model.head.decode(output, 1)[0][0][0] == texts[row][0][0]


def columns_of(fusion: Any, image: Any) -> PixelShuffle:
    made = PixelShuffle(fusion.image_dim, 1, out_dim=24, columns=int(image.tokens.shape[1] ** 0.5))
    made.load_state_dict(fusion.state_dict())
    return made.eval()


@torch.no_grad()
def test_image_and_question_both_matter(folder: Path) -> None:
    model = model_of(folder)
    batch = batch_of(model)
    evidence = model.head.evidence(model(batch), ["red"] * 3)
    turned = model.head.evidence(model(batch._replace(images=batch.images.flip(0))), ["red"] * 3)
    assert (evidence - turned).abs()[[0, 2]].min() > 1e-3
    none = torch.tensor([True, False, False])
    unasked = model.head.evidence(model(batch._replace(no_question=none)), ["red"] * 3)
    unseen = model.head.evidence(model(batch._replace(no_image=none)), ["red"] * 3)
    for other in (unasked, unseen):
        assert abs(other[0] - evidence[0]) > 1e-3
        assert_close(other[1:], evidence[1:])


@torch.no_grad()
def test_candidates_are_ranked_by_likelihood_and_the_prompt_is_read_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, answers = model_of(folder), ["red", "green dog", "yes", "a cat"]
    batch = batch_of(model)
    output = model(batch)
    expected = torch.stack([model.head.evidence(output, [a] * 3) for a in answers], 1).softmax(1)
    read: list[int] = []
    model.head.decoder.model.model.layers[0].register_forward_hook(
        lambda _, args, result: read.append(args[0].shape[0] * args[0].shape[1])
    )
    ranked = model.head.rank(output, [answers] * 3)
    for row, given in zip(expected, ranked, strict=True):
        assert [dict(given)[a] for a in answers] == pytest.approx(row.tolist(), abs=1e-4)
        assert given == sorted(given, key=lambda pair: -pair[1])
    prompt = 3 * (batch.words.shape[1] + output.tokens.shape[1])
    assert read[0] == prompt - 3
    assert len(read) == 2
    assert read[1] == 3 * 4 * max(len(model.head.choice_ids(a)) for a in answers)
    monkeypatch.setattr("vlm.heads.generation.pretrained_decoder.CACHE", 1)  # of one text at once
    read.clear()
    for few, many in zip(model.head.rank(output, [answers] * 3), ranked, strict=True):
        assert dict(few) == pytest.approx(dict(many), abs=1e-4)
    assert len(read) == 3 * len(answers)


def test_choices_of_the_data_are_ranked(folder: Path) -> None:
    model = model_of(folder, choose=True)
    batch = batch_of(model, choices=[["red", "green"], ["yes", "no"], ["a", "red", "dog"]])
    ranked = model.head.decode(model(batch), 3)
    assert [len(row) for row in ranked] == [2, 2, 3]
    assert [sum(p for _, p in row) for row in ranked] == pytest.approx([1, 1, 1])


@pytest.mark.parametrize(
    "connector",
    [Projector, PixelShuffle, partial(Resampler, latents=3), partial(QFormer, queries=3)],
    ids=["Projector", "PixelShuffle", "Resampler", "QFormer"],
)
def test_every_parameter_learns(connector: Callable[..., Fusion], folder: Path) -> None:
    model = model_of(folder, connector=connector).train()
    batch = batch_of(model)
    model.head.loss(model(batch), batch).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert model.image_encoder.stages[0][0].weight.grad.abs().max() > 0


def test_it_is_rebuilt_without_its_folder(tmp_path: Path) -> None:
    made = model_of(language_model_folder(tmp_path / "model"))
    for file in (tmp_path / "model").iterdir():
        file.unlink()
    again = VQAModel.from_config(made.config).eval()
    again.load_state_dict(made.state_dict())
    batch = batch_of(made)
    assert again.head.decode(again(batch), 1) == made.head.decode(made(batch), 1)


@pytest.mark.parametrize("chat", [STRING, CHAT.replace("SLOT", "<image>"), None])
def test_the_prompt_is_the_template_of_the_model(chat: str | None, tmp_path: Path) -> None:
    found = read_chat(str(language_model_folder(tmp_path / "model", chat)), "{image}\n{question}?")
    if chat is None:
        assert found[1:] == ("<image>\n{question}?", "<image>", "", "</s>")
        return
    asked = "<image>\n{question}?" if chat == STRING else "<image> {question}?"
    before = " " if chat == STRING else ""
    assert found.prompt == f"<s>user:{before}{asked}assistant:"
    assert (found.space, found.end) == (" ", "</s>")


def test_a_tokenizer_without_a_padding_token_does(folder: Path, tmp_path: Path) -> None:
    """Padding is masked, so no token is needed for it."""
    torch.manual_seed(0)
    bare = language_model_folder(tmp_path / "model", pad_token=None)
    texts = []
    for path in (folder, bare):
        torch.manual_seed(2)
        model = model_of(path)
        texts.append(model.head.decode(model(batch_of(model)), 1))
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("prompt", "chat", "message"),
    [
        ("{question}", STRING, r"prompt: got '\{question\}', with \{image\} 0 times"),
        ("{image}", STRING, r"prompt: got '\{image\}', with \{question\} 0 times"),
        ("{image}{image}{question}", STRING, r"\{image\} 2 times; expected it once"),
        ("<image>{image} {question}", STRING, r"with 2 places for the image, '<image>'"),
        (PROMPT, CHAT.replace("SLOT", ""), r"chat template: got .* 0 places for the image"),
    ],
)
def test_a_prompt_has_one_place_for_the_image(
    prompt: str, chat: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        Prompt(name=str(language_model_folder(tmp_path / "model", chat)), prompt=prompt)


def test_a_question_cannot_hold_another_image(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"question: got 'what is <image>', with .* '<image>'"):
        Prompt(name=str(folder)).tokenizer(["what is <image>"])


def test_such_a_question_is_found_before_the_training(folder: Path, tmp_path: Path) -> None:
    rows = [
        {"image": f"{number}.png", "question": f"is it {number}", "answer": "red"}
        for number in range(9)
    ]
    rows[4] |= {"id": "wrong", "question": "what is <image>"}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = vlm.datasets.CustomDataset(tmp_path / "rows.jsonl")
    splits: tuple[Split, ...] = ("train", "validation", "test")
    (split,) = (s for s in splits if "what is <image>" in data.table(s)["question"].to_pylist())
    with pytest.raises(DataError, match=r"rows\.jsonl, line 5 \(id 'wrong'\): question"):
        check_compatible(data, split, model_of(folder))


def test_the_image_is_where_the_prompt_has_it(tmp_path: Path) -> None:
    """In a template for a list of parts, too."""
    folder = str(language_model_folder(tmp_path / "model", CHAT.replace("SLOT", "<image>")))
    made = read_chat(folder, "{question} {image} in a word").prompt
    assert made.index("{question}") < made.index("<image>") < made.index("in a word")


def test_a_template_may_be_in_the_processors_file(tmp_path: Path) -> None:
    folder = language_model_folder(tmp_path / "model", CHAT.replace("SLOT", "<image>"))
    expected = read_chat(str(folder))
    (folder / "chat_template.jinja").rename(tmp_path / "template")
    assert read_chat(str(folder)) != expected
    content = {"chat_template": (tmp_path / "template").read_text()}
    (folder / "chat_template.json").write_text(json.dumps(content))
    assert read_chat(str(folder)) == expected


def test_a_long_question_is_cut_and_the_prompt_is_not(folder: Path) -> None:
    short = Prompt(name=str(folder), prompt=PROMPT, max_length=24).tokenizer
    question = "what color is the cat " * 20 + "red"
    with pytest.warns(UserWarning, match=r"Questions cut to 24 tokens so far: 1, such as 'what"):
        ids, mask = short([question])
    assert mask.sum() == 24
    tokens, whole = short.tokens(question), short.tokens("what")
    assert "".join(tokens).endswith("Ġcolor Ġis Ġthe Ġcat Ġred assistant:".replace(" ", ""))
    assert "".join(tokens).startswith("<s>user:Ġ<image>Ġ")
    assert int((ids == short.image_id).sum()) == 1
    with warnings.catch_warnings(action="error"):
        short(["what color"])
    with pytest.raises(ValueError, match=rf"max_length: got 10; .* above {len(whole) - 1}"):
        Prompt(name=str(folder), prompt=PROMPT, max_length=10)


def test_image_prompt_and_answer_must_fit_the_positions(folder: Path) -> None:
    """The answer keeps its room, whatever the rest takes."""
    model = model_of(folder)
    model.head.decoder.model.config.max_position_embeddings = 20
    with pytest.raises(
        ValueError, match=r"got \d+ tokens of prompt and image and answers of up to 6; expected 20"
    ):
        model.head.evidence(model(batch_of(model)), ["red"] * 3)


def test_a_connector_of_another_width(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"memory_dim: got .* width 17; expected 24, .* out_dim"):
        Generation(17, partial(LanguageModel, name=str(folder)))


def test_parts_that_do_not_read_prompts_are_refused(folder: Path, tmp_path: Path) -> None:
    image, prompt, words = ConvNet(24, (5, 7)), Prompt(name=str(folder)), BagOfWords(["is"], 24)
    head = Generation(24, partial(LanguageModel, name=str(folder)))
    other = Classification(24, ["yes", "no"])
    writes = partial(Generation, decoder=partial(LanguageModel, name=str(folder)))
    mixed = MultiTask(24, {"write": writes, "choose": Classification}, answers=["yes", "no"])
    for text, fusion, answers in (
        (words, Projector(image.dim, words.dim, 24), mixed),
        (prompt, Projector(image.dim, 1, 24), mixed),
        (words, Projector(image.dim, words.dim, 24), head),
        (prompt, Projector(image.dim, 1, 24), other),
        (prompt, MCAN(image.dim, 1, 24, dim=8, num_heads=2), head),
    ):
        with pytest.raises(ValueError, match=r"text_encoder, fusion, head: got .*expected vlm\."):
            VQAModel(image, text, fusion, answers)
    path = language_model_folder(
        tmp_path / "model", extra_special_tokens={"image_token": "<start>"}
    )
    foreign = Prompt(name=str(path))
    with pytest.raises(ValueError, match=r"text_encoder: got a prompt of .* the same `name`"):
        VQAModel(image, foreign, Projector(image.dim, 1, 24), head)


def test_wrong_arguments(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"name, tokenizer: got None and None; give one"):
        Prompt()
    config = {"model_type": "llama", **TEXT, "vocab_size": 300}
    with pytest.raises(ValueError, match=r"tokenizer, image_id: got None and None with a config"):
        LanguageModel(24, config=config)
    with pytest.raises(ValueError, match=r"got an encoder-decoder; expected a causal model"):
        LanguageModel(16, config={"model_type": "t5", "d_model": 16, "num_layers": 1})
    small = config | {"vocab_size": 30}
    with pytest.raises(ValueError, match=r"tokenizer: got 257 ids .* which has 30"):
        LanguageModel(24, config=small, tokenizer=vlm.heads.ByteTokenizer(), image_id=29)


def test_code_of_a_model_does_not_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if somebody at a terminal says so when transformers asks."""
    monkeypatch.setattr("builtins.input", lambda _: "y")
    own = {"auto_map": {"AutoConfig": "own.Config", "AutoTokenizer": [None, "own.Tokens"]}}
    shutil.copytree(folder, tmp_path / "model")
    for name, more in (("config", {"model_type": "own"}), ("tokenizer_config", {})):
        path = tmp_path / f"model/{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | own | more))
    (tmp_path / "model/own.py").write_text("raise SystemExit('ran')")
    for make in (Prompt, partial(LanguageModel, 24)):
        with pytest.raises(ValueError, match="custom code"):
            make(name=str(tmp_path / "model"))
