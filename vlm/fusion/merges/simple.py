"""Merges without a structure of their own: sum, product, concatenation + MLP, late fusion."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vlm.core.validation import check_positive
from vlm.fusion.base import Merge
from vlm.fusion.initialize import he_uniform
from vlm.fusion.merges.elementwise import ACTIVATIONS, Activation, power_normalize
from vlm.fusion.perceptron import perceptron


class Sum(Merge):
    """Sum of two projections: o(O n(a(W x + b) + a(V y + c))).

    The linear baseline of the bilinear family: only through the activations and the normalisation
    can the question select anything in the image.

    Parameters: (x_dim + y_dim + 2) H + (H + 1) out_dim with H = hidden_dim.

    Args:
        x_dim, y_dim: widths of the inputs.
        out_dim: width of the result.
        hidden_dim: width H of both projections.
        input_activation: activation a of both terms.
        output_activation: activation o after the last projection.
        normalize: whether n is the signed square root and L2 normalisation, or the identity.
        dropout: fraction of both terms dropped in training, in [0, 1).

    Example:
        >>> merge = vlm.fusion.Sum(x_dim=64, y_dim=32, out_dim=48)
        >>> merge(torch.randn(2, 49, 64), torch.randn(2, 1, 32)).shape
        torch.Size([2, 49, 48])
    """

    def __init__(
        self,
        x_dim: int,
        y_dim: int,
        out_dim: int = 256,
        hidden_dim: int = 256,
        input_activation: Activation = "relu",
        output_activation: Activation = "identity",
        normalize: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(x_dim, y_dim, out_dim)
        check_positive(hidden_dim=hidden_dim)
        self.normalize = normalize
        self.x_projection = nn.Linear(x_dim, hidden_dim)
        self.y_projection = nn.Linear(y_dim, hidden_dim)
        self.input_activation = ACTIVATIONS[input_activation]()
        self.dropout = nn.Dropout(dropout)
        self.out_projection = nn.Linear(hidden_dim, out_dim)
        self.output_activation = ACTIVATIONS[output_activation]()

    def prepare(self, x: Tensor) -> Tensor:
        return self.input_activation(self.x_projection(x))

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        y = self.input_activation(self.y_projection(y))
        z = self.dropout(x) + self.dropout(y)  # (..., H)
        z = power_normalize(z) if self.normalize else z
        return self.output_activation(self.out_projection(z))


class Product(Merge):
    """Elementwise product of two projections: a(W x + b) * a(V y + c).

    The joint embedding of Antol et al. 2015 (arXiv 1505.00468, section 4) and of bottom-up
    top-down attention (arXiv 1707.07998, equation 9).

    Args:
        x_dim, y_dim: widths of the inputs.
        out_dim: width of both projections and of the result.
        activation: activation a of both factors. The default is linear: the product is nonlinear
            already, and saturating factors train less reliably (docs/log.md).
        dropout: fraction of the result dropped in training, in [0, 1).

    Example:
        >>> merge = vlm.fusion.Product(x_dim=64, y_dim=32, out_dim=48)
        >>> merge(torch.randn(2, 49, 64), torch.randn(2, 1, 32)).shape
        torch.Size([2, 49, 48])
    """

    def __init__(
        self,
        x_dim: int,
        y_dim: int,
        out_dim: int = 256,
        activation: Activation = "identity",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(x_dim, y_dim, out_dim)
        self.x_projection = nn.Linear(x_dim, out_dim)
        self.y_projection = nn.Linear(y_dim, out_dim)
        self.activation = ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)
        he_uniform(self)

    def prepare(self, x: Tensor) -> Tensor:
        return self.activation(self.x_projection(x))

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        return self.dropout(x * self.activation(self.y_projection(y)))


class ConcatMLP(Merge):
    """Concatenation, then a perceptron: MLP([x, y]).

    Args:
        x_dim, y_dim: widths of the inputs.
        out_dim: width of the result, which is linear.
        hidden_dims: widths of the hidden layers.
        activation: activation after each hidden layer.
        dropout: fraction dropped after each hidden layer in training, in [0, 1).

    Example:
        >>> merge = vlm.fusion.ConcatMLP(x_dim=64, y_dim=32, out_dim=48, hidden_dims=[64])
        >>> merge(torch.randn(2, 49, 64), torch.randn(2, 1, 32)).shape
        torch.Size([2, 49, 48])
    """

    def __init__(
        self,
        x_dim: int,
        y_dim: int,
        out_dim: int = 256,
        hidden_dims: Sequence[int] = (256, 256),
        activation: Activation = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(x_dim, y_dim, out_dim)
        first, *rest = [*hidden_dims, out_dim]
        check_positive(**{f"hidden_dims[{i}]": dim for i, dim in enumerate(hidden_dims)})
        # The first layer on [x, y] is a sum of two: neither a copy of the question for every
        # patch nor a concatenated tensor is made when the leading dimensions broadcast.
        self.x_projection = nn.Linear(x_dim, first)
        self.y_projection = nn.Linear(y_dim, first, bias=False)
        layers: list[nn.Module] = []
        for dim, next_dim in zip([first, *rest], rest, strict=False):
            layers += [
                ACTIVATIONS[activation](),
                nn.Dropout(dropout),
                nn.Linear(dim, next_dim),
            ]
        self.layers = nn.Sequential(*layers)

    def prepare(self, x: Tensor) -> Tensor:
        return self.x_projection(x)

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        return self.layers(x + self.y_projection(y))


class LateFusion(Merge):
    """Mean of two perceptrons, one for each side: (MLP_x(x) + MLP_y(y)) / 2.

    Under a linear head it averages the decisions of two experts: one sees only the image, and one
    only the question. So it cannot learn answers that depend on both together, and is the baseline
    that shows whether a data set needs fusion at all. `data.control` trains with one side alone.

    Args:
        x_dim, y_dim: widths of the inputs.
        out_dim: width of the result.
        hidden_dims: widths of each perceptron's hidden layers.
        dropout: fraction dropped after each hidden layer in training, in [0, 1).

    Example:
        >>> merge = vlm.fusion.LateFusion(x_dim=64, y_dim=32, out_dim=48)
        >>> merge(torch.randn(2, 64), torch.randn(2, 32)).shape
        torch.Size([2, 48])
    """

    def __init__(
        self,
        x_dim: int,
        y_dim: int,
        out_dim: int = 256,
        hidden_dims: Sequence[int] = (256,),
        dropout: float = 0.0,
    ) -> None:
        super().__init__(x_dim, y_dim, out_dim)
        self.x_expert = perceptron(x_dim, hidden_dims, out_dim, dropout)
        self.y_expert = perceptron(y_dim, hidden_dims, out_dim, dropout)

    def prepare(self, x: Tensor) -> Tensor:
        return self.x_expert(x)

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        return (x + self.y_expert(y)) / 2
