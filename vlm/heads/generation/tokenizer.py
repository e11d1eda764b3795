"""From answers to token ids and back, for heads that write their answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from vlm.core.part import Configured
from vlm.core.safe_config import nothing
from vlm.core.validation import check_positive
from vlm.image.as_text import is_picture
from vlm.pretrained.pruning import hub_tokenizer
from vlm.pretrained.tokenizer_growth import read_tokenizer, tokenizer
from vlm.text.pieces import unknown_id


class AnswerTokenizer(Configured, ABC):
    """Base of the answer tokenizers, from answers to ids and back.

    Attributes:
        vocab_size: number of ids, including those before and after an answer.
        begin: id before an answer.
        end: id after an answer; may be the same as `begin`.

    Example:
        >>> tokenizer = vlm.heads.ByteTokenizer()
        >>> isinstance(tokenizer, vlm.heads.AnswerTokenizer)
        True
        >>> tokenizer.vocab_size, tokenizer.begin, tokenizer.end
        (257, 256, 256)
    """

    vocab_size: int
    begin: int
    end: int

    @abstractmethod
    def encode(self, answer: str) -> Sequence[int]:
        """Ids of an answer, without those before and after it.

        Raises:
            ValueError: a text that cannot be written with these ids.
        """

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of any ids."""


class ByteTokenizer(AnswerTokenizer):
    """The bytes of UTF-8: writes any text and needs no vocabulary.

    Ids 0 to 255 are the bytes; 256 is the id before and after an answer.

    Example:
        >>> tokenizer = vlm.heads.ByteTokenizer()
        >>> tokenizer.encode("red")
        [114, 101, 100]
        >>> tokenizer.decode(tokenizer.encode("red"))
        'red'
    """

    vocab_size, begin, end = 257, 256, 256

    def encode(self, answer: str) -> Sequence[int]:
        return list(answer.encode())

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; bytes that are not UTF-8, such as half a letter, become U+FFFD."""
        return bytes(i for i in ids if i < 256).decode(errors="replace")


class WordsAndCodes(AnswerTokenizer):
    """The ids of words, after them one that begins a picture, and after that its codes.

    An answer that is a picture is encoded as the id that begins one: a `Drawing` head adds the
    codes. `decode` leaves out what is no word.

    Args:
        codes: number of codes.
        words: tokenizer of the words; None for their bytes.

    Attributes:
        picture: the id that begins a picture.
        first_code: the id of the first code.

    Example:
        >>> tokenizer = vlm.heads.WordsAndCodes(codes=8)
        >>> tokenizer.encode("red"), tokenizer.picture, tokenizer.vocab_size
        ([114, 101, 100], 257, 266)
    """

    def __init__(self, codes: int = 2048, words: AnswerTokenizer | None = None) -> None:
        check_positive(codes=codes)
        self.codes, self.words = codes, words or ByteTokenizer()
        self.begin, self.end = self.words.begin, self.words.end
        self.picture = self.words.vocab_size
        self.first_code = self.picture + 1
        self.vocab_size = self.first_code + codes

    def encode(self, answer: str) -> Sequence[int]:
        return [self.picture] if is_picture(answer) else self.words.encode(answer)

    def decode(self, ids: Sequence[int]) -> str:
        return self.words.decode([i for i in ids if i < self.picture])


class SubwordAnswers(AnswerTokenizer):
    """The word pieces of a pretrained model.

    After construction, `arguments` holds the whole tokenizer as JSON instead of its name.

    Args:
        name: a model of the Hugging Face hub, or a local folder.
        json: the text of a `tokenizer.json` instead.
        begin: token before an answer, such as "[CLS]"; None for the token with which texts of
            `name` start, or else `end`.
        end: token after an answer, such as "[SEP]" or "</s>"; None for that of `name`.
        after: text before an answer, because the pieces depend on it.
        space: text between `after` and an answer.

    Raises:
        ValueError: both or neither of `name` and `json`, no `end`, a token that is not in the
            vocabulary, or a tokenizer that makes a text too long.
        OSError: the tokenizer is neither in the cache nor available.

    Example:
        >>> from tokenizers import Tokenizer, models
        >>> subwords = Tokenizer(models.BPE({"</s>": 0, "d": 1, "e": 2, "r": 3}, []))
        >>> tokenizer = vlm.heads.SubwordAnswers(json=subwords.to_str(), end="</s>")
        >>> tokenizer.encode("red")
        [3, 2, 1]
    """

    stored: ClassVar = {"name": nothing, "json": tokenizer}

    def __init__(
        self,
        name: str | None = None,
        json: str | None = None,
        begin: str | None = None,
        end: str | None = None,
        after: str = "",
        space: str = "",
    ) -> None:
        if (name is None) == (json is None):
            raise ValueError(
                f"name, json: got {name!r} and a json of {json and len(json)}; give one."
            )
        if json is None:
            json, own_begin, own_end = _fetch(str(name))
            begin, end = begin or own_begin, end or own_end
        if end is None:
            raise ValueError(
                f"end: got None, but {name or 'a json'!r} names no token for the end of a text; "
                f"expected one, such as '[SEP]' or '</s>'."
            )
        begin = begin or end
        self.arguments.update(name=None, json=json, begin=begin, end=end)
        self._backend = read_tokenizer(json, name or "json")
        self._backend.no_truncation()
        self._backend.no_padding()
        self.vocab_size = max(self._backend.get_vocab(with_added_tokens=True).values()) + 1
        self.begin, self.end = self._id("begin", begin), self._id("end", end)
        self._unknown = unknown_id(self._backend)
        self._after, self._space = after, space
        self._before = self._pieces(after).ids

    def _id(self, argument: str, token: str) -> int:
        found = self._backend.token_to_id(token)
        if found is None:
            raise ValueError(
                f"{argument}: got {token!r}, which is no token of this vocabulary; expected one of "
                f"its special tokens."
            )
        return found

    def token(self, number: int) -> str:
        """The text of the token with this id."""
        return str(self._backend.id_to_token(number))

    def _pieces(self, text: str) -> Any:
        return self._backend.encode(text, add_special_tokens=False)

    def encode(self, answer: str) -> Sequence[int]:
        encoding = self._pieces(self._space + answer)
        if self._unknown is not None and self._unknown in encoding.ids:
            start, end = encoding.offsets[encoding.ids.index(self._unknown)]
            piece = (self._space + answer)[start:end]
            raise ValueError(
                f"answers: got {answer!r}, of which {piece!r} is not in the decoder's "
                f"vocabulary of {self.vocab_size:,} pieces; expected text that it can write. "
                f"ByteTokenizer writes any."
            )
        if self._before:
            whole = self._pieces(self._after + self._space + answer).ids
            if whole[: len(self._before)] == self._before:
                return list(whole[len(self._before) :])
        return list(encoding.ids)

    def decode(self, ids: Sequence[int]) -> str:
        return self._backend.decode(list(ids), skip_special_tokens=True).strip()


def _fetch(name: str) -> tuple[str, str | None, str | None]:
    """The tokenizer of a hub name or local folder as JSON, its first and its last token."""
    tokenizer = hub_tokenizer(name)
    begin = tokenizer.bos_token or tokenizer.cls_token
    return tokenizer.backend_tokenizer.to_str(), begin, tokenizer.eos_token or tokenizer.sep_token
