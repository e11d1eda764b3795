"""Any number of patches as a fixed number of tokens, so that a decoder has fewer to read."""

from __future__ import annotations

from vlm.core.features import Features, masked_max
from vlm.fusion.initialize import xavier_uniform
from vlm.fusion.perceiver import PerceiverResampler
from vlm.fusion.projector import Projector


class Resampler(Projector):
    """Flamingo's resampler as a connector: learned latents read the patches and become the tokens.

        tokens = [PerceiverResampler(V patches + c), U words + b]
        pooled = mean(U words + b) * max(tokens of the image)

    However many patches an image has, it becomes `latents` tokens (Alayrac et al. 2022, arXiv
    2204.14198, section 2.1). The question plays no part in what they read. An image without a real
    patch gives no real token. `pooled` is that of `Projector`.

    Args:
        image_dim, text_dim: widths of the inputs.
        out_dim: width of the resampler and of the result.
        latents: tokens that an image becomes; 64 in the paper.
        num_layers: layers of the resampler; 6 in the paper.
        num_heads: attention heads; divides `out_dim`.
        dropout: share dropped from attention weights and residual branches in training.

    Example:
        >>> fusion = vlm.fusion.Resampler(image_dim=64, text_dim=32, out_dim=48, latents=8)
        >>> fusion(torch.randn(2, 49, 64), torch.randn(2, 7, 32))
        Features(2 x 15 x 48, 15 real)
    """

    lr_factor = 0.3

    def __init__(
        self,
        image_dim: int,
        text_dim: int,
        out_dim: int = 256,
        latents: int = 64,
        num_layers: int = 2,
        num_heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(image_dim, text_dim, out_dim, num_layers=1)
        self.resampler = PerceiverResampler(out_dim, latents, num_layers, num_heads, dropout)
        xavier_uniform(self)

    def prepare(self, image: Features) -> Features:
        patches = self.image_projection(image.zero_padding().tokens)  # (B, P, D)
        tokens = self.resampler(patches, image.mask)  # (B, M, D)
        real = image.mask.any(1, keepdim=True).expand(tokens.shape[:2])  # (B, M)
        return Features(tokens, real, masked_max(tokens, real))
