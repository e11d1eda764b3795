"""A part that breaks one promise fails its check, and the message says which promise."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

from vlm.fusion import CrossAttention, Merge, Product
from vlm.testing import check_fusion, check_merge


class GoodMerge(Merge):
    def __init__(self, x_dim: int = 13, y_dim: int = 11, out_dim: int = 17) -> None:
        super().__init__(x_dim, y_dim, out_dim)
        self.x_projection = nn.Linear(x_dim, out_dim)
        self.y_projection = nn.Linear(y_dim, out_dim)

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        return self.x_projection(x).tanh() * self.y_projection(y)


class TooNarrow(GoodMerge):
    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        return super().merge(x, y)[..., 1:]


class WrongBroadcast(GoodMerge):
    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        y = self.y_projection(y)
        if x.ndim == 3:
            y = y[:, :1].expand_as(y)
        return self.x_projection(x) * y


class CoupledMerge(GoodMerge):
    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        joint = super().merge(x, y)
        return joint - joint.mean(0)


class FirstRowOnly(GoodMerge):
    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        joint = super().merge(x, y)
        scale = torch.ones(joint.shape[0]).index_fill(0, torch.tensor(0), 2)
        return joint * scale.view(-1, *[1] * (joint.ndim - 1))


class UnusedParameter(GoodMerge):
    def __init__(self, x_dim: int = 13, y_dim: int = 11, out_dim: int = 17) -> None:
        super().__init__(x_dim, y_dim, out_dim)
        self.forgotten = nn.Linear(x_dim, out_dim)


class IgnoresY(GoodMerge):
    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        return self.x_projection(x) + 0 * self.y_projection(y)


class NaNGradientAtZero(GoodMerge):
    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        return super().merge(x, y) + x.norm(dim=-1, keepdim=True).sqrt()


class WrongGradient(GoodMerge):
    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        joint = super().merge(x, y)
        return joint + joint.square().detach()


class RandomBuffer(GoodMerge):
    def __init__(self, x_dim: int = 13, y_dim: int = 11, out_dim: int = 17) -> None:
        super().__init__(x_dim, y_dim, out_dim)
        self.register_buffer("signs", torch.randn(out_dim), persistent=False)

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        return super().merge(x, y) * self.signs


class NotRebuilt(GoodMerge):
    def __init__(self, x_dim: int = 13, y_dim: int = 11, out_dim: object = (17,)) -> None:
        super().__init__(x_dim, y_dim, out_dim[0])
        self.arguments["out_dim"] = 17  # equivalent, but not what the constructor accepts


class Unpicklable(GoodMerge):
    def __getstate__(self) -> dict:
        raise TypeError("cannot pickle this")

    def __deepcopy__(self, memo: dict) -> Unpicklable:
        return Unpicklable(self.x_dim, self.y_dim).to(self.x_projection.weight.dtype)


class PoorInBF16(GoodMerge):
    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        joint = super().merge(x, y)
        if torch.is_autocast_enabled("cpu"):
            return joint * 1.5
        return joint


class GraphBreak(GoodMerge):
    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        joint = super().merge(x, y)
        return joint if joint.sum().item() > -1e9 else -joint


class WrongWhenCompiled(GoodMerge):
    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        joint = super().merge(x, y)
        return 2 * joint if torch.compiler.is_dynamo_compiling() else joint


class WrongWhenExported(GoodMerge):
    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        joint = super().merge(x, y)
        exporting = torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()
        return 2 * joint if exporting else joint


class Unchecked(GoodMerge):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.merge(x, y)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (TooNarrow, r"TooNarrow breaks a promise: .*out_dim.*Shape \(5, 16\), not \(5, 17\)"),
        (WrongBroadcast, r"broadcasting equals .*given \(B, 1, Dx\) and \(B, N, Dy\).*differs by"),
        (CoupledMerge, "a row alone gives what it gives in a batch .*row 0 of 5"),
        (FirstRowOnly, "the order of the batch changes nothing"),
        (UnusedParameter, "gradient from `output` alone.*forgotten.weight, forgotten.bias"),
        (IgnoresY, "both inputs matter.*gradient of y is zero"),
        (NaNGradientAtZero, "gradients are finite .*given zeros.*NaN"),
        (WrongGradient, "gradcheck passes"),
        (RandomBuffer, r"build\(part.config\) plus the state_dict gives the same"),
        (NotRebuilt, r"build\(part.config\) plus the state_dict gives the same.*do not fit"),
        (Unpicklable, "pickle.*cannot pickle this"),
        (PoorInBF16, r"bf16 autocast .*output: off by .*%, at most 10%"),
        (GraphBreak, "fullgraph=True"),
        (WrongWhenCompiled, "fullgraph=True.*differs by"),
        (WrongWhenExported, "torch.export gives the same.*differs by"),
        (Unchecked, "wrong input raises ValueError.*x that is too wide"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_broken_merge(broken: type[Merge], message: str) -> None:
    with pytest.raises(AssertionError, match=f"(?s){message}"):
        check_merge(broken(13, 11))


def test_good_merge() -> None:
    check_merge(GoodMerge())


def test_leaves_the_part_and_random_numbers_alone() -> None:
    fusion = CrossAttention(13, 11, out_dim=6, num_heads=2, feedforward_dim=17)
    fusion.words_pool.eval()
    before = {name: value.clone() for name, value in fusion.state_dict().items()}
    torch.manual_seed(7)
    random.seed(7)
    wanted = torch.rand(3), random.random()
    torch.manual_seed(7)
    random.seed(7)
    check_fusion(fusion)
    assert torch.equal(torch.rand(3), wanted[0])
    assert random.random() == wanted[1]
    assert fusion.training
    assert not fusion.words_pool.training
    assert all(parameter.grad is None for parameter in fusion.parameters())
    torch.testing.assert_close(dict(fusion.state_dict()), before, rtol=0, atol=0)


def test_works_under_no_grad() -> None:
    with torch.no_grad():
        check_merge(Product(13, 11, out_dim=17))
