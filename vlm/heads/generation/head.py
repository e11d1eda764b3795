"""Answers that are written, token by token, and not chosen from a vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from math import exp, isfinite
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from vlm.core.batch import Batch
from vlm.core.clean_text import clean_text
from vlm.core.features import Features
from vlm.core.validation import check_positive, mistake_among
from vlm.heads.base import AnswerHead, Ranked, required_choices
from vlm.heads.generation.beam_search import Written, search
from vlm.heads.generation.decoder import DecoderFactory, Memory, TransformerDecoder
from vlm.heads.generation.targets import AnswerEncoder

CUT = "…"
"""Ends the text of an answer that never ended and was cut."""

TrainOn = Literal["most_frequent", "sampled"]


def asked(batch: Batch) -> tuple[Tensor, Tensor]:
    """Ids and mask (Q, L) of the questions' own tokens; one that is left out has none."""
    ids, mask = batch.words, batch.words_mask
    if batch.text_index is not None:
        ids, mask = ids[batch.text_index], mask[batch.text_index]
    if batch.no_question is not None:
        mask = mask & ~batch.no_question[:, None]
    return ids, mask


class Generation(AnswerHead):
    """A decoder writes the answer while it reads the joint tokens.

    The memory that it reads is the pooled joint vector, then the joint tokens. So the decoder can
    read everything that a fusion has learned (all its parameters get a gradient), and even a
    question without real tokens has one token. The single token of a pooled fusion occurs twice,
    which does not affect attention. A `LanguageModel` reads the question itself, in its own prompt,
    and only the image tokens of the joint tokens, in their place in the prompt.

    The loss is the negative log-likelihood of one answer and its end, summed over its tokens, each
    given the tokens before it (teacher forcing). A probability is that of the text and its end;
    texts that are not listed have the rest. Padding and batch change no text.

    Args:
        in_dim: width of the joint features.
        decoder: class or partial that makes the decoder from the width of the memory:
            `TransformerDecoder`, `HuggingFaceDecoder`, `LanguageModel` or `GatedLanguageModel`.
        train_on: which of several annotators' answers to learn: the "most_frequent" (the first on a
            tie), or one "sampled" again each time. The loss of evaluation uses the most frequent.
        beams: number of texts written in parallel; 1 is greedy decoding. `decode` returns at most
            this many.
        min_length: smallest number of tokens before an answer's end.
        length_penalty: exponent of the comparison of texts by log-likelihood / tokens **
            length_penalty; 0 for the likeliest, above 0 for longer texts. Greedy decoding does not
            use it.
        choose: whether to `rank` the choices of each question instead of writing freely. Longer
            choices are less likely by nature, and no other argument of the search is used.

    Raises:
        ValueError: an argument out of its range, or one that means nothing with one beam.

    Example:
        >>> from functools import partial
        >>> decoder = partial(vlm.heads.TransformerDecoder, dim=32, max_length=8)
        >>> head = vlm.heads.Generation(in_dim=64, decoder=decoder)
        >>> memory = head(vlm.Features(torch.randn(3, 7, 64)), batch=None)
        >>> [len(ranked) for ranked in head.decode(memory, top_k=1)]
        [1, 1, 1]
    """

    writes_text = True

    def __init__(
        self,
        in_dim: int,
        decoder: DecoderFactory = TransformerDecoder,
        train_on: TrainOn = "most_frequent",
        beams: int = 1,
        min_length: int = 1,
        length_penalty: float = 0.0,
        choose: bool = False,
    ) -> None:
        super().__init__(in_dim)
        check_positive(beams=beams)
        if not isfinite(length_penalty):
            raise ValueError(f"length_penalty: got {length_penalty}; expected a finite number.")
        if beams == 1 and length_penalty:
            raise ValueError(
                f"length_penalty: got {length_penalty} with one beam, where nothing is compared; "
                f"expected 0, or more beams."
            )
        if choose and length_penalty:
            raise ValueError(
                f"length_penalty: got {length_penalty} with `choose`, which compares likelihoods; "
                f"expected 0, or choose=False."
            )
        self.decoder = decoder(in_dim)
        if not 0 <= min_length < self.decoder.max_length:
            raise ValueError(
                f"min_length: got {min_length}; expected 0 or more, and less than the decoder's "
                f"max_length of {self.decoder.max_length}."
            )
        if 2 * beams >= self.decoder.tokenizer.vocab_size:
            raise ValueError(
                f"beams: got {beams}; expected less than half of the decoder's "
                f"{self.decoder.tokenizer.vocab_size:,} tokens."
            )
        # The decoder may have edited its arguments, so that it is rebuilt without a network.
        arguments = {k: v for k, v in self.decoder.arguments.items() if k != "memory_dim"}
        self.arguments["decoder"] = partial(type(self.decoder), **arguments)
        self.reads_prompt = self.decoder.reads_prompt
        self.sampled, self.takes_choices = train_on == "sampled", choose
        self.beams, self.min_length, self.length_penalty = beams, min_length, length_penalty
        self.encoder = AnswerEncoder(self.decoder.tokenizer, self.decoder.max_length, self.sampled)
        self.encode_targets = self.encoder

    def train_new(self) -> None:
        self.decoder.train_new()

    def forward(self, fused: Features, batch: Batch) -> Memory:
        """The memory that the decoder reads.

        Raises:
            ValueError: a batch without choices, with `choose`.
        """
        choices = required_choices(batch).texts if self.takes_choices else None
        if self.reads_prompt:
            ids, mask = asked(batch)
            image = fused.tokens.shape[1] - ids.shape[1]  # words come after
            return Memory(fused.tokens[:, :image], fused.mask[:, :image], choices, ids, mask)
        tokens = torch.cat((fused.pooled[:, None], fused.tokens), 1)  # (Q, 1 + N, D)
        return Memory(tokens, F.pad(fused.mask, (1, 0), value=True), choices)

    if TYPE_CHECKING:
        __call__ = forward

    def loss(self, output: Memory, batch: Batch) -> Tensor:
        ids, mask, counts = batch.targets
        if self.sampled and self.training:
            row = torch.arange(len(ids), device=ids.device)
            drawn = torch.multinomial(counts, 1).squeeze(1)
            ids, mask = ids[row, drawn], mask[row, drawn]
        else:
            ids, mask = ids[:, 0], mask[:, 0]
        return -self._log_likelihood(output, ids, mask).sum() / batch.total

    def truncated_at(self, answer: str) -> int | None:
        cut = not self.takes_choices and answer.endswith(CUT)
        return self.decoder.max_length if cut else None

    def choice_ids(self, choice: str) -> list[int]:
        return self.encoder.ids(choice)

    def decode(self, output: Memory, top_k: int) -> list[Ranked]:
        """The texts that the search found, at most `beams`, in its order: by probability, unless
        there is a length penalty. An answer that never ended ends in "…". With `choose`, the
        question's choices in the order of `rank`."""
        if not len(output.mask):  # which pretrained decoders cannot read
            return []
        if output.choices is not None:
            return [ranked[:top_k] for ranked in self.rank(output, output.choices)]
        found = search(self.decoder, output, self.beams, self.min_length, self.length_penalty)
        return [self._ranked(texts)[:top_k] for texts in found]

    def _ranked(self, texts: Sequence[Written]) -> Ranked:
        best: dict[str, float] = {}
        for ids, log_likelihood, finished in texts:
            text = clean_text(self.decoder.tokenizer.decode(ids)) + ("" if finished else CUT)
            best.setdefault(text, exp(log_likelihood))  # several rows of ids may be one text
        return list(best.items())

    def evidence(self, output: Memory, answers: Sequence[str]) -> Tensor:
        """The log-likelihoods of the answers, including their ends."""
        if not answers:
            return output.tokens.new_zeros(0, dtype=torch.float)
        ids, mask = self._candidates(answers, output.mask.device)
        return self._log_likelihood(output, ids, mask)

    def rank(self, output: Memory, candidates: Sequence[Sequence[str]]) -> list[Ranked]:
        """Rank the candidates of each question by their likelihood, the best first.

        Their probabilities are normalised over the candidates, so they sum to one.

        Args:
            output: output of `forward`.
            candidates: possible answers of each of the Q questions, at least one, without empty or
                repeated ones.

        Raises:
            ValueError: another number of lists than questions, a question without a candidate, an
                empty or repeated candidate, or one that the decoder cannot write.
        """
        if len(candidates) != len(output.mask) or not all(candidates):
            raise ValueError(
                f"candidates: got lists of {[len(c) for c in candidates]} for {len(output.mask)} "
                f"questions; expected one for each, with one candidate at least."
            )
        for number, given in enumerate(candidates, start=1):
            if mistake := mistake_among(given):
                raise ValueError(f"candidates of question {number}: {mistake}")
        most = max(map(len, candidates), default=0)
        rows = self.decoder.rows_at_once(output)
        step = max(1, rows // max(1, most))
        return [
            ranked
            for start in range(0, len(candidates), step)
            for ranked in self._rank(
                output.rows(slice(start, start + step)),
                candidates[start : start + step],
                most,
                rows,
            )
        ]

    @torch.no_grad()
    def _rank(
        self, memory: Memory, candidates: Sequence[Sequence[str]], most: int, rows: int
    ) -> list[Ranked]:
        # Shorter lists are filled up with their first candidate, which is then left out.
        filled = [
            text for given in candidates for text in [*given, *[given[0]] * (most - len(given))]
        ]
        ids, mask = self._candidates(filled, memory.mask.device)
        parts = zip(ids.split(rows), mask.split(rows), strict=True)
        scores = torch.cat([self._log_likelihood(memory, *part) for part in parts])
        scores = scores.view(-1, most).cpu()
        ranked = []
        for given, row in zip(candidates, scores, strict=True):
            shares = row[: len(given)].softmax(0).tolist()
            ranked.append(sorted(zip(given, shares, strict=True), key=lambda x: -x[1]))
        return ranked

    def check_answers(self, answers: Iterable[Sequence[str] | None], cut: bool = False) -> None:
        """Check beforehand that the decoder can learn or score the answers; see
        `AnswerEncoder.check`."""
        self.encoder.check(answers, "annotators' answers", cut)

    def check_choices(self, choices: Iterable[Sequence[str] | None]) -> None:
        """Check, before they are ranked, that the decoder can write all choices."""
        self.encoder.check(choices, "choices")

    def _candidates(self, answers: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        each = [[answer] for answer in answers]
        self.encoder.check(each, "texts to judge")
        texts = self.encoder(each)
        return texts.ids[:, 0].to(device), texts.mask[:, 0].to(device)

    def _log_likelihood(self, memory: Memory, ids: Tensor, mask: Tensor) -> Tensor:
        """Of R = Q * K texts (R, T), given the memory of Q questions: (R,)."""
        before = F.pad(ids, (1, -1), value=self.decoder.tokenizer.begin)
        logits = self.decoder(before, self.decoder.start(memory))  # (R, T, V)
        # In float32, as in the search: a sum over tokens in bf16 could not tell candidates apart.
        steps = F.cross_entropy(logits.float().flatten(0, 1), ids.flatten(), reduction="none")
        return -steps.view_as(ids).masked_fill(~mask, 0).sum(1)
