"""OpenClipTextEncoder and ClipTokenizer: open_clip's ids and tokens, whatever the padding."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from clip_folder import TEXT, save_clip
from test_subword import save_tokenizer
from torch.testing import assert_close

from vlm.core.part import build
from vlm.image import OpenClipImageEncoder
from vlm.text import ClipTokenizer, OpenClipTextEncoder, SubwordTokenizer

# The maximum length is short on purpose; test_tokenizer.py tests the warning.
pytestmark = pytest.mark.filterwarnings("ignore:Questions cut to")

QUESTIONS = ["What's the cat's colour?", "", "is it " * 20, "café &amp; 42 ⚽"]


@pytest.mark.parametrize("clean", ["lower", "canonicalize", "whitespace"])
@pytest.mark.parametrize("length", [5, 77])
def test_ids_are_those_of_open_clip(clean: str, length: int) -> None:
    tokenizer = ClipTokenizer(length, clean)
    wanted = open_clip.SimpleTokenizer(context_length=length, clean=clean)(QUESTIONS)
    ids, mask = tokenizer(QUESTIONS)
    assert torch.equal(ids, wanted[:, : ids.shape[1]])
    assert not wanted[:, ids.shape[1] :].any()
    assert mask.sum(1).tolist() == [len(tokenizer.ids(q)) for q in QUESTIONS]
    assert tokenizer.tokens("") == ["<start_of_text>", "<end_of_text>"]
    assert tokenizer.unknown("qzxjw") == []


def test_clip_tokenizer_by_hand() -> None:
    tokenizer = ClipTokenizer(5)
    assert tokenizer.tokens("a photo of a cat") == [
        "<start_of_text>", "a", "photo", "of", "<end_of_text>",
    ]  # fmt: skip
    assert tokenizer.length("a photo of a cat") == 7
    with pytest.raises(ValueError, match="max_length: got 2; expected an integer above 2"):
        ClipTokenizer(2)
    with pytest.raises(ValueError, match="clean: got 'no'"):
        ClipTokenizer(clean="no")


@pytest.mark.parametrize(
    "text",
    [{}, {"no_causal_mask": True, "pool_type": "last"}, {"embed_cls": True, "pad_id": 0}],
    ids=["CLIP", "SigLIP", "CoCa"],
)
def test_tokens_are_those_of_open_clip(tmp_path: Path, text: dict) -> None:
    name, reference = save_clip(
        tmp_path, text=TEXT | text | {"output_tokens": True}, custom_text=True
    )
    encoder = OpenClipTextEncoder((), name, pretrained=True).eval()
    # open_clip always pads to the full length.
    padded = open_clip.SimpleTokenizer(context_length=11)(QUESTIONS)
    _, wanted = reference.text(padded)
    for questions in (QUESTIONS, QUESTIONS[:2]):
        ids, mask = encoder.tokenizer(questions)
        features = encoder(ids, mask)
        for row in range(len(questions)):
            own = wanted[row, : mask[row].sum()]
            assert_close(features.tokens[row, mask[row]], own, rtol=1e-4, atol=1e-5)
            assert_close(features.pooled[row], own.mean(0), rtol=1e-4, atol=1e-5)
    names = [name for name, _ in encoder.named_parameters()]
    assert not [n for n in names if "projection" in n or "cls_emb" in n]


def test_a_tower_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModel, RobertaConfig, RobertaModel

    roberta = tmp_path / "roberta"
    config = RobertaConfig(
        vocab_size=40, hidden_size=14, num_attention_heads=2, intermediate_size=17,
        num_hidden_layers=1, max_position_embeddings=13, pad_token_id=3,
    )  # fmt: skip
    RobertaModel(config).save_pretrained(roberta)
    text = {"hf_model_name": str(roberta), "hf_tokenizer_name": "x", "context_length": 7}
    name, reference = save_clip(tmp_path / "clip", text=text, custom_text=True)
    save_tokenizer(tmp_path / "clip")
    encoder = OpenClipTextEncoder((), name, pretrained=True).eval()
    assert isinstance(encoder.tokenizer, SubwordTokenizer)
    assert encoder.tokenizer.max_length == 7
    ids, mask = encoder.tokenizer(["what colour is the cat", "cat"])
    wanted = reference.text.transformer(ids, attention_mask=mask.long()).last_hidden_state
    assert_close(encoder(ids, mask).tokens[mask], wanted[mask], rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(AutoModel, "from_pretrained", None)
    again = build(encoder.config).eval()
    again.load_state_dict(encoder.state_dict(), strict=True)
    assert_close(again(ids, mask), encoder(ids, mask), rtol=0, atol=0)


def test_words_without_capitals_and_punctuation(tmp_path: Path) -> None:
    """open_clip cleans text this way for SigLIP, whose tokenizer keeps case and punctuation."""
    text = TEXT | {"hf_tokenizer_name": "x", "tokenizer_kwargs": {"clean": "canonicalize"}}
    name, _ = save_clip(tmp_path, text=text)
    save_tokenizer(tmp_path)
    encoder = OpenClipTextEncoder((), name)
    questions = ["What, COL_our... is the 'cat'?", " is  (the) c.a-t! "]
    ids, _ = encoder.tokenizer(questions)
    wanted = open_clip.get_tokenizer(f"local-dir:{name}")(questions)
    assert torch.equal(ids, wanted[:, : ids.shape[1]])
    assert ids.tolist() != SubwordTokenizer(name)(questions)[0].tolist()
    text["tokenizer_kwargs"] = {"strip_sep_token": True}
    name, _ = save_clip(tmp_path, text=text)
    with pytest.raises(ValueError, match=r"cleans its words .*strip_sep_token.*give a `tokenizer`"):
        OpenClipTextEncoder((), name)


def test_rebuilt_without_the_folder(tmp_path: Path) -> None:
    name, _ = save_clip(tmp_path)
    encoder = OpenClipTextEncoder(["some", "words"], name, pretrained=True).eval()
    for file in tmp_path.iterdir():
        file.unlink()
    again = build(encoder.config).eval()
    again.load_state_dict(encoder.state_dict(), strict=True)
    batch = encoder.tokenizer(QUESTIONS)
    assert_close(again(*batch), encoder(*batch), rtol=0, atol=0)
    assert again.config == encoder.config
    assert encoder.arguments["words"] == ()


def test_a_configuration_has_no_weights() -> None:
    for encoder in (OpenClipTextEncoder, OpenClipImageEncoder):
        with pytest.raises(ValueError, match="config, pretrained: got both"):
            encoder(config={"embed_dim": 8}, pretrained="openai")
