"""Multimodal compact bilinear pooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlm.core.validation import check_positive
from vlm.fusion.base import Merge
from vlm.fusion.merges.elementwise import ACTIVATIONS, Activation, power_normalize


class MCB(Merge):
    """Compact bilinear pooling: o(O n(sketch(x) (*) sketch(y))), (*) a circular convolution.

    The convolution of two count sketches is a count sketch of the outer product (Fukui et al. 2016,
    arXiv 1606.01847, algorithm 1); it is computed in the Fourier domain. The sketches are random
    and fixed, and are stored with the weights. Fourier transforms run in float32 or higher
    precision.

    Parameters: (D + 1) out_dim with D = sketch_dim. The authors' D is 16,000.

    Args:
        x_dim, y_dim: widths of the inputs.
        out_dim: width of the result.
        sketch_dim: width D of the sketches.
        output_activation: activation o after the last projection.
        normalize: whether n is the signed square root and L2 normalisation, as in the paper, or the
            identity.
        dropout: fraction of the normalised features dropped in training, in [0, 1).

    Example:
        >>> merge = vlm.fusion.MCB(x_dim=64, y_dim=32, out_dim=48, sketch_dim=512)
        >>> merge(torch.randn(2, 49, 64), torch.randn(2, 1, 32)).shape
        torch.Size([2, 49, 48])
    """

    x_bucket: Tensor
    x_sign: Tensor
    y_bucket: Tensor
    y_sign: Tensor

    def __init__(
        self,
        x_dim: int,
        y_dim: int,
        out_dim: int = 256,
        sketch_dim: int = 4096,
        output_activation: Activation = "identity",
        normalize: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(x_dim, y_dim, out_dim)
        check_positive(sketch_dim=sketch_dim)
        self.sketch_dim, self.normalize = sketch_dim, normalize
        for name, dim in (("x", x_dim), ("y", y_dim)):
            self.register_buffer(f"{name}_bucket", torch.randint(sketch_dim, (dim,)))
            self.register_buffer(f"{name}_sign", torch.randint(2, (dim,)) * 2.0 - 1)
        self.dropout = nn.Dropout(dropout)
        self.out_projection = nn.Linear(sketch_dim, out_dim)
        self.output_activation = ACTIVATIONS[output_activation]()

    def prepare(self, x: Tensor) -> Tensor:
        return self.sketch(x, self.x_bucket, self.x_sign)  # (..., D)

    def merge(self, x_sketch: Tensor, y: Tensor) -> Tensor:
        y_sketch = self.sketch(y, self.y_bucket, self.y_sign)
        if x_sketch.numel() and y_sketch.numel():
            spectrum = torch.fft.rfft(x_sketch) * torch.fft.rfft(y_sketch)
            z = torch.fft.irfft(spectrum, self.sketch_dim)  # (..., D)
        else:
            z = x_sketch * y_sketch  # as empty: no transform is defined of nothing
        if self.normalize:
            # A bucket that nothing falls into holds rounding errors of the transform, which the
            # square root would make large.
            lengths = x_sketch.norm(dim=-1, keepdim=True) * y_sketch.norm(dim=-1, keepdim=True)
            z = z.masked_fill(z.abs() < 8 * torch.finfo(z.dtype).eps * lengths, 0)
            z = power_normalize(z)
        z = self.dropout(z).to(self.out_projection.weight.dtype)
        return self.output_activation(self.out_projection(z))

    def sketch(self, value: Tensor, bucket: Tensor, sign: Tensor) -> Tensor:
        """Add each channel, with its sign, into its bucket: (..., dim) -> (..., D)."""
        wide = torch.promote_types(value.dtype, torch.float32)
        signed = value.to(wide) * sign.to(wide)
        empty = signed.new_zeros(*value.shape[:-1], self.sketch_dim)
        return empty.index_add(-1, bucket, signed)
