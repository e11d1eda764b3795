"""Answers that are words or a picture, from one decoder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from math import isfinite
from typing import NamedTuple
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlm.core.batch import Batch
from vlm.core.compat import tree_map_only
from vlm.core.features import Features
from vlm.core.validation import check_positive
from vlm.heads.base import Ranked
from vlm.heads.generation.codes import PictureCodes
from vlm.heads.generation.decoder import DecoderFactory, Memory, TransformerDecoder
from vlm.heads.generation.head import Generation, asked
from vlm.heads.generation.targets import AnswerEncoder, AnswerTexts
from vlm.heads.generation.tokenizer import WordsAndCodes
from vlm.image.as_text import is_picture, picture_of, picture_text


class DrawingTargets(NamedTuple):
    """What the annotators of Q questions wrote, W of them words and P pictures.

    Attributes:
        texts: of all Q; that of a picture is only the token that begins one.
        words: (W,) int64, the questions that are answered with words.
        drawn: (P,) int64, the others.
        pictures: (P, H, W, 3) uint8.
    """

    texts: AnswerTexts
    words: Tensor
    drawn: Tensor
    pictures: Tensor


class DrawingEncoder:
    """Annotators' answers in, `DrawingTargets` out; of several answers the most frequent."""

    def __init__(self, texts: AnswerEncoder, size: int) -> None:
        self.texts, self.size = texts, size

    def __call__(
        self, answers: Sequence[Sequence[str]], choices: Sequence[Sequence[str]] | None = None
    ) -> DrawingTargets:
        first = [Counter(given).most_common(1)[0][0] for given in answers]
        drawn = [row for row, answer in enumerate(first) if is_picture(answer)]
        words = [row for row, answer in enumerate(first) if not is_picture(answer)]
        return DrawingTargets(
            self.texts(answers),
            torch.tensor(words, dtype=torch.long),
            torch.tensor(drawn, dtype=torch.long),
            read_pictures([first[row] for row in drawn], self.size),
        )


def read_pictures(texts: Sequence[str], size: int) -> Tensor:
    """(P, size, size, 3) uint8 of P texts of pictures.

    Raises:
        ValueError: one that cannot be read, or of another size.
    """
    made = [np.array(picture_of(text)) for text in texts]
    for pixels in made:
        if pixels.shape[:2] != (size, size):
            height, width = pixels.shape[:2]
            raise ValueError(
                f"pictures.size: got a picture of {width} x {height} to learn from; expected "
                f"{size} x {size}, the size that this head draws."
            )
    pixels = np.stack(made) if made else np.zeros((0, size, size, 3), np.uint8)
    return torch.from_numpy(pixels)


class Drawing(Generation):
    """A decoder that answers with words or with a picture, whichever the question asks for.

    Its vocabulary is that of the words and, after one token that begins a picture, the codes of
    `PictureCodes` (as in DALL-E, Ramesh et al. 2021, arXiv 2102.12092). An answer that is a picture
    is the data URL of its PNG (`vlm.image.picture_text`), in the data and from `decode`.

    The memory is that of `Generation` and the words of the question, since a fusion to one vector
    may forget which colour is whose. Words are trained and written as `Generation` does. The loss
    of a picture is the mean negative log-likelihood of its first token and its codes; their sum
    would outweigh the words. `decode` compares the first tokens: where that of a picture is the
    likeliest, its probability is the answer's, and the codes are then drawn at random, the same
    ones each time for the same words of the question. `learn_first` trains the codes on the
    pictures among the training questions' answers.

    Args:
        in_dim: width of the joint features.
        text_dim: width of the text encoder; it must be given, which the command line does.
        decoder: as for `Generation`, with a tokenizer of `WordsAndCodes` and a `max_length` of a
            picture's codes and 1 at least.
        pictures: the codes.
        temperature: divides the logits of the codes: 1 draws as was learned, 0 takes the likeliest
            code, what is between keeps away from unlikely ones.

    Raises:
        ValueError: no `text_dim`, a decoder that does not fit the codes, a temperature below zero.

    Example:
        >>> from functools import partial
        >>> words = vlm.heads.WordsAndCodes(codes=8)
        >>> decoder = partial(vlm.heads.TransformerDecoder, dim=32, tokenizer=words)
        >>> pictures = vlm.heads.PictureCodes(codes=8)
        >>> head = vlm.heads.Drawing(64, text_dim=16, decoder=decoder, pictures=pictures)
        >>> head.decoder.tokenizer.vocab_size
        266
    """

    draws, reads_question = True, True

    def __init__(
        self,
        in_dim: int,
        text_dim: int = 0,
        decoder: DecoderFactory = TransformerDecoder,
        pictures: PictureCodes | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(in_dim, decoder)
        check_positive(text_dim=text_dim)
        if not (isfinite(temperature) and temperature >= 0):
            raise ValueError(f"temperature: got {temperature}; expected a number from 0.")
        self.text_dim, self.temperature = text_dim, temperature
        self.pictures = PictureCodes() if pictures is None else pictures
        tokenizer = self.decoder.tokenizer
        if not isinstance(tokenizer, WordsAndCodes) or tokenizer.codes != self.pictures.codes:
            raise ValueError(
                f"decoder: got the tokenizer {tokenizer}; expected "
                f"WordsAndCodes(codes={self.pictures.codes}), since the pictures have so many."
            )
        if self.decoder.max_length <= self.pictures.length:
            raise ValueError(
                f"decoder: got max_length={self.decoder.max_length}; expected "
                f"{self.pictures.length + 1} or more, since a picture has {self.pictures.length} "
                f"codes."
            )
        self.tokenizer = tokenizer
        self.question = nn.Sequential(nn.LayerNorm(text_dim), nn.Linear(text_dim, in_dim))
        self.encode_targets = DrawingEncoder(self.encoder, self.pictures.size)

    def learn_first(
        self, answers: Callable[[], Iterable[str]], alive: Callable[[], None] = lambda: None
    ) -> None:
        if not self.pictures.learned:
            pictures = [answer for answer in answers() if is_picture(answer)]
            if not pictures:
                raise ValueError(
                    "head: got Drawing, but no training question has a picture for its answer; "
                    "expected some, such as those of Scenes(drawings=4), or the head Generation."
                )
            self.pictures.learn(read_pictures(pictures, self.pictures.size), alive=alive)

    def forward(self, fused: Features, batch: Batch) -> Memory:
        """What the decoder reads, with the question's words, by which codes are drawn."""
        tokens, mask = super().forward(fused, batch)[:2]
        question = batch.question
        assert question is not None  # `reads_question`
        said = self.question(question.zero_padding().tokens)
        tokens, mask = torch.cat((tokens, said), 1), torch.cat((mask, question.mask), 1)
        return Memory(tokens, mask, None, *asked(batch))

    def loss(self, output: Memory, batch: Batch) -> Tensor:
        each = self._each(output, batch.targets)
        weights = torch.ones_like(each)
        weights[batch.targets.drawn] = 1 / (1 + self.pictures.length)
        return -(weights * each).sum() / batch.total

    def evidence(self, output: Memory, answers: Sequence[str]) -> Tensor:
        """The answers' log-likelihoods: of words with their end, of a picture's first token and
        codes."""
        each = [[answer] for answer in answers]
        self.encoder.check(each, "texts to judge")
        targets = self.encode_targets(each, None)
        moved = tree_map_only(Tensor, lambda tensor: tensor.to(output.mask.device), targets)
        return self._each(output, moved)

    def _each(self, output: Memory, targets: DrawingTargets) -> Tensor:
        """The log-likelihood of each question's answer: (Q,) float32."""
        texts, words, drawn, pictures = targets
        found = output.tokens.new_zeros(len(output.mask), dtype=torch.float)
        if len(words):
            ids, mask = texts.ids[words, 0], texts.mask[words, 0]
            of_words = self._log_likelihood(output.rows(words), ids, mask)
            found = found.index_put((words,), of_words)
        if len(drawn):
            codes = self.tokenizer.first_code + self.pictures.encode(pictures)
            ids = F.pad(codes, (1, 0), value=self.tokenizer.picture)
            of_pictures = self._log_likelihood(output.rows(drawn), ids, torch.ones_like(ids).bool())
            found = found.index_put((drawn,), of_pictures)
        return found

    @torch.no_grad()
    def decode(self, output: Memory, top_k: int) -> list[Ranked]:
        """One answer: the text that `Generation` writes, or a picture."""
        count = len(output.mask)
        if not count:
            return []
        begin = torch.full((count, 1), self.tokenizer.begin, device=output.mask.device)
        first = self.decoder(begin, self.decoder.start(output))[:, -1].float().softmax(-1)
        first[:, self.tokenizer.end] = 0  # no answer is empty
        picture = self.tokenizer.picture
        # -1 for words: what to do and how likely it is in one wait for the device.
        chances = torch.where(first.argmax(-1) == picture, first[:, picture], -1.0).tolist()
        rows = [[r for r in range(count) if (chances[r] >= 0) == kind] for kind in (False, True)]
        found: dict[int, Ranked] = {}
        if rows[0]:
            texts = super().decode(output.rows(begin.new_tensor(rows[0])), top_k)
            found.update(zip(rows[0], texts, strict=True))
        if rows[1]:
            pictures = self._drawn(output.rows(begin.new_tensor(rows[1]))).cpu().numpy()
            for row, pixels in zip(rows[1], pictures, strict=True):
                found[row] = [(picture_text(pixels), chances[row])]
        return [found[row] for row in range(count)]

    def _drawn(self, memory: Memory) -> Tensor:
        """A picture for each question: (P, H, W, 3) uint8."""
        state, first_code = self.decoder.start(memory), self.tokenizer.first_code
        noise = self._noise(memory).to(memory.mask.device)
        newest = torch.tensor([[self.tokenizer.begin, self.tokenizer.picture]])
        newest = newest.to(memory.mask.device).expand(len(memory.mask), 2)
        codes = []
        for place in range(self.pictures.length):
            logits = self.decoder(newest, state)[:, -1, first_code:].float()
            codes.append((logits + self.temperature * noise[:, place]).argmax(-1))
            newest = first_code + codes[-1][:, None]
        return self.pictures.decode(torch.stack(codes, 1))

    def _noise(self, memory: Memory) -> Tensor:
        """Gumbel noise (P, length, codes): the code of the largest noisy logit is drawn from their
        softmax. It depends on a question's own words alone, and not on the batch."""
        assert memory.prompt is not None
        assert memory.prompt_mask is not None
        shape = self.pictures.length, self.pictures.codes
        made = []
        for ids, mask in zip(memory.prompt.tolist(), memory.prompt_mask.tolist(), strict=True):
            words = [word for word, real in zip(ids, mask, strict=True) if real]
            draws = torch.Generator().manual_seed(crc32(repr(words).encode()))
            made.append(-torch.empty(shape).exponential_(generator=draws).log())
        return torch.stack(made)
