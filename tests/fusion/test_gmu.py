"""`GMU` by hand, and against the paper's equations on the concatenated inputs."""

from __future__ import annotations

import math

import pytest
import torch

from vlm.fusion import GMU


def test_by_hand() -> None:
    merge = GMU(2, 1, out_dim=1)
    with torch.no_grad():
        merge.x_projection.weight.copy_(torch.tensor([[1.0, 1.0], [1.0, 0.0]]))  # features, gate
        merge.y_projection.weight.copy_(torch.tensor([[-1.0], [math.log(3) / 2]]))
    x, y = torch.tensor([[math.log(3), -math.log(3) / 2]]), torch.tensor([[0.0]])
    # W x = log(3) / 2: tanh = (3 - 1) / (3 + 1) = 1/2. Gate: log 3, z = 3/4. V y = 0.
    torch.testing.assert_close(merge(x, y), torch.tensor([[0.375]]))
    # With y = -2 the gate is log 3 - log 3: z = 1/2, and tanh(V y) = tanh 2.
    wanted = torch.tensor([[0.25 + math.tanh(2) / 2]])
    torch.testing.assert_close(merge(x, torch.tensor([[-2.0]])), wanted)


@pytest.mark.parametrize(
    ("x_shape", "y_shape"),
    [((5,), (5,)), ((3, 7), (3, 1)), ((3, 7, 1), (3, 1, 5)), ((1, 7), (3, 1))],
)
def test_the_gate_reads_the_concatenation(x_shape: tuple, y_shape: tuple) -> None:
    torch.manual_seed(0)
    merge = GMU(13, 11, out_dim=17).double()
    x = torch.randn(*x_shape, 13, dtype=torch.float64)
    y = torch.randn(*y_shape, 11, dtype=torch.float64)
    leading = torch.broadcast_shapes(x_shape, y_shape)
    w, x_gate = merge.x_projection.weight.split(17)
    v, y_gate = merge.y_projection.weight.split(17)
    both = torch.cat((x.expand(*leading, -1), y.expand(*leading, -1)), -1)
    z = torch.sigmoid(both @ torch.cat((x_gate, y_gate), 1).T)
    wanted = z * torch.tanh(x @ w.T) + (1 - z) * torch.tanh(y @ v.T)
    torch.testing.assert_close(merge(x, y), wanted, rtol=0, atol=1e-12)


def test_number_of_parameters() -> None:
    assert sum(p.numel() for p in GMU(13, 11, out_dim=17).parameters()) == 2 * (13 + 11) * 17


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"out_dim: got 0; expected a positive integer"):
        GMU(13, 11, out_dim=0)
    with pytest.raises(ValueError, match=r"y: got width 13 .*; expected 11, the y_dim this GMU"):
        GMU(13, 11)(torch.zeros(2, 13), torch.zeros(2, 13))
