"""`TensorFusion` is a perceptron on the outer product, and MFB its low-rank form."""

from __future__ import annotations

import pytest
import torch

from vlm.fusion import MFB, LateFusion, TensorFusion


def with_one(value: torch.Tensor) -> torch.Tensor:
    return torch.cat((value, torch.ones_like(value[..., :1])), -1)


@pytest.mark.parametrize(
    ("x_shape", "y_shape"),
    [((5,), (5,)), ((3, 7), (3, 1)), ((3, 7, 1), (3, 1, 5)), ((1, 7), (3, 1)), ((), (4,))],
)
@pytest.mark.parametrize("hidden_dims", [(), (19,), (19, 23)])
def test_first_layer_reads_the_outer_product(
    x_shape: tuple, y_shape: tuple, hidden_dims: tuple
) -> None:
    torch.manual_seed(0)
    merge = TensorFusion(13, 11, 17, 7, hidden_dims).double()
    x = torch.randn(*x_shape, 13, dtype=torch.float64)
    y = torch.randn(*y_shape, 11, dtype=torch.float64)
    outer = (
        with_one(merge.x_projection(x))[..., :, None]
        * with_one(merge.y_projection(y))[..., None, :]
    )  # (..., H + 1, H + 1)
    first = hidden_dims[0] if hidden_dims else 17
    weight = torch.zeros(first, 8, 8, dtype=torch.float64)
    weight[:, :7, :7] = merge.weight.permute(2, 1, 0)
    weight[:, :7, 7], weight[:, 7, :7] = merge.x_linear.weight, merge.y_linear.weight
    weight[:, 7, 7] = merge.x_linear.bias
    wanted = outer.flatten(-2) @ weight.flatten(1).T
    if hidden_dims:
        wanted = merge.layers[2](wanted.relu())
    torch.testing.assert_close(merge(x, y), wanted, rtol=0, atol=1e-12)


def test_by_hand() -> None:
    merge = TensorFusion(1, 1, 1, 1, hidden_dims=())
    with torch.no_grad():
        for parameter, value in zip(
            (merge.weight, merge.x_linear.weight, merge.y_linear.weight, merge.x_linear.bias),
            (2.0, 3.0, 5.0, 7.0),
            strict=True,
        ):
            parameter.fill_(value)
        for projection in (merge.x_projection, merge.y_projection):
            projection.weight.fill_(1)
            projection.bias.fill_(0)
    x, y = torch.tensor([[10.0]]), torch.tensor([[100.0]])
    assert merge(x, y).item() == 2 * 10 * 100 + 3 * 10 + 5 * 100 + 7


def test_low_rank_tensor_fusion_is_mfb() -> None:
    rank, width = 4, 6
    merge = MFB(13, 11, out_dim=17, hidden_dim=width, factor=rank, normalize=False).double()
    x, y = torch.randn(5, 13).double(), torch.randn(5, 11).double()
    # Liu et al., equation 6: (sum over ranks of) the product of W_r [x; 1] and V_r [y; 1].
    w, v = merge.block.x_projections[0], merge.block.y_projections[0]
    wanted = torch.zeros(5, width, dtype=torch.float64)
    for r in range(rank):
        x_factor = torch.cat((w.weight[r::rank], w.bias[r::rank, None]), 1)
        y_factor = torch.cat((v.weight[r::rank], v.bias[r::rank, None]), 1)
        wanted += (with_one(x) @ x_factor.T) * (with_one(y) @ y_factor.T)
    torch.testing.assert_close(merge(x, y), merge.out_projection(wanted), rtol=0, atol=1e-12)


def test_late_fusion_averages_decisions() -> None:
    merge, head = LateFusion(13, 11, 17), torch.nn.Linear(17, 5)
    x, y = torch.randn(5, 13), torch.randn(5, 11)
    by_image, by_question = head(merge.x_expert(x)), head(merge.y_expert(y))
    torch.testing.assert_close(head(merge(x, y)), (by_image + by_question) / 2)
    # What a question adds does not depend on the image.
    added = merge(x[:1], y) - merge(x[1:2], y)
    torch.testing.assert_close(added, added[:1].expand_as(added), rtol=0, atol=1e-6)


def test_errors_and_parameters() -> None:
    merge = TensorFusion(13, 11, 17, 7, hidden_dims=(19,))
    expected = (13 + 11 + 2) * 7 + 8 * 8 * 19 + 20 * 17
    assert sum(p.numel() for p in merge.parameters()) == expected
    with pytest.raises(ValueError, match=r"hidden_dim: got 0; expected a positive integer"):
        TensorFusion(13, 11, hidden_dim=0)


@pytest.mark.parametrize("dims", [(0,), (8, 0)])
def test_a_layer_without_width_is_named(dims: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"hidden_dims\[{len(dims) - 1}\]: got 0"):
        TensorFusion(8, 6, hidden_dims=dims)
