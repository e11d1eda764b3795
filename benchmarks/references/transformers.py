"""Transformers over words and patches, from the formulas of their papers.

All take (text, image, text_mask, image_mask) of shapes (B, L, Dt), (B, P, Dv), (B, L), (B, P) and
give the pooled vector (B, D) and the tokens. What stands in the padding is finite.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from references.pieces import Attention, attend, highest, mean

Pair = tuple[Tensor, Tensor]


def perceptron(dim: int, hidden: int, activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, hidden), activation, nn.Linear(hidden, dim))


class CrossAttention(nn.Module):
    """ViLBERT's co-attention (arXiv 1908.02265, figure 2b), pre-normalised."""

    def __init__(
        self, image_dim: int, text_dim: int, dim: int, layers: int, heads: int, hidden: int
    ) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(image_dim, dim), nn.Linear(text_dim, dim)
        self.layers = nn.ModuleList(CoLayer(dim, heads, hidden) for _ in range(layers))
        self.pool_text = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))
        self.pool_image = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))

    def forward(self, text: Tensor, image: Tensor, text_mask: Tensor, image_mask: Tensor) -> Pair:
        words, patches = self.text(text), self.image(image)
        for layer in self.layers:
            words, patches = layer(words, patches, text_mask, image_mask)
        question = self.pool_text(mean(words, text_mask))
        pooled = question * self.pool_image(highest(patches, image_mask))
        return pooled, torch.cat((words, patches), 1)


class CoLayer(nn.Module):
    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.attentions = nn.ModuleList(Attention(dim, heads, dim) for _ in range(2))
        self.perceptrons = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(dim), *perceptron(dim, hidden, nn.GELU())) for _ in range(2)
        )

    def forward(self, words: Tensor, patches: Tensor, words_mask: Tensor, mask: Tensor) -> Pair:
        w, p = self.norms[0](words), self.norms[1](patches)
        words = words + self.attentions[0](w, mask, p)
        patches = patches + self.attentions[1](p, words_mask, w)
        return words + self.perceptrons[0](words), patches + self.perceptrons[1](patches)


class LXMERT(CrossAttention):
    """LXMERT's cross-modality encoder (arXiv 1908.07490, section 2.2), post-normalised."""

    def __init__(
        self, image_dim: int, text_dim: int, dim: int, layers: int, heads: int, hidden: int
    ) -> None:
        super().__init__(image_dim, text_dim, dim, layers, heads, hidden)
        self.layers = nn.ModuleList(LXMERTLayer(dim, heads, hidden) for _ in range(layers))
        self.pool_text, self.pool_image = nn.Linear(dim, dim), nn.Linear(dim, dim)


class LXMERTLayer(nn.Module):
    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.cross = nn.ModuleList(Attention(dim, heads, dim) for _ in range(2))
        self.cross_norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.inner = nn.ModuleList(Attention(dim, heads) for _ in range(2))
        self.inner_norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.perceptrons = nn.ModuleList(
            nn.Sequential(*perceptron(dim, hidden, nn.GELU()), nn.LayerNorm(dim)) for _ in range(2)
        )

    def forward(self, words: Tensor, patches: Tensor, words_mask: Tensor, mask: Tensor) -> Pair:
        seen, asked = self.cross[0](words, mask, patches), self.cross[1](patches, words_mask, words)
        both = []
        for i, x, other, real in ((0, words, seen, words_mask), (1, patches, asked, mask)):
            x = self.cross_norms[i](x + other)
            x = self.inner_norms[i](x + self.inner[i](x, real))
            *layers, norm = self.perceptrons[i]
            both.append(norm(x + nn.Sequential(*layers)(x)))
        return both[0], both[1]


class Joint(nn.Module):
    """Words and patches in one sequence, each with the embedding of its modality."""

    def __init__(self, image_dim: int, text_dim: int, dim: int) -> None:
        super().__init__()
        self.image_type, self.text_type = (nn.Parameter(torch.randn(dim)) for _ in range(2))
        self.image = nn.Linear(image_dim, dim, bias=False)
        self.text = nn.Linear(text_dim, dim, bias=False)

    def forward(self, text: Tensor, image: Tensor) -> Pair:
        return self.text(text) + self.text_type, self.image(image) + self.image_type


class MergedAttention(nn.Module):
    """METER's merged attention (arXiv 2111.02387): BERT's layers over both modalities."""

    def __init__(
        self, image_dim: int, text_dim: int, dim: int, layers: int, heads: int, hidden: int
    ) -> None:
        super().__init__()
        self.joint = Joint(image_dim, text_dim, dim)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                (
                    Attention(dim, heads),
                    nn.LayerNorm(dim),
                    perceptron(dim, hidden, nn.GELU()),
                    nn.LayerNorm(dim),
                )
            )
            for _ in range(layers)
        )
        self.pool = nn.Linear(2 * dim, dim)

    def forward(self, text: Tensor, image: Tensor, text_mask: Tensor, image_mask: Tensor) -> Pair:
        x, mask = torch.cat(self.joint(text, image), 1), torch.cat((text_mask, image_mask), 1)
        for attention, norm, network, last in self.layers:
            x = norm(x + attention(x, mask))
            x = last(x + network(x))
        words, patches = x.split((text.shape[1], image.shape[1]), 1)
        means = torch.cat((mean(words, text_mask), mean(patches, image_mask)), 1)
        return self.pool(means).tanh(), x


class SingleStream(nn.Module):
    """ViLT (arXiv 2102.03334, equations 3 to 6): a class token, words and patches, pre-norm."""

    def __init__(
        self, image_dim: int, text_dim: int, dim: int, layers: int, heads: int, hidden: int
    ) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(dim))
        self.joint = Joint(image_dim, text_dim, dim)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                (
                    nn.LayerNorm(dim),
                    Attention(dim, heads),
                    nn.LayerNorm(dim),
                    perceptron(dim, hidden, nn.GELU()),
                )
            )
            for _ in range(layers)
        )
        self.norm, self.pool = nn.LayerNorm(dim), nn.Linear(dim, dim)

    def forward(self, text: Tensor, image: Tensor, text_mask: Tensor, image_mask: Tensor) -> Pair:
        first = self.first.expand(len(text), 1, -1)
        x = torch.cat((first, *self.joint(text, image)), 1)
        mask = torch.cat((text_mask.new_ones(len(text), 1), text_mask, image_mask), 1)
        for norm, attention, second, network in self.layers:
            x = x + attention(norm(x), mask)
            x = x + network(second(x))
        x = self.norm(x)
        return self.pool(x[:, 0]).tanh(), x[:, 1:]


class QFormer(nn.Module):
    """BLIP-2's Q-Former (arXiv 2301.12597, section 3.1) with words, as InstructBLIP asks it."""

    def __init__(
        self, image_dim: int, text_dim: int, dim: int, queries: int, layers: int, heads: int
    ) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, dim))
        self.text, self.norm = nn.Linear(text_dim, dim), nn.LayerNorm(dim)
        self.layers = nn.ModuleList(
            QFormerLayer(dim, heads, None if i % 2 else image_dim) for i in range(layers)
        )
        self.pool_text, self.pool_queries = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, text: Tensor, image: Tensor, text_mask: Tensor, image_mask: Tensor) -> Pair:
        words = self.norm(self.text(text))
        queries = self.norm(self.queries).expand(len(text), -1, -1)
        mask = torch.cat((text_mask, text_mask.new_ones(queries.shape[:2])), 1)
        for layer in self.layers:
            words, queries = layer(words, queries, mask, image, image_mask)
        pooled = self.pool_text(mean(words, text_mask)) * self.pool_queries(queries.amax(1))
        return pooled, torch.cat((queries, words), 1)


class QFormerLayer(nn.Module):
    def __init__(self, dim: int, heads: int, image_dim: int | None) -> None:
        super().__init__()
        self.attention, self.norm = Attention(dim, heads), nn.LayerNorm(dim)
        self.looks = image_dim is not None
        if image_dim is not None:
            self.look, self.look_norm = Attention(dim, heads, image_dim), nn.LayerNorm(dim)
        self.words, self.words_norm = perceptron(dim, 4 * dim, nn.GELU()), nn.LayerNorm(dim)
        self.queries, self.queries_norm = perceptron(dim, 4 * dim, nn.GELU()), nn.LayerNorm(dim)

    def forward(
        self, words: Tensor, queries: Tensor, mask: Tensor, image: Tensor, image_mask: Tensor
    ) -> Pair:
        x = torch.cat((words, queries), 1)
        x = self.norm(x + self.attention(x, mask))
        words, queries = x.split((words.shape[1], queries.shape[1]), 1)
        if self.looks:
            queries = self.look_norm(queries + self.look(queries, image_mask, image))
        words = self.words_norm(words + self.words(words))
        return words, self.queries_norm(queries + self.queries(queries))


class SquaredReLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu().square()


class Flamingo(nn.Module):
    """A Perceiver resampler and gated cross-attention (arXiv 2204.14198, sections 2.1 and 2.2)."""

    def __init__(
        self, image_dim: int, text_dim: int, dim: int, latents: int, layers: int, heads: int
    ) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(image_dim, dim), nn.Linear(text_dim, dim)
        self.resampler = Resampler(dim, latents, heads)
        self.layers = nn.ModuleList(GatedLayer(dim, heads) for _ in range(layers))
        self.pool = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))

    def forward(self, text: Tensor, image: Tensor, text_mask: Tensor, image_mask: Tensor) -> Pair:
        latents = self.resampler(self.image(image), image_mask)
        words = self.text(text)
        seen = image_mask.any(1)[:, None].expand(-1, latents.shape[1])
        for layer in self.layers:
            words = layer(words, latents, seen)
        return self.pool(mean(words, text_mask)), words


class Resampler(nn.Module):
    """One layer of it."""

    def __init__(self, dim: int, latents: int, heads: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(latents, dim))
        self.image_norm, self.norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, dim)
        self.network = nn.Sequential(nn.LayerNorm(dim), *perceptron(dim, 4 * dim, SquaredReLU()))
        self.last = nn.LayerNorm(dim)

    def forward(self, patches: Tensor, mask: Tensor) -> Tensor:
        # Queries are the same for all images until they have looked.
        rows, attention = len(patches), self.attention
        query = self.norm(self.latents)
        context = torch.cat((self.image_norm(patches), query.expand(rows, -1, -1)), 1)
        mask = torch.cat((mask, mask.new_ones(rows, len(query))), 1)
        (q,) = attention.split(attention.q(query)[None], 1)
        k, v = attention.split(attention.kv(context), 2)
        seen = attend(q.expand(rows, -1, -1, -1), k, v, mask[:, None, None])
        latents = self.latents + attention.out(seen.transpose(1, 2).flatten(2))
        return self.last(latents + self.network(latents))


class GatedLayer(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.gate, self.network_gate = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        self.norm, self.attention = nn.LayerNorm(dim), Attention(dim, heads, dim)
        self.network = nn.Sequential(nn.LayerNorm(dim), *perceptron(dim, 4 * dim, SquaredReLU()))

    def forward(self, words: Tensor, latents: Tensor, seen: Tensor) -> Tensor:
        looked = self.attention(self.norm(words), seen, latents)
        words = words + self.gate.tanh() * looked * seen[:, :1, None]
        return words + self.network_gate.tanh() * self.network(words)
