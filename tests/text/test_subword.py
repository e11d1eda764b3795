"""SubwordTokenizer: the ids of transformers, special tokens kept after cutting, no network."""

import pickle
from json import dumps, loads
from pathlib import Path

import pytest
import torch
from own_time import own_time
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from vlm.core.part import build
from vlm.text import SubwordTokenizer

# Maximum lengths are short here; test_tokenizer.py tests the warning.
pytestmark = pytest.mark.filterwarnings("ignore:Questions cut to")

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "what", "col", "##our", "is", "the", "cat", "?"]
QUESTIONS = ["what colour is the cat?", "cat", "", "is the xylophone what?"]


def save_tokenizer(folder: Path) -> Path:
    """Save a BERT tokenizer with unusual ids: padding is 3."""
    pieces = PIECES[1:4] + PIECES[:1] + PIECES[4:]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tokenizer(tmp_path / "tokenizer")


@pytest.mark.parametrize("max_length", [3, 5, 64])
def test_ids_are_those_of_transformers(folder: Path, max_length: int) -> None:
    ours = SubwordTokenizer(str(folder), max_length=max_length)
    theirs = AutoTokenizer.from_pretrained(folder)
    want = theirs(
        QUESTIONS, padding=True, truncation=True, max_length=max_length, return_tensors="pt"
    )
    ids, mask = ours(QUESTIONS)
    assert torch.equal(ids, want["input_ids"])
    assert torch.equal(mask, want["attention_mask"].bool())
    assert ours.pad_id == theirs.pad_token_id == 3
    assert ours.vocab_size == len(theirs) == 11


def test_by_hand(folder: Path) -> None:
    tokenizer = SubwordTokenizer(str(folder), max_length=5)
    assert tokenizer.tokens("what colour is") == ["[CLS]", "what", "col", "##our", "[SEP]"]
    assert tokenizer.tokens("") == ["[CLS]", "[SEP]"]
    assert tokenizer.unknown("is the xylophone what zebra") == ["xylophone", "zebra"]
    assert tokenizer.unknown("what colour is the cat?") == []
    # A model with fewer positions lowers the maximum later: cached ids must not survive.
    tokenizer.max_length = 3
    assert tokenizer.tokens("what colour is") == ["[CLS]", "what", "[SEP]"]
    assert [tokenizer.length(q) for q in ("", "cat", "what colour is")] == [2, 3, 6]
    tokenizer(["cat", "what colour is", "is cat"])
    assert tokenizer.cut == 2


def test_pickled_and_rebuilt_without_the_folder(folder: Path) -> None:
    tokenizer = SubwordTokenizer(str(folder), max_length=7)
    want = tokenizer(QUESTIONS)
    for file in folder.iterdir():
        file.unlink()
    stored = loads(dumps(tokenizer.config))
    assert stored["init_args"]["name"] is None
    for again in (pickle.loads(pickle.dumps(tokenizer)), build(stored)):
        assert all(torch.equal(a, b) for a, b in zip(again(QUESTIONS), want, strict=True))
        assert (again.pad_id, again.max_length, again.vocab_size) == (3, 7, 11)
        assert again.unknown("zebra cat") == ["zebra"]
        assert again.config == tokenizer.config


def test_a_tokenizer_without_special_tokens(tmp_path: Path) -> None:
    backend = Tokenizer(models.WordLevel({"cat": 0, "<unk>": 1}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="cat").save_pretrained(tmp_path)
    tokenizer = SubwordTokenizer(str(tmp_path))
    assert list(tokenizer.ids("")) == []
    ids, mask = tokenizer(["", "cat cat dog"])
    assert ids.tolist() == [[0, 0, 0], [0, 0, 1]]
    assert mask.tolist() == [[False] * 3, [True] * 3]


def test_errors_name_the_argument(folder: Path) -> None:
    with pytest.raises(ValueError, match="name, json: got None"):
        SubwordTokenizer()
    with pytest.raises(ValueError, match="max_length: got 2; expected an integer above 2"):
        SubwordTokenizer(str(folder), max_length=2)
    stored = loads(SubwordTokenizer(str(folder)).arguments["json"])
    stored["padding"] = None
    with pytest.raises(ValueError, match=r"json: .*no pad id.*enable_padding"):
        SubwordTokenizer(json=dumps(stored))


def test_offline_fails_at_once_and_clearly(monkeypatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    start = own_time()
    with pytest.raises(OSError, match=r"(?s)nobody/no-model: .*HF_HUB_OFFLINE is set"):
        SubwordTokenizer("nobody/no-model")
    assert own_time() - start < 2


def test_bytes_of_a_letter_are_shown_as_the_letter() -> None:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(["ein café"] * 9, trainer)
    backend.enable_padding()
    tokens = SubwordTokenizer(json=backend.to_str()).tokens("ein café ñ")
    assert tokens[:2] == ["ein", "\u0120café"]
    assert set(tokens[3:]) == {"\ufffd"}  # two bytes of one letter
