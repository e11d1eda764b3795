"""MAC: a chain of cells that attend to the words, read the image and write a memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlm.core.features import Features, masked_softmax, one_token
from vlm.core.validation import check_positive
from vlm.fusion.attention import RecordsAttention
from vlm.fusion.base import Fusion


class MAC(Fusion):
    """A chain of steps: each attends to words, reads one thing in the image and updates a memory.

        k_n = ELU(K token_n),  w_s = V word_s,  q = P question
        control:  c_i = sum_s softmax_s(a . (u_i * w_s)) w_s,  u_i = A [c_(i-1), Q_i q]
        read:     r_i = sum_n softmax_n(b . ELU(c_i * I_n)) k_n,
                  I_n = J [(M m_(i-1)) * (R k_n), k_n]
        write:    m_i = W [r_i, m_(i-1)]
        pooled = ELU(O [q, m_T])

    Hudson and Manning 2018 (arXiv 1803.03067, section 3.2), without the optional self-attention and
    gate of the write unit, and with the ELU of the authors' code in the read unit. All steps share
    their weights, except Q_i, and one dropout mask of the memory (section A.2). c_0 and m_0 are
    learned. An empty question or image attends to nothing.

    `record_attention` gives a map of patches for each step.

    Args:
        image_dim, text_dim: widths of the inputs.
        out_dim: width of control, memory, knowledge and the result; 512 in the paper.
        steps: number T of cells, one for each step; 12 in the paper for CLEVR.
        dropout: fraction of the memory dropped in training, in [0, 1); 0.15 in the paper.

    Example:
        >>> fusion = vlm.fusion.MAC(image_dim=64, text_dim=32, out_dim=48, steps=4)
        >>> fusion(torch.randn(2, 49, 64), torch.randn(2, 7, 32))
        Features(2 x 1 x 48, 1 real)
    """

    def __init__(
        self,
        image_dim: int,
        text_dim: int,
        out_dim: int = 256,
        steps: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(image_dim, text_dim, out_dim)
        check_positive(steps=steps)
        dim = out_dim
        self.knowledge = nn.Sequential(nn.Linear(image_dim, dim), nn.ELU())
        self.words = nn.Linear(text_dim, dim)
        self.question = nn.Linear(text_dim, dim)
        self.first_control = nn.Parameter(torch.randn(dim))
        self.first_memory = nn.Parameter(torch.randn(dim))
        self.step_questions = nn.ModuleList(nn.Linear(dim, dim) for _ in range(steps))
        self.control = ControlUnit(dim)
        self.read = ReadUnit(dim)
        self.write = nn.Linear(2 * dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Sequential(nn.Linear(2 * dim, dim), nn.ELU())

    def prepare(self, image: Features) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        knowledge = self.knowledge(image.zero_padding().tokens)  # (B, N, D)
        return knowledge, *self.read.prepare(knowledge), image.mask

    def fuse(self, prepared: tuple[Tensor, Tensor, Tensor, Tensor], text: Features) -> Features:
        knowledge, projected, direct, mask = prepared
        words = self.words(text.zero_padding().tokens)  # (B, L, D)
        question = self.question(text.pooled)  # (B, D)
        control = self.first_control.expand_as(question)
        memory = self.first_memory.expand_as(question)
        # An inverted dropout of ones: one mask for the memory of all steps.
        kept = self.dropout(torch.ones_like(question))
        for step_question in self.step_questions:
            control = self.control(control, step_question(question), words, text.mask)
            found = self.read(memory * kept, control, knowledge, projected, direct, mask)
            memory = self.write(torch.cat((found, memory), -1))
        return one_token(self.out(torch.cat((question, memory), -1)))


class ControlUnit(nn.Module):
    """Which words this step is about: (B, D), (B, D), (B, L, D), (B, L) -> (B, D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mix = nn.Linear(2 * dim, dim)
        self.score = nn.Linear(dim, 1)

    def forward(self, control: Tensor, question: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        mixed = self.mix(torch.cat((control, question), -1))
        scores = self.score(mixed[:, None] * words).squeeze(-1)  # (B, L)
        return (masked_softmax(scores, mask)[:, None] @ words).squeeze(1)


class ReadUnit(RecordsAttention):
    """What of the image this step looks at."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.memory = nn.Linear(dim, dim)
        self.knowledge = nn.Linear(dim, dim)
        # J [I, k] is a sum of two, and J k needs no question.
        self.interaction = nn.Linear(dim, dim, bias=False)
        self.direct = nn.Linear(dim, dim)
        self.activation = nn.ELU()
        self.score = nn.Linear(dim, 1)

    def prepare(self, knowledge: Tensor) -> tuple[Tensor, Tensor]:
        """R k and the part of J that reads k alone: (B, N, D) each."""
        return self.knowledge(knowledge), self.direct(knowledge)

    def forward(
        self,
        memory: Tensor,
        control: Tensor,
        knowledge: Tensor,
        projected: Tensor,
        direct: Tensor,
        mask: Tensor,
    ) -> Tensor:
        """(B, D), (B, D), thrice (B, N, D), (B, N) -> (B, D)."""
        interaction = self.memory(memory)[:, None] * projected
        interaction = self.interaction(interaction) + direct
        scores = self.score(self.activation(control[:, None] * interaction)).mT  # (B, 1, N)
        weights = masked_softmax(scores, mask[:, None])
        if self.recorder is not None:
            self.recorder.append(weights)
        return (weights @ knowledge).squeeze(1)
