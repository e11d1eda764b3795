"""Pretrained language models as decoders: tiny ones with random weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from generation import as_gpt2, theirs  # benchmarks/generation.py
from torch.nn import functional as F
from torch.testing import assert_close

from vlm.core.batch import Batch
from vlm.core.features import Features
from vlm.core.part import build
from vlm.heads import Generation, HuggingFaceDecoder, SubwordAnswers, TransformerDecoder
from vlm.heads.generation.beam_search import search
from vlm.heads.generation.decoder import Memory

KINDS = ("gpt2", "llama", "bloom", "t5", "bart")
GIVEN = ["dark", "red cat", "a cat", "cat", "a dark red"]


def save(kind: str, folder: Path) -> Path:
    """Save a configuration and a tokenizer of ten pieces, in the hub's format."""
    import transformers

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dark", "red", "##dish", "a", "cat"]
    (folder / "vocab.txt").write_text("\n".join(pieces))
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    ends = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    two = {"num_hidden_layers": 2, "num_attention_heads": 2}
    configs: dict[str, tuple[str, dict[str, Any]]] = {
        "gpt2": ("GPT2Config", {"n_embd": 14, "n_head": 2, "n_layer": 2, "n_positions": 19}),
        "llama": ("LlamaConfig", {"hidden_size": 12, "intermediate_size": 17, **two}),
        "bloom": ("BloomConfig", {"hidden_size": 14, "n_layer": 2, "n_head": 2}),
        "t5": ("T5Config", {"d_model": 14, "d_kv": 7, "d_ff": 17, "num_layers": 2, "num_heads": 2}),
        "bart": (
            "BartConfig",
            {"d_model": 14, "encoder_layers": 2, "decoder_layers": 2, "decoder_ffn_dim": 17}
            | {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 19}
            | {"max_position_embeddings": 41},
        ),
    }
    name, sizes = configs[kind]
    if kind in ("t5", "bart"):
        ends["decoder_start_token_id"] = {"t5": 0, "bart": 3}[kind]
    getattr(transformers, name)(vocab_size=11, **sizes, **ends).save_pretrained(folder)
    return folder


def make(kind: str, folder: Path, beams: int = 1) -> Generation:
    decoder = partial(
        HuggingFaceDecoder, name=str(save(kind, folder)), pretrained=False, max_length=7
    )
    head = Generation(13, decoder, beams=beams).eval()
    for parameter in head.decoder.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.6)
    return head


def fused() -> Features:
    mask = torch.arange(7) < torch.tensor([7, 3, 1, 5, 0])[:, None]
    return Features(torch.randn(5, 7, 13), mask, torch.randn(5, 13))


def ask(head: Generation) -> Batch:
    targets = head.encode_targets([[text] for text in GIVEN])
    return Batch(None, None, None, None, targets, list("12345"), 5)


@pytest.mark.parametrize("kind", KINDS)
def test_no_questions_have_no_answers(kind: str, tmp_path: Path) -> None:
    head, nothing = make(kind, tmp_path, beams=3), torch.empty(0, dtype=torch.long)
    output = head(fused().take(nothing), ask(head))
    assert head.decode(output, 3) == []
    assert head.evidence(output, []).shape == (0,)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_batch_change_nothing(kind: str, beams: int, tmp_path: Path) -> None:
    head, joint = make(kind, tmp_path, beams), fused()
    batch = ask(head)
    output = head(joint, batch)
    wanted, evidence = texts(head, output), head.evidence(output, GIVEN)
    assert len({str(row) for row in wanted}) > 2  # else equality would prove nothing

    mask = F.pad(joint.mask, (0, 3))
    junk = F.pad(joint.tokens, (0, 0, 0, 3)).masked_fill(~mask[..., None], float("nan"))
    padded = head(Features(junk, mask, joint.pooled), batch)
    assert texts(head, padded) == wanted
    assert_close(head.evidence(padded, GIVEN), evidence, rtol=1e-4, atol=1e-4)
    for row in range(5):
        alone = head(joint.take(torch.tensor([row])), batch)
        assert texts(head, alone) == wanted[row : row + 1]


def texts(head: Generation, output: Memory) -> list[list[list[int]]]:
    found = search(head.decoder, output, head.beams, 1, 0.0)
    return [[text.ids for text in row] for row in found]


@pytest.mark.parametrize("kind", KINDS)
def test_steps_with_the_cache_are_one_pass_without(kind: str, tmp_path: Path) -> None:
    head = make(kind, tmp_path, beams=3)
    output = head(fused(), ask(head))
    for row, found in enumerate(search(head.decoder, output, 3, 1, 0.0)):
        memory = Memory(output.tokens[row : row + 1], output.mask[row : row + 1])
        for ids, log_likelihood, finished in found:
            whole = torch.tensor([ids + [head.decoder.tokenizer.end] * finished])
            evidence = head._log_likelihood(memory, whole, torch.ones_like(whole).bool())
            assert evidence.item() == pytest.approx(log_likelihood, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_text_alone(kind: str, tmp_path: Path) -> None:
    """No logits are computed for the joint tokens: they would be wasted on a large vocabulary."""
    head = make(kind, tmp_path)
    memory = head(fused(), ask(head))
    made = []
    outputs = head.decoder.model.get_output_embeddings()
    outputs.register_forward_hook(lambda *given: made.append(given[2].shape[1]))
    head.decoder(torch.zeros(5, 3, dtype=torch.long), head.decoder.start(memory))
    head.decode(memory, top_k=1)
    assert made[0] == 3
    assert set(made[1:]) == {1}


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns(kind: str, tmp_path: Path) -> None:
    """Every trainable parameter gets a gradient, as DDP requires; T5's encoder is removed."""
    head = make(kind, tmp_path)
    head.loss(head(fused(), ask(head)), ask(head)).backward()
    without = [n for n, p in head.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert not [name for name, _ in head.named_parameters() if "encoder.block" in name]


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_it_is_rebuilt_without_its_folder(kind: str, tmp_path: Path) -> None:
    head, joint = make(kind, tmp_path, beams=2), fused()
    wanted = head.decode(head(joint, ask(head)), 2)
    for file in tmp_path.iterdir():
        file.unlink()
    again = build(head.config)
    again.load_state_dict(head.state_dict())
    assert again.eval().decode(again(joint, ask(again)), 2) == wanted


def test_weights_of_a_folder_are_loaded(tmp_path: Path) -> None:
    import transformers

    config = transformers.AutoConfig.from_pretrained(save("gpt2", tmp_path))
    model = transformers.GPT2LMHeadModel(config)
    model.save_pretrained(tmp_path)
    decoder = HuggingFaceDecoder(13, name=str(tmp_path))
    assert decoder.model.transformer.wpe.weight.equal(model.transformer.wpe.weight)
    assert isinstance(decoder.tokenizer, SubwordAnswers)
    assert not decoder.arguments["pretrained"]


def test_a_model_that_is_not_there_offline_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OSError, match=r"some/decoder: the model could not be loaded; looked in"):
        Generation(13, partial(HuggingFaceDecoder, name="some/decoder"))


def test_joint_tokens_must_fit_the_positions(tmp_path: Path) -> None:
    head = make("gpt2", tmp_path)  # 19 positions, 7 of them for the answer
    longer = Features(torch.randn(5, 12, 13))
    with pytest.raises(
        ValueError, match=r"got 13 joint tokens and answers of up to 7; expected 19"
    ):
        head.decode(head(longer, ask(head)), 1)
    padded = longer._replace(mask=torch.arange(12) < torch.full((5, 1), 11))
    assert head.decode(head(padded, ask(head)), 1)
    folder = str(save("bart", tmp_path))  # 41 positions
    with pytest.raises(ValueError, match=r"max_length: got 42; expected at most 41"):
        HuggingFaceDecoder(13, folder, pretrained=False, max_length=42)
    assert HuggingFaceDecoder(13, folder, pretrained=False, max_length=41)


def test_wrong_configurations() -> None:
    with pytest.raises(ValueError, match=r"config: got \['n_embd'\] without 'model_type'"):
        HuggingFaceDecoder(13, config={"n_embd": 14})
    small = {"model_type": "gpt2", "vocab_size": 5, "n_embd": 14, "n_head": 2, "n_layer": 1}
    small |= {"bos_token_id": 1, "eos_token_id": 2}
    with pytest.raises(ValueError, match=r"tokenizer: got None with a config"):
        HuggingFaceDecoder(13, config=small)
    from vlm.heads import ByteTokenizer

    with pytest.raises(ValueError, match=r"tokenizer: got 257 ids for .* which has 5"):
        HuggingFaceDecoder(13, config=small, tokenizer=ByteTokenizer())


@pytest.mark.parametrize("beams", [1, 3])
def test_transformers_writes_the_same_texts(beams: int) -> None:
    """GPT-2 with cross-attention and our decoder's weights `generate`s the same texts."""
    decoder = TransformerDecoder(
        10, 10, num_layers=2, num_heads=2, feedforward_dim=17, max_length=11
    )
    decoder.eval()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    mask = torch.arange(7) < torch.tensor([7, 3, 1, 5, 2])[:, None]
    tokens = torch.randn(5, 7, 10)
    read = decoder.memory(tokens).detach()
    model = as_gpt2(decoder)
    begin = torch.full((5, 1), decoder.tokenizer.begin)
    inputs = {"encoder_hidden_states": read, "encoder_attention_mask": mask.long()}
    logits = model(input_ids=begin, **inputs).logits
    assert_close(decoder(begin, decoder.start(Memory(tokens, mask))), logits, rtol=1e-4, atol=1e-4)
    write = theirs(
        model, decoder, beams, input_ids=begin, attention_mask=torch.ones_like(begin), **inputs
    )
    found = search(decoder, Memory(tokens, mask), beams, 0, 0.0)
    assert [row[0].ids for row in found] == write()
