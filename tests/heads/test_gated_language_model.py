"""Gated layers inside a language model: closed they change nothing, open they show it the image."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_vlms import language_model_folder
from torch.nn import functional as F
from torch.testing import assert_close

import vlm
from vlm.core.errors import ConfigError
from vlm.fusion import Fusion, PixelShuffle, Projector, QFormer, Resampler
from vlm.heads import ByteTokenizer, GatedLanguageModel, Generation, LanguageModel, MultiTask
from vlm.heads.generation.decoder import Memory
from vlm.image import ConvNet
from vlm.model import VQAModel
from vlm.text import Prompt
from vlm.training import PartTuning, Tuning
from vlm.training.finetuning.plan import prepare
from vlm.training.large_models import checkpoint_gradients

QUESTIONS = ["what color is the cat", "is it", "what a dog answers the question"]
ANSWERS = ["red", "a dog", "no"]
CONNECTORS: dict[str, Any] = {
    "Projector": Projector,
    "PixelShuffle": partial(PixelShuffle, factor=2),
    "Resampler": partial(Resampler, latents=3, num_layers=1),
    "QFormer": partial(QFormer, queries=3),
}
SIZES: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 32},
    "qwen2": {"hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 4},
    "gpt2": {"n_embd": 24, "n_head": 4},
    "gpt_neox": {"hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 32},
    "opt": {"hidden_size": 24, "num_attention_heads": 4, "ffn_dim": 32, "word_embed_proj_dim": 24},
    "bloom": {"hidden_size": 24, "n_head": 4},
}
"""Kinds whose code is called in other ways: by position, by name, with and without positions."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return language_model_folder(tmp_path_factory.mktemp("hub") / "model")


def model_of(
    folder: Path, kind: Any = GatedLanguageModel, connector: str = "Resampler", **options: Any
) -> VQAModel:
    torch.manual_seed(3)
    image, prompt = (
        ConvNet(24, widths=(5, 7)),
        Prompt(name=str(folder), prompt="{image} {question}"),
    )
    fusion: Fusion = CONNECTORS[connector](image.dim, prompt.dim, out_dim=24)
    decoder = partial(kind, name=str(folder), max_length=6, **options)
    return VQAModel(image, prompt, fusion, Generation(24, decoder)).eval()


def batch_of(model: VQAModel, **more: Any) -> Any:
    torch.manual_seed(1)
    images = torch.randint(256, (3, *model.image_encoder.transform.shape), dtype=torch.uint8)
    return model.processor.batch(images, range(3), QUESTIONS, [["red"]] * 3, **more)


def evidence(model: VQAModel, batch: Any) -> torch.Tensor:
    return model.head.evidence(model(batch), ANSWERS)


@torch.no_grad()
@pytest.mark.parametrize("every", [1, 2])
def test_closed_gates_leave_the_language_model_as_it_is(folder: Path, every: int) -> None:
    gated, plain = model_of(folder, every=every), model_of(folder, LanguageModel)
    assert len(gated.head.decoder.gated) == 2 // every
    batch = batch_of(plain)
    blind = plain(batch)
    blind = blind._replace(mask=torch.zeros_like(blind.mask))
    assert_close(evidence(gated, batch), plain.head.evidence(blind, ANSWERS))
    for look in gated.head.decoder.looks:
        torch.nn.init.constant_(look.gated.attention_gate, 0.5)
    assert (evidence(gated, batch) - plain.head.evidence(blind, ANSWERS)).abs().min() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("kind", SIZES)
def test_layers_of_any_causal_model(kind: str) -> None:
    config = {"model_type": kind, "num_hidden_layers": 2, "vocab_size": 258, **SIZES[kind]}
    made = GatedLanguageModel(
        24, config=config, tokenizer=ByteTokenizer(), image_id=257, first_gate=1.0
    ).eval()
    prompt = torch.tensor([[5, 257, 9, 4], [257, 7, 0, 0]])
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    image = torch.randn(2, 3, 24)
    real = torch.tensor([[True, True, False], [True, True, True]])
    memory, ids = Memory(image, real, None, prompt, mask), torch.tensor([[256, 8, 3], [256, 1, 2]])
    logits = made(ids, made.start(memory))
    padded = Memory(
        F.pad(image.masked_fill(~real[..., None], float("nan")), (0, 0, 0, 2), value=1e4),
        F.pad(real, (0, 2)), None, F.pad(prompt, (0, 2), value=-100), F.pad(mask, (0, 2)),
    )  # fmt: skip
    assert_close(made(ids, made.start(padded)), logits, atol=1e-4, rtol=1e-4)
    for row in range(2):
        alone = made(ids[row : row + 1], made.start(memory.rows(slice(row, row + 1))))
        assert_close(alone[0], logits[row], atol=1e-4, rtol=1e-4)
    other = made(ids, made.start(memory._replace(tokens=-image)))
    assert (other - logits).abs().amax(-1).min() > 1e-4  # each token has seen the image
    state = made.start(memory)  # token by token, from the cache
    steps = [made(ids[:, i : i + 1], state) for i in range(3)]
    assert_close(torch.cat(steps, 1), logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_no_image_is_alpha_at_zero(folder: Path) -> None:
    model = model_of(folder, first_gate=1.0)
    batch = batch_of(model)
    none = torch.tensor([True, False, False])
    unseen = evidence(model, batch._replace(no_image=none))
    assert_close(unseen[1:], evidence(model, batch)[1:])
    for look in model.head.decoder.looks:
        torch.nn.init.zeros_(look.gated.attention_gate)
    assert_close(unseen[0], evidence(model, batch)[0])


@torch.no_grad()
def test_texts_of_a_question_share_its_image(folder: Path) -> None:
    """Beams and candidates: several texts for each question, judged as if each were alone."""
    model = model_of(folder, first_gate=1.0)
    output = model(batch_of(model))
    alone = torch.stack([model.head.evidence(output, [a] * 3) for a in ANSWERS], 1).softmax(1)
    for row, ranked in zip(alone, model.head.rank(output, [ANSWERS] * 3), strict=True):
        assert [dict(ranked)[a] for a in ANSWERS] == pytest.approx(row.tolist(), abs=1e-4)
    model.head.beams = 3
    for row, texts in enumerate(model.head.decode(output, 3)):
        for text, probability in texts:
            if not text.endswith("…"):
                judged = model.head.evidence(output, [text] * 3)[row].exp().item()
                assert probability == pytest.approx(judged, rel=1e-2)


@pytest.mark.parametrize("connector", CONNECTORS)
def test_the_image_learns_once_gates_are_open(folder: Path, connector: str) -> None:
    for first_gate in (0.0, 0.5):
        model = model_of(folder, connector=connector, first_gate=first_gate)
        batch = batch_of(model.train())
        model.head.loss(model(batch), batch).backward()
        trained = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
        assert not [name for name, grad in trained.items() if grad is None]
        moved = trained["image_encoder.stages.0.0.weight"].abs().max() > 0
        assert moved == (first_gate > 0)
        if first_gate == 0:
            assert trained["head.decoder.gated.0.attention_gate"].abs() > 0


def test_a_frozen_head_trains_its_new_layers_alone(folder: Path) -> None:
    alone = model_of(folder)
    write = partial(Generation, decoder=alone.head.arguments["decoder"])
    head = MultiTask(24, {"write": write})
    several = VQAModel(alone.image_encoder, alone.text_encoder, alone.fusion, head)
    for model in (alone, several):
        prepare(model, Tuning(head=PartTuning(frozen=True)))
        trained = [name for name, p in model.head.named_parameters() if p.requires_grad]
        assert trained == [n for n, _ in model.head.named_parameters() if ".gated." in n]
        assert trained


@torch.no_grad()
def test_rebuilt_and_copied_it_answers_the_same(tmp_path: Path) -> None:
    made = model_of(language_model_folder(tmp_path / "model"), first_gate=0.7)
    for file in (tmp_path / "model").iterdir():
        file.unlink()
    batch = batch_of(made)
    expected = evidence(made, batch)
    again = VQAModel.from_config(made.config).eval()
    again.load_state_dict(made.state_dict())
    assert_close(evidence(again, batch), expected)
    copied = copy.deepcopy(made)
    for parameter in made.parameters():
        parameter.zero_()
    assert_close(evidence(copied, batch), expected)


def test_wrong_arguments(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"num_heads: got 5, which does not divide memory_dim=24"):
        model_of(folder, num_heads=5)
    with pytest.raises(ValueError, match=r"every: got 0; expected a positive integer"):
        model_of(folder, every=0)
    with pytest.raises(ConfigError, match=r"gradient_checkpointing: got head"):
        checkpoint_gradients(model_of(folder), ["head"])


def test_it_needs_a_prompt(folder: Path) -> None:
    image, words = ConvNet(24, (5, 7)), vlm.text.BagOfWords(["is"], 24)
    head = Generation(24, partial(GatedLanguageModel, name=str(folder)))
    with pytest.raises(ValueError, match=r"text_encoder, fusion, head: got BagOfWords"):
        VQAModel(image, words, Resampler(image.dim, 24, 24), head)


def test_two_threads_see_their_own_image() -> None:
    torch.manual_seed(0)
    config = {"model_type": "llama", "vocab_size": 258, "num_hidden_layers": 2, **SIZES["llama"]}
    decoder = partial(
        GatedLanguageModel,
        config=config,
        tokenizer=ByteTokenizer(),
        image_id=257,
        num_heads=2,
        first_gate=1.0,
    )
    head = Generation(24, decoder).eval()
    mask = torch.ones(1, 7, dtype=torch.bool)
    prompt = torch.tensor([[1, 257, 2]])
    memories = [
        Memory(torch.randn(1, 7, 24), mask, prompt=prompt, prompt_mask=prompt > 0) for _ in range(4)
    ]

    def evidence(memory: Memory) -> list[float]:
        with torch.no_grad():
            return [float(head.evidence(memory, ["red"])) for _ in range(5)]

    expected = [evidence(memory) for memory in memories]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(evidence, memories)) == expected
