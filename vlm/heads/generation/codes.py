"""Pictures as codes: a small vector-quantised autoencoder, and how it is trained."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlm.core.part import Part
from vlm.core.validation import check_divides, check_positive

DECAY, RARE = 0.99, 0.02
"""Of the codebook's running means, and the running count below which a code is given up."""
COMMITMENT, WARM_UP = 0.25, 0.3
"""Weight of the loss that keeps the encoder near its codes, as in the paper, and the share of the
steps before there are any: codes of an encoder that has learned nothing stay few."""


class PictureCodes(Part):
    """A VQ autoencoder: each patch of a picture is one of `codes` codes (arXiv 1711.00937).

    From van den Oord et al. 2017. Patches are encoded and decoded one by one, and each different
    one counts once in training. The codebook follows the running means of what is nearest to each
    code (the paper's appendix A.1); a code that is hardly used moves to a random patch (Dhariwal et
    al. 2020, arXiv 2005.00341), here the likelier the worse its code. `learn` trains it before the
    rest of a model, and not with it: so its weights are buffers, which no optimiser sees.

    Args:
        size: height and width of the pictures, in pixels.
        patch: height and width of a patch; divides `size`.
        codes: number of codes.
        dim: width of a code.
        hidden_dim: width of the layers.
        steps: steps of the training.
        batch_size: patches in a step.
        lr: learning rate of the training, which falls to zero along a cosine.

    Attributes:
        length: codes of a picture, row by row.
        learned: () bool, whether it was trained.

    Example:
        >>> codes = vlm.heads.PictureCodes(size=32, patch=16, codes=8, steps=2)
        >>> pictures = torch.zeros(5, 32, 32, 3, dtype=torch.uint8)
        >>> codes.learn(pictures).encode(pictures).shape
        torch.Size([5, 4])
        >>> codes.decode(codes.encode(pictures)).shape
        torch.Size([5, 32, 32, 3])
    """

    codebook: Tensor
    learned: Tensor

    def __init__(
        self,
        size: int = 64,
        patch: int = 16,
        codes: int = 2048,
        dim: int = 32,
        hidden_dim: int = 256,
        steps: int = 8000,
        batch_size: int = 256,
        lr: float = 3e-3,
    ) -> None:
        super().__init__()
        check_positive(size=size, codes=codes, dim=dim, hidden_dim=hidden_dim)
        check_positive(steps=steps, batch_size=batch_size)
        if not 0 < lr < inf:
            raise ValueError(f"lr: got {lr}; expected a positive number.")
        check_divides("size", size, "patch", patch)
        self.size, self.patch, self.codes = size, patch, codes
        self.steps, self.batch_size, self.lr = steps, batch_size, lr
        self.length = (size // patch) ** 2
        pixels = 3 * patch**2
        self.encoder = _perceptron(pixels, hidden_dim, dim)
        self.decoder = _perceptron(dim, hidden_dim, pixels)
        self.register_buffer("codebook", torch.randn(codes, dim))
        self.register_buffer("learned", torch.tensor(False))
        _to_buffers(self)

    def encode(self, pictures: Tensor) -> Tensor:
        """(P, H, W, 3) uint8 -> (P, length) int64 codes."""
        return self._nearest(self.encoder(self._scaled(self._split(pictures))))

    def decode(self, codes: Tensor) -> Tensor:
        """(P, length) int64 codes -> (P, H, W, 3) uint8."""
        return self._picture(self.decoder(self.codebook[codes]))

    def _split(self, pictures: Tensor) -> Tensor:
        """(P, H, W, 3) uint8 -> (P, length, pixels) uint8."""
        side, patch = self.size // self.patch, self.patch
        split = pictures.view(-1, side, patch, side, patch, 3).transpose(2, 3)
        return split.reshape(-1, self.length, 3 * patch**2)

    def _scaled(self, patches: Tensor) -> Tensor:
        """uint8 -> [0, 2]: black, the usual background, is zero."""
        return patches.to(self.codebook.dtype) / 127.5

    def _picture(self, patches: Tensor) -> Tensor:
        side, patch = self.size // self.patch, self.patch
        pixels = (patches.float() * 127.5).round().clamp(0, 255).to(torch.uint8)
        split = pixels.view(-1, side, side, patch, patch, 3).transpose(2, 3)
        return split.reshape(-1, self.size, self.size, 3)

    def _nearest(self, vectors: Tensor) -> Tensor:
        """The code of the least distance: (..., dim) -> (...) int64."""
        book = self.codebook
        return (vectors @ book.T - book.square().sum(1) / 2).argmax(-1)

    @torch.enable_grad()
    def learn(
        self, pictures: Tensor, seed: int = 0, alive: Callable[[], None] = lambda: None
    ) -> Self:
        """Train on pictures (P, H, W, 3) uint8. It happens on the CPU, so that all processes of a
        training have the same weights; the same seed gives the same ones, and torch's own random
        numbers are left alone. `alive` is called before each step.

        Raises:
            ValueError: pictures of another size, or none.
        """
        expected = (self.size, self.size, 3)
        if not len(pictures) or pictures.shape[1:] != expected or pictures.dtype != torch.uint8:
            raise ValueError(
                f"pictures: got {tuple(pictures.shape)} of {pictures.dtype}; expected one or more "
                f"of {expected}, uint8."
            )
        device, dtype = self.codebook.device, self.codebook.dtype
        self.to("cpu", torch.float)  # running means in less are none
        draws = torch.Generator().manual_seed(seed)
        trained = [*_to_parameters(self.encoder, draws), *_to_parameters(self.decoder, draws)]
        optimizer = torch.optim.Adam(trained, self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        counts = torch.zeros(self.codes)  # none in use: all are drawn anew at first
        sums = torch.zeros_like(self.codebook)
        each = self._split(pictures.cpu()).flatten(0, 1).numpy()
        patches = torch.from_numpy(np.unique(each, axis=0))
        from vlm.core.terminal import track  # rich: research code that draws needs no bar

        shown = f"Training {self.codes:,} codes of drawings"
        try:
            for step in track(range(self.steps), shown):
                alive()
                rows = torch.randint(len(patches), (self.batch_size,), generator=draws)
                wanted = self._scaled(patches[rows])
                vectors = self.encoder(wanted)
                if step < WARM_UP * self.steps:
                    loss = F.mse_loss(self.decoder(vectors), wanted)
                else:
                    self._follow(vectors.detach(), counts, sums, draws)
                    nearest = self.codebook[self._nearest(vectors.detach())]
                    made = self.decoder(vectors + (nearest - vectors).detach())
                    loss = F.mse_loss(made, wanted) + COMMITMENT * F.mse_loss(vectors, nearest)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            self.learned.fill_(True)
        finally:  # whatever ends it, the codes are no parameters
            _to_buffers(self)
            self.to(device, dtype)
        return self

    def _follow(
        self, vectors: Tensor, counts: Tensor, sums: Tensor, draws: torch.Generator
    ) -> None:
        """Move the codebook towards the vectors (N, dim), and the running counts and sums too."""
        rare = (counts < RARE).nonzero().squeeze(1)
        if len(rare):
            away = (vectors - self.codebook[self._nearest(vectors)]).square().sum(1) + 1e-9
            rows = away.multinomial(len(rare), replacement=True, generator=draws)
            self.codebook[rare] = sums[rare] = vectors[rows]
            counts[rare] = 1.0
        nearest = self._nearest(vectors)
        counts.mul_(DECAY).index_add_(0, nearest, torch.full_like(vectors[:, 0], 1 - DECAY))
        sums.mul_(DECAY).index_add_(0, nearest, (1 - DECAY) * vectors)
        self.codebook.copy_(sums / counts[:, None])


def _perceptron(in_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(in_dim, hidden_dim),
        nn.GELU(),
        nn.Linear(hidden_dim, hidden_dim),
        nn.GELU(),
        nn.Linear(hidden_dim, out_dim),
    )


def _to_buffers(module: nn.Module) -> None:
    """Make buffers of the same names of a module's parameters."""
    for inner in module.modules():
        for name, parameter in list(inner.named_parameters(recurse=False)):
            delattr(inner, name)
            inner.register_buffer(name, parameter.detach())


def _to_parameters(module: nn.Module, draws: torch.Generator) -> list[nn.Parameter]:
    """Make parameters of the buffers again, with new values: uniform in +-1 / sqrt(width)."""
    made = []
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            for name, buffer in list(layer.named_buffers(recurse=False)):
                delattr(layer, name)
                value = torch.empty(buffer.shape).uniform_(-bound, bound, generator=draws)
                made.append(nn.Parameter(value.to(buffer)))
                setattr(layer, name, made[-1])
    return made
