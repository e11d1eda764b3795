"""Questions in the prompt of a language model, which reads their tokens itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from json import loads
from typing import ClassVar

import torch
from torch import Tensor

from vlm.core.features import masked_mean
from vlm.core.safe_config import nothing
from vlm.pretrained.chat import PROMPT, QUESTION, check_slots, read_chat
from vlm.pretrained.tokenizer_growth import read_tokenizer, tokenizer
from vlm.text.base import TextEncoder
from vlm.text.pieces import piece_texts, unknown_id, unknown_pieces
from vlm.text.tokenizer import Tokenizer, check_max_length


class PromptTokenizer(Tokenizer):
    """A question in a prompt, with one place for the image.

    A question that is too long loses its first pieces, since what is asked, or the last turn of a
    dialogue, stands at the end; the rest of the prompt stays.

    Args:
        json: the text of a `tokenizer.json`. It needs no padding token, since padding is masked.
        prompt: everything that the model reads before its answer, with {question} and `image_token`
            in it.
        image_token: the token that the image's own tokens replace. It only marks this place, and is
            added to a tokenizer that lacks it.
        max_length: number of tokens to which longer prompts are truncated. The image counts as one.

    Raises:
        ValueError: a prompt without exactly one place for the image and one for the question, or no
            room for a question; at use, a question with one of the model's control tokens.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> words = ["[UNK]", "is", "it", "red", "Answer", ":"]
        >>> model = models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]")
        >>> pieces = Tokenizer(model)
        >>> pieces.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = vlm.text.PromptTokenizer(pieces.to_str(), "<image> {question} Answer:")
        >>> tokenizer.tokens("is it red")
        ['<image>', 'is', 'it', 'red', 'Answer', ':']
    """

    stored: ClassVar = {"json": tokenizer}
    keeps: ClassVar[str] = "last"
    pad_id = 0

    def __init__(
        self, json: str, prompt: str, image_token: str = "<image>", max_length: int = 128
    ) -> None:
        check_slots("prompt", prompt, image_token)
        self._backend = read_tokenizer(json, "json")
        self._backend.no_padding()
        self._backend.no_truncation()
        self._backend.add_special_tokens([image_token])
        self.image_id = int(self._backend.token_to_id(image_token) or 0)
        self.prompt, self.image_token, self.max_length = prompt, image_token, max_length
        self.vocab_size = max(self._backend.get_vocab(with_added_tokens=True).values()) + 1
        self._unknown = unknown_id(self._backend)
        added = loads(self._backend.to_str())["added_tokens"]
        self._controls = [token["content"] for token in added if token["special"]]
        self._cached = lru_cache(maxsize=1 << 16)(self._encode)
        check_max_length(max_length, len(self._encode("")[0]))

    def check(self, question: str) -> None:
        """Refuse a question with one of the model's control tokens.

        Raises:
            ValueError: names the token.
        """
        for token in self._controls:
            if token in question:
                raise ValueError(
                    f"question: got {question!r:.80}, with the model's control token {token!r}; "
                    f"expected plain text."
                )

    def _encode(self, question: str) -> tuple[tuple[int, ...], int, int]:
        """Ids of the prompt, and the number of those before and after the question."""
        self.check(question)
        encoding = self._backend.encode(
            self.prompt.replace(QUESTION, question), add_special_tokens=False
        )
        start = self.prompt.index(QUESTION)
        end = start + len(question)
        before = sum(stop <= start for _, stop in encoding.offsets)
        return tuple(encoding.ids), before, sum(begin >= end for begin, _ in encoding.offsets)

    def ids(self, question: str) -> Sequence[int]:
        ids, before, _ = self._cached(question)
        over = max(0, len(ids) - self.max_length)
        return ids[:before] + ids[before + over :]

    def own(self, question: str) -> slice:
        _, before, after = self._cached(question)
        return slice(before, max(before, len(self.ids(question)) - after))

    def length(self, question: str) -> int:
        return len(self._cached(question)[0])

    def unknown(self, question: str) -> list[str]:
        return unknown_pieces(self._backend, question, self._unknown)

    def tokens(self, question: str) -> list[str]:
        return piece_texts(self._backend, self.ids(question))


class Prompt(TextEncoder):
    """A question in the chat template of a language model, for `vlm.heads.LanguageModel`.

    The language model embeds the tokens itself, so this part has no weights: the features are 1 for
    each token, and a connector such as `Projector` maps only the image to the model.

    After construction, `arguments` holds the tokenizer and the prompt as plain data, so vlm
    rebuilds it without hub, cache or folder.

    Args:
        words: words of the training questions, the first argument of every text encoder. Not used.
        name: a language model of the Hugging Face hub, or a local folder. Not read if `tokenizer`
            is given.
        prompt: the user's turn, with {image} and {question} in it, which the model's own chat
            template encloses.
        max_length: number of tokens to which longer prompts are truncated, at the question's
            beginning. The image counts as one.
        tokenizer: the tokenizer itself, instead of name, prompt and length.

    Raises:
        ValueError: a prompt or a template without exactly one place for the image, or an argument
            that `PromptTokenizer` refuses.
        OSError: the tokenizer is neither in the cache nor available.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> model = models.WordLevel({"[UNK]": 0, "red": 1}, unk_token="[UNK]")
        >>> pieces = Tokenizer(model)
        >>> pieces.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        >>> tokenizer = vlm.text.PromptTokenizer(pieces.to_str(), "<image> {question}")
        >>> encoder = vlm.text.Prompt(tokenizer=tokenizer)
        >>> encoder(*encoder.tokenizer(["is it red", "red"]))
        Features(2 x 4 x 1, 2-4 real)
    """

    tokenizer: PromptTokenizer
    stored: ClassVar = {"name": nothing}
    one: Tensor

    def __init__(
        self,
        words: Sequence[str] = (),
        name: str | None = None,
        prompt: str = PROMPT,
        max_length: int = 128,
        tokenizer: PromptTokenizer | None = None,
    ) -> None:
        if (name is None) == (tokenizer is None):
            raise ValueError(f"name, tokenizer: got {name!r} and {tokenizer!r:.80}; give one.")
        if tokenizer is None:
            chat = read_chat(str(name), prompt)
            tokenizer = PromptTokenizer(chat.json, chat.prompt, chat.image_token, max_length)
        super().__init__(1, tokenizer)
        self.register_buffer("one", torch.ones(1), persistent=False)
        self.arguments.update(words=(), name=None, tokenizer=tokenizer)

    def encode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.one.expand(*ids.shape, 1) * mask[..., None]
        return tokens, masked_mean(tokens, mask)
