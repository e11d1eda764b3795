"""What Recurrent, Transformer and HuggingFaceEncoder share, and the numbers of each."""

import subprocess
import sys
from collections.abc import Callable
from json import dumps, loads
from pathlib import Path

import pytest
import torch
from own_time import own_time
from test_subword import save_tokenizer
from torch import nn
from torch.testing import assert_close
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5Model,
)

from vlm.core.part import build
from vlm.text import (
    HuggingFaceEncoder,
    Recurrent,
    SubwordTokenizer,
    TextEncoder,
    Transformer,
    WordTokenizer,
)

# Maximum lengths are short here; test_tokenizer.py tests the warning.
pytestmark = pytest.mark.filterwarnings("ignore:Questions cut to")

WORDS = ["what", "colour", "is", "the", "cat"]
QUESTIONS = ["what colour is the cat", "cat", "", "is the xylophone"]


def save_bert(folder: Path, **changes: int) -> Path:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 13,
        "hidden_size": 22,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 17,
        "max_position_embeddings": 23,
        "pad_token_id": 3,
    }
    BertModel(BertConfig(**(sizes | changes))).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bert(tmp_path_factory) -> Path:
    return save_tokenizer(save_bert(tmp_path_factory.mktemp("bert")))


def pretrained(folder: Path) -> HuggingFaceEncoder:
    return HuggingFaceEncoder(
        WORDS, str(folder), tokenizer=SubwordTokenizer(str(folder), max_length=7)
    )


MAKERS: dict[str, Callable[[Path], TextEncoder]] = {
    "gru": lambda _: Recurrent(WORDS, 11, embedding_dim=13),
    "lstm": lambda _: Recurrent(WORDS, 11, "lstm", embedding_dim=13, num_layers=2),
    "bidirectional": lambda _: Recurrent(
        WORDS, 14, embedding_dim=13, num_layers=2, bidirectional=True
    ),
    "transformer": lambda _: Transformer(WORDS, 21, num_heads=3, feedforward_dim=17, max_length=7),
    "huggingface": pretrained,
}


@pytest.fixture(params=MAKERS)
def encoder(request, bert: Path) -> TextEncoder:
    torch.manual_seed(0)
    made = MAKERS[request.param](bert)
    for parameter in made.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def test_shapes_and_an_empty_question(encoder: TextEncoder) -> None:
    ids, _ = encoder.tokenizer(QUESTIONS)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, 2:], mask[2] = False, False
    features = encoder(ids, mask)
    assert features.tokens.shape == (*ids.shape, encoder.dim)
    assert features.tokens.isfinite().all()
    assert features.pooled.shape == (4, encoder.dim)
    assert features.pooled[2].abs().sum() == 0
    assert (features.pooled[[0, 1, 3]].abs().sum(1) > 0).all()
    features.pooled.sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("result", ["tokens", "pooled"])
def test_every_parameter_gets_a_gradient(encoder: TextEncoder, result: str) -> None:
    value = getattr(encoder(*encoder.tokenizer(QUESTIONS)), result)
    (value * torch.randn_like(value)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.requires_grad, name
        assert parameter.grad is not None, name
        # A key bias shifts all scores of a query equally, which cancels in the softmax.
        if not name.endswith("key.bias"):
            assert parameter.grad.abs().sum() > 1e-6, name


def test_padding_order_and_size_of_the_batch_change_nothing(encoder: TextEncoder) -> None:
    ids, mask = encoder.tokenizer(QUESTIONS)
    whole = encoder(ids, mask)
    junk = encoder(torch.where(mask, ids, 10**6), mask)
    turned = encoder(ids.flip(0), mask.flip(0))
    longer = encoder(nn.functional.pad(ids, (0, 2)), nn.functional.pad(mask, (0, 2)))
    assert not torch.allclose(whole.pooled[0], whole.pooled[3], atol=1e-4)
    for other in (junk, turned._replace(tokens=turned.tokens.flip(0), pooled=turned.pooled.flip(0)),
                  longer._replace(tokens=longer.tokens[:, :-2])):  # fmt: skip
        assert_close(other.tokens[mask], whole.tokens[mask], rtol=1e-5, atol=1e-5)
        assert_close(other.pooled, whole.pooled, rtol=1e-5, atol=1e-5)
    for i, question in enumerate(QUESTIONS):
        single = encoder(*encoder.tokenizer([question]))
        assert_close(single.pooled[0], whole.pooled[i], rtol=1e-5, atol=1e-5)
        words = int(mask[i].sum())
        assert_close(single.tokens[0, :words], whole.tokens[i, :words], rtol=1e-5, atol=1e-5)


def test_rebuilt_from_its_config(encoder: TextEncoder, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    stored = loads(dumps(encoder.config))
    again = build(stored).eval()
    again.load_state_dict(encoder.state_dict(), strict=True)
    batch = encoder.tokenizer(QUESTIONS)
    for ours, theirs in zip(again.tokenizer(QUESTIONS), batch, strict=True):
        assert torch.equal(ours, theirs)
    assert_close(again(*batch).tokens, encoder(*batch).tokens, rtol=0, atol=0)
    assert loads(dumps(again.config)) == stored


@pytest.mark.slow
def test_compiled_and_exported(encoder: TextEncoder) -> None:
    batch = encoder.tokenizer(QUESTIONS)
    want = encoder(*batch)
    compiled = torch.compile(encoder, backend="aot_eager", fullgraph=True)(*batch)
    exported = torch.export.export(encoder, batch).module()(*batch)
    for got in (compiled, exported):
        assert_close(got.tokens, want.tokens, rtol=1e-5, atol=1e-5)
        assert_close(got.pooled, want.pooled, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent_is_torchs_on_each_question_alone(cell: str, bidirectional: bool) -> None:
    torch.manual_seed(0)
    encoder = Recurrent(
        WORDS, 14, cell, embedding_dim=13, num_layers=2, bidirectional=bidirectional
    ).eval()
    halves = 2 if bidirectional else 1
    reference = {"gru": nn.GRU, "lstm": nn.LSTM}[cell](
        13, 14 // halves, num_layers=2, batch_first=True, bidirectional=bidirectional
    )
    state = {}
    for ending, directions in (("", encoder.forwards), ("_reverse", encoder.backwards)):
        for name, value in directions.state_dict().items():
            layer, weight = name.split(".")
            state[weight[:-1] + layer + ending] = value
    reference.load_state_dict(state)
    features = encoder(*encoder.tokenizer(QUESTIONS))
    for i, question in enumerate(QUESTIONS):
        ids = encoder.tokenizer.ids(question)
        if not ids:
            continue
        tokens = reference(encoder.embedding(torch.tensor([ids])))[0][0]
        assert_close(features.tokens[i, : len(ids)], tokens, rtol=1e-5, atol=1e-6)
        half = tokens[0, 7:] if bidirectional else tokens[0, :0]
        pooled = torch.cat((tokens[-1, : 14 // halves], half))
        assert_close(features.pooled[i], pooled, rtol=1e-5, atol=1e-6)


def test_transformer_is_a_bert() -> None:
    encoder = Transformer(WORDS, 21, num_heads=3, feedforward_dim=17, max_length=7).eval()
    config = BertConfig(
        vocab_size=7, hidden_size=21, num_hidden_layers=2, num_attention_heads=3,
        intermediate_size=17, max_position_embeddings=7, type_vocab_size=1,
        attn_implementation="eager",
    )  # fmt: skip
    reference = BertModel(config, add_pooling_layer=False).eval()
    reference.load_state_dict(encoder.model.state_dict(), strict=True)
    ids, mask = encoder.tokenizer(["what colour is the cat", "cat"])
    want = reference(ids, attention_mask=mask.long()).last_hidden_state
    assert_close(encoder(ids, mask).tokens[mask], want[mask], rtol=1e-5, atol=1e-5)


def test_transformer_cuts_at_its_positions() -> None:
    encoder = Transformer(WORDS, 21, num_heads=3, max_length=3)
    ids, mask = encoder.tokenizer(["what colour is the cat"])
    assert ids.shape == (1, 3)
    assert encoder(ids, mask).tokens.shape == (1, 3, 21)
    tokenizer = WordTokenizer(WORDS, max_length=11)
    with pytest.raises(ValueError, match="got max_length=11, with 3 positions here"):
        Transformer(WORDS, 21, num_heads=3, max_length=3, tokenizer=tokenizer)
    assert tokenizer.max_length == 11


def test_roberta_never_uses_its_first_positions(bert: Path, tmp_path: Path) -> None:
    sizes = {"hidden_size": 14, "num_attention_heads": 2, "intermediate_size": 17}
    config = RobertaConfig(
        vocab_size=40, num_hidden_layers=1, max_position_embeddings=9, pad_token_id=1, **sizes
    )
    RobertaModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"max_length=8; .* has 7 positions"):
        HuggingFaceEncoder((), str(tmp_path), tokenizer=SubwordTokenizer(str(bert), max_length=8))
    encoder = HuggingFaceEncoder(
        (), str(tmp_path), tokenizer=SubwordTokenizer(str(bert), max_length=7)
    )
    ids, mask = encoder.tokenizer(["what colour is the cat " * 3])
    assert ids.shape == (1, 7)
    assert encoder(ids, mask).tokens.isfinite().all()


def test_huggingface_is_the_model_in_the_folder(bert: Path) -> None:
    encoder = pretrained(bert)
    assert encoder.training
    assert all(module.training for module in encoder.modules())
    encoder.eval()
    reference = AutoModel.from_pretrained(bert).eval()
    ids, mask = encoder.tokenizer(QUESTIONS)
    want = reference(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    features = encoder(ids, mask)
    assert_close(features.tokens[mask], want[mask], rtol=1e-5, atol=1e-5)
    assert_close(features.pooled[1], want[1, mask[1]].mean(0), rtol=1e-5, atol=1e-5)
    assert not [name for name, _ in encoder.named_parameters() if "pooler" in name]

    random = HuggingFaceEncoder(name=str(bert), pretrained=False).eval()
    assert random.tokenizer.max_length == 23
    assert {n: p.shape for n, p in random.named_parameters()} == {
        n: p.shape for n, p in encoder.named_parameters()
    }
    assert not torch.allclose(random(ids, mask).pooled, features.pooled, atol=1e-4)


def test_huggingface_takes_the_encoder_of_two(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=13, d_model=22, d_kv=5, d_ff=17, num_layers=2, num_heads=3, pad_token_id=3
    )
    T5Model(config).save_pretrained(save_tokenizer(tmp_path))
    encoder = HuggingFaceEncoder(name=str(tmp_path)).eval()
    ids, mask = encoder.tokenizer(QUESTIONS)
    reference = T5Model.from_pretrained(tmp_path).get_encoder().eval()
    want = reference(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    assert_close(encoder(ids, mask).tokens[mask], want[mask], rtol=1e-5, atol=1e-5)
    assert not [name for name, _ in encoder.named_parameters() if "decoder" in name]
    again = build(loads(dumps(encoder.config))).eval()
    again.load_state_dict(encoder.state_dict(), strict=True)
    assert_close(again(ids, mask).pooled, encoder(ids, mask).pooled, rtol=0, atol=0)


def test_huggingface_keeps_float32(tmp_path: Path) -> None:
    folder = save_tokenizer(save_bert(tmp_path))
    AutoModel.from_pretrained(folder).to(torch.bfloat16).save_pretrained(folder)
    encoder = pretrained(folder)
    for made in (encoder, build(encoder.config)):
        assert {p.dtype for p in made.parameters()} == {torch.float32}


def test_errors_name_the_argument(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cell: got 'rnn'"):
        Recurrent(WORDS, cell="rnn")
    with pytest.raises(ValueError, match="dim: got 7; expected an even number"):
        Recurrent(WORDS, 7, bidirectional=True)
    with pytest.raises(ValueError, match="num_heads: got 2, which does not divide dim=7"):
        Transformer(WORDS, 7, num_heads=2)
    with pytest.raises(ValueError, match=r"max_length=64; .* has 23 positions"):
        HuggingFaceEncoder(name=str(bert), tokenizer=SubwordTokenizer(str(bert)))
    few = save_tokenizer(save_bert(tmp_path, vocab_size=7))
    with pytest.raises(ValueError, match=r"tokenizer: got 11 ids .* has 7"):
        pretrained(few)
    config = pretrained(bert).arguments["config"]
    with pytest.raises(ValueError, match="tokenizer: got None with a config"):
        HuggingFaceEncoder(config=config)
    del config["model_type"]
    with pytest.raises(ValueError, match="without 'model_type'"):
        HuggingFaceEncoder(config=config, tokenizer=SubwordTokenizer(str(bert)))


def test_offline_fails_at_once_and_clearly(monkeypatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    start = own_time()
    with pytest.raises(OSError, match=r"(?s)bert-base-uncased: .*HF_HUB_OFFLINE is set"):
        HuggingFaceEncoder()
    assert own_time() - start < 2
    BertConfig().save_pretrained(tmp_path)  # and no weights
    with pytest.raises(OSError, match="looked in this folder"):
        HuggingFaceEncoder(name=str(tmp_path))


def test_importing_the_encoders_loads_no_model_library() -> None:
    code = (
        "import sys, vlm.image, vlm.text; "
        "heavy = {'timm', 'transformers', 'tokenizers', 'huggingface_hub'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_pickled_transformer_works_in_a_new_process(tmp_path: Path) -> None:
    """Its kind of attention mask is registered with transformers, process by process."""
    torch.save(Transformer(["is", "it"], dim=8, num_heads=2).eval(), tmp_path / "encoder.pt")
    code = (
        "import torch\n"
        "encoder = torch.load('encoder.pt', weights_only=False)\n"
        "print(encoder(*encoder.tokenizer(['is it?'])))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "Features(1 x 2 x 8, 2 real)\n", done.stderr
