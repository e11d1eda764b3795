"""LLaVA and SmolVLM (Idefics3) from our parts: transformers' numbers, in and out of its format."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from math import exp
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from conftest import ROOT, rest_slow
from hub_vlms import vlm_folder
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torch.testing import assert_close
from transformers import AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import vlm
from vlm.adapters import convert, convert_back
from vlm.adapters.language_models import TEXTS, read_connected
from vlm.cli.training_cli import VQACLI
from vlm.core.batch import Batch
from vlm.core.safe_config import DECODERS
from vlm.model import VQAModel

KINDS = ("llava", "idefics3", "smolvlm")
QUESTIONS = ["what color is the cat", "is it", "what a dog answers the question"]
ANSWERS = ["red", "green dog", "no"]
Folders = Callable[[str], Path]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    root = tmp_path_factory.mktemp("connected")
    return cache(lambda kind: vlm_folder(root / kind, kind))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "smolvlm":
        pytest.importorskip("num2words", reason="pip install num2words, for SmolVLM's processor")
    return str(request.param)


def original(folder: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


def batch_of(model: VQAModel) -> Batch:
    torch.manual_seed(3)
    images = torch.randint(256, (3, 3, 28, 28), dtype=torch.uint8)
    answers = [[answer] for answer in ANSWERS]
    return model.processor.batch(images, [0, 1, 2], QUESTIONS, answers)


def inputs(kind: str, model: VQAModel, batch: Batch, row: int) -> dict[str, torch.Tensor]:
    """What transformers' model reads for one question, without padding."""
    ids = batch.words[row][batch.words_mask[row]].tolist()
    image_id = model.text_encoder.tokenizer.image_id
    place = ids.index(image_id)
    count = model.fusion(model.image_encoder(batch.images), torch.zeros(3, 1, 1)).tokens.shape[1]
    ids = [*ids[:place], *[image_id] * (count - 1), *ids[place + 1 :]]
    pixels = model.image_encoder.normalised(batch.images[row : row + 1])[0]
    pixels = pixels if kind == "llava" else pixels[:, None]
    made = torch.tensor([ids])
    return {"input_ids": made, "attention_mask": torch.ones_like(made), "pixel_values": pixels}


@torch.no_grad()
def test_logits_and_losses_are_transformers_own(kind: str, folders: Folders) -> None:
    """Questions of different lengths are padded in one batch here, and alone there."""
    model, _ = read_connected(folders(kind), kind)
    theirs, batch = original(folders(kind)), batch_of(model)
    head, output = model.head, model(batch)
    ids, mask = batch.targets.ids[:, 0], batch.targets.mask[:, 0]
    logits = head.decoder(F.pad(ids, (1, -1)), head.decoder.start(output))
    losses = []
    for row in range(3):
        given = inputs(kind, model, batch, row)
        answer = ids[row][mask[row]]
        whole = torch.cat((given["input_ids"], answer[None]), 1)
        labels = torch.full_like(whole, -100)  # of image and question nothing is learnt
        labels[:, -len(answer) :] = answer
        given |= {"input_ids": whole, "attention_mask": torch.ones_like(whole)}
        found = theirs(**given, labels=labels)
        expected = found.logits[0, -len(answer) - 1 : -1]
        assert_close(logits[row, : len(answer)], expected, rtol=0, atol=1e-4)
        losses.append(found.loss * len(answer))
    assert_close(head.loss(output, batch), torch.stack(losses).mean(), rtol=1e-5, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("beams", [1, 3])
def test_texts_are_those_of_generate(beams: int, kind: str, folders: Folders) -> None:
    model, _ = read_connected(folders(kind), kind)
    theirs, batch, head = original(folders(kind)), batch_of(model), model.head
    head.beams, tokenizer = beams, head.decoder.tokenizer
    for row, ranked in enumerate(head.decode(model(batch), 1)):
        given = inputs(kind, model, batch, row)
        made = theirs.generate(
            **given, max_new_tokens=head.decoder.max_length, do_sample=False, temperature=None,
            top_p=None, num_beams=beams, length_penalty=0.0, eos_token_id=tokenizer.end,
            output_logits=True, output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
        written = made.sequences[:, given["input_ids"].shape[1] :]
        (text, probability), *_ = ranked
        ids = [i for i in written[0].tolist() if i != tokenizer.end]
        expected = vlm.text.clean_text(tokenizer.decode(ids))
        assert text.removesuffix("…") == expected
        if beams == 1:
            steps = theirs.compute_transition_scores(written, made.logits, normalize_logits=True)
            assert probability == pytest.approx(exp(steps.sum()), rel=1e-3)
        else:
            assert probability == pytest.approx(made.sequences_scores.exp().item(), rel=1e-3)


def test_answers_are_cut_where_the_chat_template_puts_them(kind: str, folders: Folders) -> None:
    """As `ImageTextToText` finds it by rendering whole chats."""
    model, _ = read_connected(folders(kind), kind)
    whole = vlm.load(folders(kind))
    for answer in (*ANSWERS, "a cat", "2 or 3"):
        assert model.head.decoder.tokenizer.encode(answer) == whole.prompts.ids(answer)
    assert model.head.decoder.tokenizer.end in whole.ends


def test_the_prompt_is_the_processor_s_for_an_image_in_one_piece(
    kind: str, folders: Folders
) -> None:
    model, _ = read_connected(folders(kind), kind)
    tokenizer, whole = model.text_encoder.tokenizer, vlm.load(folders(kind))
    whole.processor.image_processor.do_image_splitting = False
    for question in QUESTIONS:
        read = whole.prompts.read([[Image.new("RGB", (28, 28))]], [question])
        ids = read["input_ids"][0].tolist()
        place, last = ids.index(tokenizer.image_id), ids[::-1].index(tokenizer.image_id)
        once = [*ids[: place + 1], *ids[len(ids) - last :]]
        assert list(tokenizer.ids(question)) == once


def test_five_questions_about_an_image_encode_it_once(kind: str, folders: Folders) -> None:
    model, _ = read_connected(folders(kind), kind)
    images = torch.randint(256, (2, 3, 28, 28), dtype=torch.uint8)
    shared = model.processor.batch(images, [0, 0, 0, 1, 1], [*QUESTIONS, *QUESTIONS[:2]])
    seen: list[int] = []
    model.image_encoder.model.register_forward_hook(
        lambda _, args, kwargs, output: seen.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    apart = model.processor.batch(
        images[[0, 0, 0, 1, 1]], [0, 1, 2, 3, 4], [*QUESTIONS, *QUESTIONS[:2]]
    )
    with torch.no_grad():
        found = [model.head.evidence(model(batch), ["red"] * 5) for batch in (shared, apart)]
    assert seen == [2, 5]
    assert_close(*found, rtol=1e-5, atol=1e-4)


def tuned(folder: Path, data: Path, out: Path, *more: str) -> Path:
    convert(folder, out / "theirs.ckpt")
    return VQACLI(
        [
            "fit",
            *("-c", str(ROOT / "configs/easy_vqa.yaml"), "-c", str(out / "theirs.yaml")),
            f"--dataset.root={data}",
            "--dataset.validation_share=0.25",
            "--data.images_per_batch=2",
            f"--run.folder={out / 'runs'}",
            "--run.test=false",
            "--trainer.max_epochs=2",
            "--trainer.enable_progress_bar=false",
            *more,
        ]
    ).run_folder


TWO_STAGES = [
    "--model.tuning.image_encoder.frozen=true",
    "--model.tuning.head.from_epoch=1",
    "--model.tuning.head.lora.rank=2",
    "--model.tuning.head.lora.layers=[q_proj,v_proj]",
]


TUNED = {
    "all": ["--model.tuning.image_encoder.frozen=false", "--model.optimizer.init_args.lr=0.003"],
    "two stages with LoRA": TWO_STAGES,
}


@pytest.mark.parametrize("how", rest_slow(TUNED, "two stages with LoRA"))
def test_a_tuned_model_goes_back_into_its_own_format(
    how: str, kind: str, folders: Folders, data: Path, tmp_path: Path
) -> None:
    run = tuned(folders(kind), data, tmp_path, *TUNED[how])
    convert_back(run, folders(kind), tmp_path / "back")
    with pytest.raises(ValueError, match="not empty"):
        convert_back(run, folders(kind), tmp_path / "back")
    ours = vlm.load(run).model
    theirs, before = original(tmp_path / "back"), original(folders(kind))
    batch = batch_of(ours)
    head, ids = ours.head, batch.targets.ids[:, 0]
    with torch.no_grad():
        logits = head.decoder(F.pad(ids, (1, -1)), head.decoder.start(ours(batch)))
        for row in range(3):
            given = inputs(kind, ours, batch, row)
            assert_close(logits[row, 0], theirs(**given).logits[0, -1], rtol=0, atol=1e-4)
            assert not torch.allclose(logits[row, 0], before(**given).logits[0, -1], atol=1e-3)
    # What was frozen, and a layer without LoRA, are as they were; and transformers asks it.
    changed = {
        name
        for name, value in theirs.state_dict().items()
        if not value.equal(before.state_dict()[name])
    }
    if TUNED[how] is TWO_STAGES:
        assert {name.rpartition(".")[0].rpartition(".")[2] for name in changed} <= {
            "linear_1", "linear_2", "proj", "q_proj", "v_proj",
        }  # fmt: skip
    assert any("q_proj" in name for name in changed)
    image = Image.new("RGB", (28, 28), "red")
    assert vlm.load(tmp_path / "back").answer(image, "what color is it?").text


def test_the_first_stage_trains_the_connector_alone(
    folders: Folders, data: Path, tmp_path: Path
) -> None:
    more = [*TWO_STAGES, "--run.checkpoint_steps=5", "--trainer.max_epochs=2"]
    run = tuned(folders("llava"), data, tmp_path, *more)
    weights = torch.load(run / "checkpoints/step-00000005.ckpt", weights_only=True)["state_dict"]
    start, _ = read_connected(folders("llava"), "llava")
    for name, value in start.state_dict().items():
        found = weights.get(f"model.{name}")
        if found is not None and not name.startswith("fusion.text"):
            assert found.equal(value) == (not name.startswith("fusion.image")), name
    lora = {name for name in weights if ".lora_B." in name}
    assert len(lora) == 4, "two layers, each with two"
    assert not any(weights[name].any() for name in lora)


def test_another_model_does_not_go_back(folders: Folders, run: Path, tmp_path: Path) -> None:
    convert(folders("idefics3"), tmp_path / "theirs.ckpt")
    with pytest.raises(ValueError, match=r"does not fit .*; expected the model it was made of"):
        convert_back(tmp_path / "theirs.ckpt", folders("llava"), tmp_path / "back")
    with pytest.raises(ValueError, match=r"expected a model that `vlm\.adapters\.convert` made"):
        convert_back(run, folders("llava"), tmp_path / "back")


def test_a_model_with_another_connector_is_refused(folders: Folders, tmp_path: Path) -> None:
    shutil.copytree(folders("llava"), tmp_path / "other")
    path = tmp_path / "other/config.json"
    config = json.loads(path.read_text()) | {"vision_feature_select_strategy": "full"}
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"got the feature layer -1 and \('gelu', 'full'\)"):
        convert(tmp_path / "other", tmp_path / "other.ckpt")


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("idefics3", {"text_config": {"tie_word_embeddings": True}}),  # the whole is not tied
        ("llava", {"vision_feature_layer": -2}),
    ],
)
def test_what_the_whole_configuration_says(
    kind: str, more: dict[str, Any], folders: Folders, tmp_path: Path
) -> None:
    shutil.copytree(folders(kind), tmp_path / "other")
    path = tmp_path / "other/config.json"
    config = json.loads(path.read_text())
    for key, value in more.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(config))
    model, _ = read_connected(tmp_path / "other", kind)
    theirs, batch, head = original(tmp_path / "other"), batch_of(model), model.head
    decoder = head.decoder.model
    assert decoder.lm_head.weight is not decoder.get_input_embeddings().weight
    given = inputs(kind, model, batch, 0)
    logits = head.decoder(torch.zeros(3, 1).long(), head.decoder.start(model(batch)))
    assert_close(logits[0, 0], theirs(**given).logits[0, -1], rtol=0, atol=1e-4)


def test_tied_weights_go_both_ways_and_others_are_refused(folders: Folders, tmp_path: Path) -> None:
    source = tmp_path / "other"
    shutil.copytree(folders("idefics3"), source)
    path = source / "config.json"
    config = json.loads(path.read_text()) | {"tie_word_embeddings": True}
    path.write_text(json.dumps(config))
    # transformers, too, believes the weights: it reads them and ties none.
    with pytest.raises(ValueError, match=r"than a weight that config\.json ties it to"):
        convert(source, tmp_path / "other.ckpt")
    weights = load_file(source / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    convert(source, tmp_path / "tied.ckpt")
    decoder = vlm.load(tmp_path / "tied.ckpt").model.head.decoder.model
    assert decoder.lm_head.weight is decoder.get_input_embeddings().weight
    convert_back(tmp_path / "tied.ckpt", source, tmp_path / "back")
    before = original(source).state_dict()
    for name, value in original(tmp_path / "back").state_dict().items():
        assert value.equal(before[name])


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ("TOWERS", r"image encoder: got 'clip_vision_model'; expected one of some, other\."),
        ("TEXTS", r"text model: got 'llama'; expected one of some, other\. vlm\.load asks this"),
    ],
)
def test_other_parts_are_refused(
    kinds: str, message: str, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their checkpoint could not be loaded, or their weights have other names."""
    monkeypatch.setattr(f"vlm.adapters.language_models.{kinds}", ("some", "other"))
    with pytest.raises(ValueError, match=message):
        convert(folders("llava"), tmp_path / "other.ckpt")
    assert not list(tmp_path.iterdir())


def test_text_models_are_those_with_the_names_of_llama() -> None:
    """Their weights are `model.` and `lm_head.`; others would fit nothing that LLaVA stores."""
    for kind in DECODERS:
        if (name := MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)) is None:
            continue
        made: Any = getattr(transformers, name)
        causal = not made.config_class().is_encoder_decoder
        assert (causal and made.base_model_prefix == "model") == (kind in TEXTS), kind


def test_the_written_configuration_names_the_parts(folders: Folders, tmp_path: Path) -> None:
    convert(folders("idefics3"), tmp_path / "theirs.ckpt")
    config = yaml.safe_load((tmp_path / "theirs.yaml").read_text())["model"]
    assert config["tuning"] == {
        "init_from": str(tmp_path / "theirs.ckpt"),
        "image_encoder": {"frozen": True},
    }
    assert config["optimizer"]["init_args"]["lr"] == 1e-4
    assert config["fusion"] == {
        "class_path": "vlm.fusion.PixelShuffle",
        "init_args": {"out_dim": 24, "factor": 2, "columns": 2},
    }
    for name in ("theirs.ckpt", "theirs.yaml"):
        with pytest.raises(ValueError, match=rf"{name}: exists; expected a new file"):
            convert(folders("idefics3"), tmp_path / "theirs.ckpt")
        (tmp_path / name).unlink()
