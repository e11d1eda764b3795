"""An untrusted tokenizer that expands words to gigabytes, or requests as much, is refused."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from vlm.adapters.blip import BlipAnswers
from vlm.core.part import check_parts
from vlm.heads import SubwordAnswers
from vlm.pretrained.tokenizer_growth import tokenizer
from vlm.text import SubwordTokenizer

PADDING = {
    "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
    "pad_type_id": 0, "pad_token": "[PAD]",
}  # fmt: skip
MODEL = {"type": "WordLevel", "vocab": {"[PAD]": 0, "[UNK]": 1, "red": 2}, "unk_token": "[UNK]"}


def made(**steps: Any) -> str:
    return json.dumps({"version": "1.0", "padding": PADDING, "model": MODEL} | steps)


def chain(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"normalizer": {"type": "Sequence", "normalizers": list(steps)}}


def replace(content: str, **pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def template(*single: dict[str, Any], ids: int = 1) -> dict[str, Any]:
    special = {"[A]": {"id": "[A]", "ids": [0] * ids, "tokens": ["[A]"] * ids}}
    return {
        "type": "TemplateProcessing",
        "single": list(single),
        "pair": [],
        "special_tokens": special,
    }


def table(size: int, longest: int) -> dict[str, Any]:
    content = size.to_bytes(4, "little") + bytes(4) + b"x" * longest + b"\0"
    return {"type": "Precompiled", "precompiled_charsmap": b64encode(content).decode()}


TEXT, MARK = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[A]", "type_id": 0}}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
HOSTILE = {
    "a long replacement": chain(replace("a" * 2000, String="a")),
    "a chain of replacements": chain(*[replace("a" * 20, String="a")] * 8),
    "replacements of nothing": chain(*[replace("aa", Regex="")] * 8),
    "replacements deeper down": chain(*[chain(replace("aaaa", String="a"))["normalizer"]] * 8),
    "a long text before": chain({"type": "Prepend", "prepend": "a" * 10**6}),
    "bytes of bytes": {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTES] * 30},
    },
    "a decoder": {"decoder": replace("a" * 2000, String="a")},
    "a table that is not there": chain(table(2**32 - 1, 1)),
    "a table of long texts": chain(table(4, 10**5)),
    "no table": chain({"type": "Precompiled", "precompiled_charsmap": 3}),
    "a text thirty times": {"post_processor": template(*[TEXT] * 30)},
    "many special tokens": {"post_processor": template(*[MARK] * 1000, TEXT)},
    "long special tokens": {"post_processor": template(MARK, TEXT, ids=10**5)},
    "no template": {"post_processor": {"type": "TemplateProcessing", "single": 3}},
    "no pattern": chain({"type": "Replace", "content": "a"}),
}


@pytest.mark.parametrize("steps", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_tokenizer_is_refused_before_it_is_made(steps: dict[str, Any]) -> None:
    config = {
        "class_path": "vlm.text.SubwordTokenizer",
        "init_args": {"name": None, "json": made(**steps), "max_length": 10**9},
    }
    with pytest.raises(ValueError, match=r"SubwordTokenizer\.json: .*(times|damaged|special)"):
        check_parts(config)


@pytest.mark.parametrize(
    "make",
    [
        lambda json: SubwordTokenizer(json=json),
        lambda json: SubwordAnswers(json=json, end="[PAD]"),
        lambda json: BlipAnswers(json, 0, 0, 3),
    ],
    ids=["questions", "answers", "BLIP's answers"],
)
@pytest.mark.parametrize("steps", HOSTILE.values(), ids=HOSTILE)
def test_none_is_made_in_a_training_either(
    steps: dict[str, Any], make: Callable[[str], object]
) -> None:
    with pytest.raises(ValueError, match=r"^json: .*(times|damaged|special)"):
        make(made(**steps))


@pytest.mark.parametrize("make", [SubwordTokenizer, partial(SubwordAnswers, end="[PAD]")])
def test_none_is_made_of_a_model_s_name(make: Callable[[str], object], tmp_path: Path) -> None:
    backend = Tokenizer.from_str(made(**HOSTILE["a long replacement"]))
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(tmp_path))}: .*1,000 times"):
        make(str(tmp_path))


@pytest.mark.parametrize("text", [3, "", "{", "[]", "3", "[" * 10**5])
def test_what_is_no_tokenizer_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="got "):
        tokenizer(text)


def test_the_steps_of_known_models_are_allowed() -> None:
    space, nfkc = {"Regex": " {2,}"}, table(4, 33)
    steps = [
        {"type": "Strip", "strip_left": True, "strip_right": True},
        *(replace(" ", String="_"), replace("", Regex="[!.]"), replace('"', String="``")),
        *(nfkc, replace("\u2581", **space), {"type": "Prepend", "prepend": "\u2581"}),
        *(replace("\u2581", String=" "), {"type": "Lowercase"}, {"type": "NFKC"}),
    ]
    more = {"pre_tokenizer": BYTES, "decoder": BYTES, "post_processor": template(MARK, TEXT, MARK)}
    tokenizer(made(**chain(*steps), **more))
    plain = made(**chain(replace(" ", Regex=r"\s+")), post_processor=template(MARK, TEXT))
    tokenizer(plain)
    assert SubwordTokenizer(json=plain).ids("red") == (0, 2)
