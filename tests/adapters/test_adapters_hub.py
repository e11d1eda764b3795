"""ViLT and BLIP built from our parts match transformers' outputs, on tiny random models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_time import own_time
from PIL import Image
from torch import Tensor, nn

import vlm
from vlm.adapters import convert
from vlm.cli.main import main
from vlm.explain import GradCAM, Occlusion, explain

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "color", "is", "the", "cat"]
PIECES += ["red", "green", "blue", "yes", "no", "a", "dog", "two", "on", "it"]
QUESTIONS = ["what color is the cat", "is it red"]
TEXT = {
    "vocab_size": len(PIECES) + 2,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 29,
    "max_position_embeddings": 29,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def tokenizer(folder: Path) -> Any:
    from transformers import BertTokenizerFast

    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(PIECES))
    made = BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    made.save_pretrained(folder)
    return made


def randomise(model: nn.Module) -> None:
    """Randomise the parameters that transformers initialises to zero, which would hide mistakes."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)


@pytest.fixture(scope="module")
def vilt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    from transformers import ViltConfig, ViltForQuestionAnswering
    from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("hub") / "vilt"
    tokens = tokenizer(folder)
    labels = dict(enumerate(["red", "green", "blue", "yes", "no"]))
    config = ViltConfig(
        **TEXT, image_size=48, patch_size=16, modality_type_vocab_size=2,
        id2label=labels, label2id={v: k for k, v in labels.items()}, max_image_length=-1,
    )  # fmt: skip
    model = ViltForQuestionAnswering(config).eval()
    randomise(model)
    model.save_pretrained(folder)
    images = ViltImageProcessorPil(size={"shortest_edge": 48}, size_divisor=16)
    images.save_pretrained(folder)

    def logits(image: Image.Image, question: str) -> Tensor:
        seen = images(image, return_tensors="pt")
        with torch.no_grad():
            return model(**tokens(question, return_tensors="pt"), **seen).logits

    return folder, logits, list(labels.values())


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    from transformers import BlipConfig, BlipForQuestionAnswering
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("hub") / "blip"
    tokens = tokenizer(folder)
    vision = {
        "hidden_size": 24, "intermediate_size": 31, "num_hidden_layers": 2,
        "num_attention_heads": 4, "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    text = TEXT | {
        "encoder_hidden_size": 24, "bos_token_id": len(PIECES), "sep_token_id": 3,
        "eos_token_id": 3, "pad_token_id": 0, "projection_dim": 24,
    }  # fmt: skip
    config = BlipConfig(vision_config=vision, text_config=text, projection_dim=24)
    model = BlipForQuestionAnswering(config).eval()
    randomise(model)
    model.tie_weights()
    model.save_pretrained(folder)
    images = BlipImageProcessorPil(size={"height": 32, "width": 32})
    images.save_pretrained(folder)

    def logits(image: Image.Image, question: str, written: Tensor) -> Tensor:
        """BLIP's logits for the token after each of `written`."""
        seen = images(image, return_tensors="pt")
        asked = tokens(question, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            pixels = model.vision_model(**seen).last_hidden_state
            read = model.text_encoder(**asked, encoder_hidden_states=pixels).last_hidden_state
            return model.text_decoder(written, encoder_hidden_states=read).logits

    def answer(image: Image.Image, question: str) -> str:
        seen = images(image, return_tensors="pt")
        asked = tokens(question, return_tensors="pt", return_token_type_ids=False)
        written = model.generate(**asked, **seen, max_new_tokens=20, do_sample=False)
        return tokens.decode(written[0], skip_special_tokens=True)

    return folder, logits, answer


def ours(vqa: vlm.VQA, image: Image.Image, questions: list[str]) -> Any:
    """The head's output for questions about one image, in one batch."""
    processor = vqa.model.processor
    transform: Any = processor.transform
    batch = processor.batch(transform.stack([transform(image)]), [0] * len(questions), questions)
    with torch.no_grad():
        return vqa.model(batch)


@pytest.mark.parametrize("size", [(60, 60), (200, 90), (40, 100), (5, 4)])
def test_vilt_gives_transformers_logits(vilt: Any, size: tuple[int, int]) -> None:
    folder, logits, answers = vilt
    vqa = vlm.load(str(folder))
    image = picture(*size)
    found = ours(vqa, image, QUESTIONS)
    for row, question in zip(found, QUESTIONS, strict=True):
        torch.testing.assert_close(row, logits(image, question)[0], atol=2e-4, rtol=1e-4)
        answer = vqa.answer(image, question, top_k=3)
        best = logits(image, question)[0].sigmoid().topk(3)
        assert [text for text, _ in answer.top] == [answers[i] for i in best.indices]
        assert [p for _, p in answer.top] == pytest.approx(best.values.tolist(), abs=1e-3)


def test_blip_gives_transformers_logits_and_answers(blip: Any) -> None:
    folder, logits, answer = blip
    vqa = vlm.load(str(folder))
    head: Any = vqa.model.head
    for size in ((32, 32), (70, 40)):
        image = picture(*size)
        memory = ours(vqa, image, QUESTIONS)
        state = head.decoder.start(memory)
        written = torch.tensor([[len(PIECES), 8, 11], [len(PIECES), 6, 5]])
        with torch.no_grad():
            found = head.decoder(written, state)
        for row, question, text in zip(found, QUESTIONS, written, strict=True):
            theirs = logits(image, question, text[None])[0]
            torch.testing.assert_close(row, theirs, atol=2e-4, rtol=1e-4)
            assert vqa.answer(image, question).text.rstrip("…") == answer(image, question)


@pytest.mark.parametrize("kind", ["vilt", "blip"])
def test_they_are_explained_and_become_checkpoints(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = str(request.getfixturevalue(kind)[0])
    vqa, image = vlm.load(folder), picture(96, 48)
    for method in (GradCAM(), Occlusion(refine=1)):
        found = explain(vqa, image, QUESTIONS[0], method, answer="red")
        assert found.answer == "red"
        assert len(found.words) == 7  # [CLS] and [SEP] too
        assert np.abs(found.patches).max() > 0
        assert np.isfinite(found.word_patch).all()
    convert(folder, tmp_path / "theirs.ckpt")
    again = vlm.load(tmp_path / "theirs.ckpt")
    assert again.answer(image, QUESTIONS) == vqa.answer(image, QUESTIONS)


def test_boxes_of_vilt_lie_on_the_photo(vilt: Any) -> None:
    transform: Any = vlm.load(str(vilt[0])).model.image_encoder.transform
    assert transform.fitted((200, 100)) == (64, 32)  # 79 x 39.5, in whole patches
    x0, y0, x1, y1 = transform.box((200, 100))
    side = transform.size[0]
    assert (x0, y0) == (0, 0)
    assert x1 * 64 / side == pytest.approx(200)
    assert y1 * 32 / side == pytest.approx(100)
    assert transform.fitted((10, 5000)) == (
        16,
        64,
    )  # transformers finds no patch in an image this narrow


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')
    with pytest.raises(ValueError, match="GPT2LMHeadModel; expected one of Vilt"):
        vlm.load(str(tmp_path))


def test_without_a_network_the_error_is_one_quick_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    name = "dandelin/vilt-b32-finetuned-vqa"
    start = own_time()
    with pytest.raises(SystemExit, match=rf"vlm demo: {name}.*127\.0\.0\.1:9 does not answer"):
        main(["demo", f"hf:{name}"])
    assert own_time() - start < 2
