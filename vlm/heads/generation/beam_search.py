"""Greedy and beam search: the likeliest texts that a decoder can write."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vlm.core.host import HostCopy
from vlm.heads.generation.decoder import AnswerDecoder, Memory

NOTHING = float("-inf")


class Written(NamedTuple):
    """One text that was written.

    Attributes:
        ids: its tokens, without begin and end.
        log_likelihood: of the text and its end; of all that is there if it has no end.
        finished: False for a text that was cut at the decoder's longest.
    """

    ids: list[int]
    log_likelihood: float
    finished: bool


@torch.no_grad()
def search(
    decoder: AnswerDecoder, memory: Memory, beams: int, min_length: int, length_penalty: float
) -> list[list[Written]]:
    """The best texts of each question, best first.

    Texts are compared by log_likelihood / tokens ** length_penalty, the end counted. The search of
    a question is over when nothing that is still being written can come before its `beams` finished
    texts; so neither the other questions of the batch nor their number matter.
    The arguments are those of `Generation`.
    """
    questions, device = len(memory.mask), memory.mask.device
    end, longest = decoder.tokenizer.end, decoder.max_length
    first_row = torch.arange(questions, device=device)[:, None]
    state = decoder.start(memory)
    newest = torch.full((questions, 1), decoder.tokenizer.begin, device=device)  # (Q, K)
    texts = newest[..., None][..., :0]  # (Q, K, T), of the running beams
    totals = torch.zeros(questions, 1, device=device)  # (Q, K), their log-likelihoods
    pool = Pool(questions, beams, longest, device)
    full: list[HostCopy] = []
    ahead = 0 if device.type == "cpu" else 1
    for length in range(1, longest + 1):
        logits = decoder(newest.reshape(-1, 1), state)[:, -1].float()  # (R, V)
        steps = logits.log_softmax(-1).view(*totals.shape, -1)  # (Q, K, V)
        if length <= min_length:
            steps[..., end] = NOTHING
        sums = totals[..., None] + steps
        # Twice as many as beams: one end at most follows each beam, so as many go on.
        totals, chosen = sums.flatten(1).topk(2 * beams)
        parents, newest = chosen // steps.shape[-1], chosen % steps.shape[-1]
        texts = texts.gather(1, parents[..., None].expand(-1, -1, length - 1))
        texts = torch.cat((texts, newest[..., None]), 2)  # (Q, 2 K, T)
        ended = newest == end
        last = length == longest
        stopped = torch.ones_like(ended) if last else ended
        scores = (totals / length**length_penalty).masked_fill(~stopped, NOTHING)
        # A text outside of the best K is not yet worth its end. To ask a device whether there is
        # one takes longer than to add none.
        if ahead or stopped[:, :beams].any():
            pool.add(texts[:, :beams], scores[:, :beams], totals[:, :beams], ended[:, :beams])
        if last:
            break
        order = ended.int().argsort(dim=1, stable=True)[:, :beams]  # the best that go on
        totals, newest, parents = (x.gather(1, order) for x in (totals, newest, parents))
        # The most that a text can still come to: likelihoods only fall.
        tokens = longest if length_penalty > 0 else length + 1
        full.append(HostCopy(pool.full(totals[:, 0] / tokens**length_penalty)))
        # A device has its next token before it is known whether the last one has filled the pool.
        if len(full) > ahead and full.pop(0).read()[0]:
            break
        texts = texts.gather(1, order[..., None].expand(-1, -1, length))
        if beams > 1:
            state.reorder((first_row * steps.shape[1] + parents).flatten())
    return pool.texts()


class Pool:
    """The best texts of each question that are no longer written."""

    def __init__(self, questions: int, size: int, longest: int, device: torch.device) -> None:
        self.ids = torch.zeros(questions, size, longest, dtype=torch.long, device=device)
        self.lengths = torch.zeros(questions, size, dtype=torch.long, device=device)
        self.scores = torch.full((questions, size), NOTHING, device=device)
        self.totals = torch.zeros_like(self.scores)
        self.ended = torch.zeros(questions, size, dtype=torch.bool, device=device)

    def add(self, ids: Tensor, scores: Tensor, totals: Tensor, ended: Tensor) -> None:
        """Take in those of (Q, K, T) new texts that are better; a score of -inf is none."""
        size, length = self.scores.shape[1], ids.shape[2]
        scores = torch.cat((self.scores, scores), 1)
        # Not `topk`, in which the later of two equal texts may win: how long the other questions
        # of a batch take would then matter.
        scores, best = scores.sort(descending=True, stable=True)
        self.scores, best = scores[:, :size], best[:, :size]
        ids = F.pad(ids, (0, self.ids.shape[2] - length))
        whole = best[..., None].expand(-1, -1, ids.shape[2])
        self.ids = torch.cat((self.ids, ids), 1).gather(1, whole)
        lengths = torch.full_like(ids[..., 0], length)
        self.lengths = torch.cat((self.lengths, lengths), 1).gather(1, best)
        self.totals = torch.cat((self.totals, totals), 1).gather(1, best)
        self.ended = torch.cat((self.ended, ended), 1).gather(1, best)

    def full(self, bound: Tensor) -> Tensor:
        """Whether no text of a score up to `bound` (Q,) can still come in: () bool."""
        return (self.scores[:, -1] >= bound).all()

    def texts(self) -> list[list[Written]]:
        columns = HostCopy(self.ids, self.lengths, self.totals, self.ended).read()
        return [
            [
                Written(ids[: length - finished], total, finished)
                for ids, length, total, finished in zip(*row, strict=True)
            ]
            for row in zip(*(column.tolist() for column in columns), strict=True)
        ]
