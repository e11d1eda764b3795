"""Fusions that are no transformers, and two merges, from the formulas of their papers.

Tokens come as (text, image, text_mask, image_mask) with shapes (B, L, Dt), (B, P, Dv), (B, L),
(B, P); a `question` is one vector (B, Dt). What stands in the padding is finite. The first result
is the pooled vector (B, D).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from references.merges import merge_from
from references.pieces import attend, highest, look, mean

Pair = tuple[Tensor, Tensor]


class Product(nn.Module):
    """(W v) * (V q), the joint embedding of VQA (arXiv 1505.00468, section 4)."""

    def __init__(self, image_dim: int, text_dim: int, dim: int) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(image_dim, dim), nn.Linear(text_dim, dim)

    def forward(self, question: Tensor, image: Tensor) -> Tensor:
        return self.image(image) * self.text(question)


class GMU(nn.Module):
    """z tanh(W v) + (1 - z) tanh(V q), z = sigmoid(G [v, q]) (arXiv 1702.01992)."""

    def __init__(self, image_dim: int, text_dim: int, dim: int) -> None:
        super().__init__()
        self.image = nn.Linear(image_dim, 2 * dim, bias=False)
        self.text = nn.Linear(text_dim, 2 * dim, bias=False)

    def forward(self, question: Tensor, image: Tensor) -> Tensor:
        (v, v_gate), (q, q_gate) = self.image(image).chunk(2, -1), self.text(question).chunk(2, -1)
        return torch.lerp(q.tanh(), v.tanh(), (v_gate + q_gate).sigmoid())


class ModalityAttention(nn.Module):
    """Both vectors weighted by a softmax that reads both, as TorchMultimodal's attention fusion."""

    def __init__(self, image_dim: int, text_dim: int, dim: int) -> None:
        super().__init__()
        self.weights = nn.Linear(image_dim + text_dim, 2)
        self.image, self.text = nn.Linear(image_dim, dim), nn.Linear(text_dim, dim)

    def forward(self, question: Tensor, image: Tensor) -> Tensor:
        weights = self.weights(torch.cat((image, question), 1)).softmax(1)
        return weights[:, :1] * self.image(image) + weights[:, 1:] * self.text(question)


class DeepSets(nn.Module):
    """A perceptron on the maximum of both unit vectors (arXiv 2003.01607)."""

    def __init__(self, image_dim: int, text_dim: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(image_dim, dim), nn.Linear(text_dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))

    def forward(self, question: Tensor, image: Tensor) -> Tensor:
        vectors = F.normalize(self.image(image)), F.normalize(self.text(question))
        return self.mlp(torch.maximum(*vectors))


class LateFusion(nn.Module):
    """Mean of two perceptrons that never meet."""

    def __init__(self, image_dim: int, text_dim: int, dim: int) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Linear(image_dim, 256), nn.ReLU(), nn.Linear(256, dim))
        self.text = nn.Sequential(nn.Linear(text_dim, 256), nn.ReLU(), nn.Linear(256, dim))

    def forward(self, question: Tensor, image: Tensor) -> Tensor:
        return (self.image(image) + self.text(question)) / 2


class TensorFusion(nn.Module):
    """A perceptron on [v; 1] (outer) [q; 1] (arXiv 1707.07250, section 4.2)."""

    def __init__(self, image_dim: int, text_dim: int, dim: int, width: int, hidden: int) -> None:
        super().__init__()
        self.core = nn.Parameter(torch.randn(width, width, hidden) / width)
        self.image, self.text = nn.Linear(image_dim, width), nn.Linear(text_dim, width)
        self.image_alone = nn.Linear(width, hidden)
        self.text_alone = nn.Linear(width, hidden, bias=False)
        self.out = nn.Linear(hidden, dim)

    def forward(self, question: Tensor, image: Tensor) -> Tensor:
        v, q = self.image(image), self.text(question)
        maps = (q @ self.core.flatten(1)).view(len(q), v.shape[1], -1)  # (B, width, hidden)
        both = (v[:, None] @ maps)[:, 0]
        return self.out((both + self.image_alone(v) + self.text_alone(q)).relu())


class Projector(nn.Module):
    """LLaVA-1.5's perceptron before the words (arXiv 2310.03744, section 3.2)."""

    def __init__(self, image_dim: int, text_dim: int, dim: int) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Linear(image_dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self.text = nn.Linear(text_dim, dim)

    def forward(self, text: Tensor, image: Tensor, text_mask: Tensor, image_mask: Tensor) -> Pair:
        words, patches = self.text(text), self.image(image)
        pooled = mean(words, text_mask) * highest(patches, image_mask)
        return pooled, torch.cat((patches, words), 1)


class FiLM(nn.Module):
    """Residual blocks whose channels the question modulates (arXiv 1709.07871, figure 3)."""

    def __init__(self, image_dim: int, text_dim: int, dim: int, layers: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(text_dim, 2 * layers * dim)
        self.stem = nn.Linear(image_dim, dim)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                (
                    nn.Linear(dim + 2, dim),
                    nn.Linear(dim, dim),
                    nn.BatchNorm1d(dim, affine=False),
                )
            )
            for _ in range(layers)
        )
        self.out = nn.Linear(dim + 2, dim)

    def forward(
        self, question: Tensor, image: Tensor, _: Tensor | None, image_mask: Tensor
    ) -> Pair:
        place = image.new_zeros(*image.shape[:2], 2)  # of tokens without boxes: the middle
        x = self.stem(image).relu()
        steps = self.modulation(question).unflatten(1, (len(self.layers), 2, 1, -1)).unbind(1)
        for (inner, outer, norm), step in zip(self.layers, steps, strict=True):
            h = inner(torch.cat((x, place.to(x.dtype)), 2)).relu()
            scale, shift = step.unbind(1)
            x = h + ((1 + scale) * norm(outer(h).flatten(0, 1)).view_as(h) + shift).relu()
        x = self.out(torch.cat((x, place.to(x.dtype)), 2))
        return highest(x, image_mask), x


class MuRel(nn.Module):
    """Regions that meet the question and each other (arXiv 1902.09487, section 3); no boxes."""

    def __init__(self, dim: int, text_dim: int, steps: int, merge: dict[str, Any]) -> None:
        super().__init__()
        self.steps = steps
        self.ask = merge_from(merge | {"input_dims": (text_dim, dim)})
        self.boxes = merge_from(merge | {"input_dims": (4, 4)})
        self.pair = merge_from(merge | {"input_dims": (dim, dim)})
        self.last = merge_from(merge | {"input_dims": (text_dim, dim)})

    def forward(
        self, question: Tensor, image: Tensor, _: Tensor | None, image_mask: Tensor
    ) -> Pair:
        box = image.new_tensor([[0.0, 0.0, 1.0, 1.0]])
        position, x = self.boxes(box, box), image
        for _ in range(self.steps):
            s = self.ask(question[:, None], x)
            pairs = position + self.pair(s[:, :, None], s[:, None])
            x = x + s + highest(pairs, image_mask[:, None])
        return self.last(question, highest(x, image_mask)), x


class DFAF(nn.Module):
    """Attention flow between the sides and inside each (arXiv 1812.05252, section 3)."""

    def __init__(self, image_dim: int, text_dim: int, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.image, self.text = nn.Linear(image_dim, dim), nn.Linear(text_dim, dim)
        self.inter = nn.ModuleList(nn.Linear(dim, 3 * dim) for _ in range(2))
        self.inter_out = nn.ModuleList(nn.Linear(2 * dim, dim) for _ in range(2))
        self.gates = nn.ModuleList(nn.Linear(dim, dim) for _ in range(2))
        self.intra = nn.ModuleList(nn.Linear(dim, 3 * dim) for _ in range(2))
        self.intra_out = nn.ModuleList(nn.Linear(dim, dim) for _ in range(2))

    def forward(self, text: Tensor, image: Tensor, text_mask: Tensor, image_mask: Tensor) -> Pair:
        sides, masks = [self.text(text), self.image(image)], (text_mask, image_mask)
        parts = [self.split(f(x)) for f, x in zip(self.inter, sides, strict=True)]
        for i, (x, out) in enumerate(zip(sides, self.inter_out, strict=True)):
            (q, _, _), (_, k, v) = parts[i], parts[1 - i]
            sides[i] = out(torch.cat((x, self.read(q, k, v, masks[1 - i])), 2))
        means = [mean(x, mask) for x, mask in zip(sides, masks, strict=True)]
        for i, (x, out) in enumerate(zip(sides, self.intra_out, strict=True)):
            q, k, v = self.split(self.intra[i](x))
            gate = (1 + self.gates[i](means[1 - i]).sigmoid()).square()
            q = q * gate.view(len(x), self.heads, 1, -1)
            sides[i] = out(x + self.read(q, k, v, masks[i]))
        pooled = mean(sides[0], text_mask) * mean(sides[1], image_mask)
        return pooled, torch.cat(sides, 1)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def read(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return attend(q, k, v, mask[:, None, None]).transpose(1, 2).flatten(2)


class ParallelCoAttention(nn.Module):
    """HieCoAtt's parallel co-attention (arXiv 1606.00061, section 3.3)."""

    def __init__(self, image_dim: int, text_dim: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(image_dim, dim), nn.Linear(text_dim, dim)
        self.affinity = nn.Linear(dim, dim, bias=False)
        self.hidden_v = nn.Linear(dim, hidden, bias=False)
        self.hidden_q = nn.Linear(dim, hidden, bias=False)
        self.score_v = nn.Linear(hidden, 1, bias=False)
        self.score_q = nn.Linear(hidden, 1, bias=False)
        self.out = nn.Linear(dim, dim)

    def forward(self, text: Tensor, image: Tensor, text_mask: Tensor, image_mask: Tensor) -> Pair:
        words, patches = self.text(text), self.image(image)
        real = text_mask[:, :, None] & image_mask[:, None]
        c = (self.affinity(words) @ patches.mT).tanh().masked_fill(~real, 0)
        q, v = self.hidden_q(words), self.hidden_v(patches)
        patch = look(self.score_v((v + c.mT @ q).tanh()), patches, image_mask)[:, 0]
        word = look(self.score_q((q + c @ v).tanh()), words, text_mask)[:, 0]
        return self.out(word + patch).tanh(), torch.cat((words, patches), 1)


class StackedAttention(nn.Module):
    """The question looks at the image several times (arXiv 1511.02274, equations 15 to 22)."""

    def __init__(self, image_dim: int, text_dim: int, dim: int, hops: int, hidden: int) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(image_dim, dim), nn.Linear(text_dim, dim)
        self.hops = nn.ModuleList(
            nn.ModuleList(
                (nn.Linear(dim, hidden), nn.Linear(dim, hidden, bias=False), nn.Linear(hidden, 1))
            )
            for _ in range(hops)
        )

    def forward(
        self, question: Tensor, image: Tensor, _: Tensor | None, image_mask: Tensor
    ) -> Tensor:
        patches, state = self.image(image).tanh(), self.text(question)
        for of_patches, of_state, score in self.hops:
            hidden = (of_patches(patches) + of_state(state)[:, None]).tanh()
            state = state + look(score(hidden), patches, image_mask)[:, 0]
        return state


class RelationNetwork(nn.Module):
    """f of the mean of g over all pairs (arXiv 1706.01427, equation 1); tokens in the middle."""

    def __init__(self, image_dim: int, text_dim: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.one = nn.Linear(image_dim + 2, hidden)
        self.other = nn.Linear(image_dim + 2, hidden, bias=False)
        self.asked = nn.Linear(text_dim, hidden, bias=False)
        self.g = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(3))
        self.f = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, dim))

    def forward(
        self, question: Tensor, image: Tensor, _: Tensor | None, image_mask: Tensor
    ) -> Pair:
        objects = F.pad(image, (0, 2))
        one = self.one(objects) + self.asked(question)[:, None]
        h = (one[:, :, None] + self.other(objects)[:, None]).relu()  # (B, N, N, H)
        for layer in self.g:
            h = layer(h).relu()
        real = image_mask[:, :, None] & image_mask[:, None]
        total = h.masked_fill(~real[..., None], 0).sum((1, 2))
        return self.f(total / real.sum((1, 2))[:, None]), h


class MAC(nn.Module):
    """Control, read and write units in a chain (arXiv 1803.03067, section 3.2)."""

    def __init__(self, image_dim: int, text_dim: int, dim: int, steps: int) -> None:
        super().__init__()
        self.control, self.memory = (nn.Parameter(torch.randn(dim)) for _ in range(2))
        self.knowledge = nn.Linear(image_dim, dim)
        self.words, self.question = nn.Linear(text_dim, dim), nn.Linear(text_dim, dim)
        self.asked = nn.ModuleList(nn.Linear(dim, dim) for _ in range(steps))
        self.mix, self.word_score = nn.Linear(2 * dim, dim), nn.Linear(dim, 1)
        self.remembered, self.known = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.related, self.direct = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim)
        self.score = nn.Linear(dim, 1)
        self.write, self.out = nn.Linear(2 * dim, dim), nn.Linear(2 * dim, dim)

    def forward(self, text: Tensor, image: Tensor, text_mask: Tensor, image_mask: Tensor) -> Pair:
        knowledge, words = F.elu(self.knowledge(image)), self.words(text)
        question = self.question(mean(text, text_mask))
        known, direct = self.known(knowledge), self.direct(knowledge)
        control, memory = self.control.expand_as(question), self.memory.expand_as(question)
        for asked in self.asked:
            mixed = self.mix(torch.cat((control, asked(question)), 1))
            scores = self.word_score(mixed[:, None] * words)[..., 0]
            control = _read(scores, text_mask, words)
            related = self.related(self.remembered(memory)[:, None] * known) + direct
            scores = self.score(F.elu(control[:, None] * related))[..., 0]
            memory = self.write(torch.cat((_read(scores, image_mask, knowledge), memory), 1))
        return F.elu(self.out(torch.cat((question, memory), 1))), knowledge


def _read(scores: Tensor, mask: Tensor, values: Tensor) -> Tensor:
    """(B, N), (B, N), (B, N, D) -> (B, D)."""
    weights = scores.masked_fill(~mask, -torch.inf).softmax(1)
    return (weights[:, None] @ values)[:, 0]
