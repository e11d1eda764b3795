"""The merges against their papers' formulas, written naively; their sizes and errors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from vlm.fusion import (
    MCB,
    MFB,
    MFH,
    MLB,
    Block,
    BlockTucker,
    Merge,
    Mutan,
    Sum,
    Tucker,
)
from vlm.fusion.merges.block import chunk_sizes
from vlm.fusion.merges.elementwise import broadcast_product, power_normalize, sum_of_products

X, Y, OUT, HIDDEN = 13, 11, 7, 17


@pytest.fixture(autouse=True)
def _double() -> object:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def plain_normalize(z: Tensor) -> Tensor:
    root = z.sign() * z.abs().sqrt()
    return root / root.norm(dim=-1, keepdim=True)


def test_power_normalization() -> None:
    z = torch.randn(5, 3, 7)
    assert_close(power_normalize(z), plain_normalize(z))
    assert_close(
        power_normalize(torch.tensor([4.0, -9.0, 0.0])), torch.tensor([2, -3, 0]) / 13**0.5
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_power_normalization_is_smooth_at_zero(dtype: torch.dtype) -> None:
    z = torch.tensor([[0.0, 2.0], [0.0, 0.0]], dtype=dtype, requires_grad=True)
    normalized = power_normalize(z)
    assert normalized.tolist() == [[0, pytest.approx(1, abs=1e-2)], [0, 0]]
    normalized.sum().backward()
    assert z.grad.isfinite().all()
    assert not z.grad[1].any()
    # The plain formula fails here: the square root has an infinite slope at zero.
    again = z.detach().clone().requires_grad_()
    plain_normalize(again).sum().backward()
    assert again.grad.isnan().any()


def test_rectified_factors_get_finite_gradients() -> None:
    """The reference's gradients are NaN here, so block_mlb__relu_norm stores none."""
    merge = MLB(X, Y, OUT, HIDDEN, "relu", normalize=True)
    x, y = torch.randn(5, X, requires_grad=True), torch.randn(5, Y, requires_grad=True)
    assert (merge.x_projection(x) < 0).any()
    merge(x, y).sum().backward()
    assert x.grad.isfinite().all()
    assert y.grad.isfinite().all()


@pytest.mark.parametrize(
    ("x_shape", "y_shape"),
    [((5, 3, 2), (5, 3, 2)), ((5, 1, 3, 2), (1, 4, 3, 2)), ((5, 4, 3, 2), (5, 1, 3, 2))],
)
def test_sum_of_products(x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> None:
    x, y = torch.randn(x_shape), torch.randn(y_shape)
    assert_close(sum_of_products(x, y), (x * y).sum(-2))


def test_tucker_is_the_full_bilinear_map() -> None:
    merge = Tucker(X, Y, OUT, HIDDEN, normalize=True)
    x, y = torch.randn(3, X), torch.randn(3, Y)
    core = merge.core.weight[0].view(HIDDEN, HIDDEN, HIDDEN)  # (j, i, k)
    z = torch.einsum("bi,jik,bj->bk", merge.x_projection(x), core, merge.y_projection(y))
    z = plain_normalize(z + merge.core.bias[0])
    assert_close(merge.eval()(x, y), merge.out_projection(z))


def low_rank(core: nn.Module, chunk: int, rank: int, x: Tensor, y: Tensor) -> Tensor:
    """sum_r (M_r x + m_r) * (N_r y + n_r), one rank at a time."""
    size, total = x.shape[-1], torch.zeros(())
    for r in range(rank):
        part = slice(r * size, (r + 1) * size)
        left = x @ core.x_map.weight[chunk, :, part] + core.x_map.bias[chunk, part]
        total = total + left * (
            y @ core.y_map.weight[chunk, :, part] + core.y_map.bias[chunk, part]
        )
    return total


@pytest.mark.parametrize("shared", [False, True])
def test_mutan_sums_products_over_ranks(shared: bool) -> None:
    merge = Mutan(X, X if shared else Y, OUT, HIDDEN, rank=3, shared=shared)
    x, y = torch.randn(3, X), torch.randn(3, X if shared else Y)
    z = low_rank(merge.core, 0, 3, merge.x_projection(x), merge.y_projection(y))
    assert_close(merge(x, y), merge.out_projection(z))


@pytest.mark.parametrize("normalize", ["before_cat", "after_cat"])
@pytest.mark.parametrize("chunks", [1, 4, 7, 17])
def test_block_is_mutan_in_chunks(chunks: int, normalize: str) -> None:
    merge = Block(X, Y, OUT, HIDDEN, chunks, rank=3, normalize=normalize)
    x, y = torch.randn(3, X), torch.randn(3, Y)
    sizes = chunk_sizes(HIDDEN, chunks)
    xs = merge.x_projection(x).split(sizes, -1)
    ys = merge.y_projection(y).split(sizes, -1)
    places = [(g, i) for g in merge.core.groups for i in range(len(g.x_map.weight))]
    z = [low_rank(g, i, 3, a, b) for (g, i), a, b in zip(places, xs, ys, strict=True)]
    if normalize == "before_cat":
        whole = torch.cat([plain_normalize(part) for part in z], -1)
    else:
        whole = plain_normalize(torch.cat(z, -1))
    assert_close(merge(x, y), merge.out_projection(whole))


def test_chunk_sizes() -> None:
    assert chunk_sizes(1600, 18) == [89] * 17 + [87]
    assert chunk_sizes(17, 4) == [5, 5, 5, 2]
    assert chunk_sizes(17, 7) == [3, 3, 3, 2, 2, 2, 2]
    # The authors' rule leaves the last chunk empty here; ours are as even as possible.
    assert chunk_sizes(16, 5) == [4, 3, 3, 3, 3]
    for dim in range(1, 40):
        for chunks in range(1, dim + 1):
            sizes = chunk_sizes(dim, chunks)
            assert (len(sizes), sum(sizes)) == (chunks, dim)
            assert min(sizes) > 0
            assert len(set(sizes)) <= 2


def test_mcb_is_the_sketch_of_the_outer_product() -> None:
    merge = MCB(X, Y, OUT, sketch_dim=23, normalize=False)
    x, y = torch.randn(X), torch.randn(Y)
    sketch = torch.zeros(23)
    for i in range(X):
        for j in range(Y):
            bucket = (merge.x_bucket[i] + merge.y_bucket[j]) % 23
            sketch[bucket] += merge.x_sign[i] * merge.y_sign[j] * x[i] * y[j]
    assert_close(merge(x, y), merge.out_projection(sketch))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Tucker(X, Y, OUT, HIDDEN),
        lambda: Mutan(X, Y, OUT, 3, rank=5),
        lambda: Mutan(X, Y, OUT, HIDDEN, rank=1),
        lambda: Block(X, Y, OUT, HIDDEN, 4, 3),
        lambda: BlockTucker(X, Y, OUT, HIDDEN, 4),
    ],
)
def test_one_question_for_many_patches_is_only_a_shorter_way(make: Callable[[], Merge]) -> None:
    merge = make()
    patches, question = torch.randn(3, 5, X), torch.randn(3, 1, Y)
    short = merge(patches, question)
    assert_close(short, merge(patches, question.expand(-1, 5, -1).contiguous()))
    assert_close(merge(patches[:, None], question[:, None]), short[:, None])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Tucker(X, Y, OUT, 8),
        lambda: Mutan(X, Y, OUT, 8),
        lambda: Block(X, Y, OUT, 8, chunks=4),
        lambda: BlockTucker(X, Y, OUT, 8, chunks=4),
        lambda: MCB(X, Y, OUT, 23),
    ],
)
@pytest.mark.parametrize(
    ("x_lead", "y_lead"),
    [((4, 3), (3,)), ((3,), (4, 3)), ((), ()), ((4, 3), ()), ((), (2,)), ((2, 4, 3), (4, 1))],
)
def test_any_leading_dimensions(
    make: Callable[[], Merge], x_lead: tuple[int, ...], y_lead: tuple[int, ...]
) -> None:
    """Chunks come first internally: with as many chunks as rows, a wrong pairing went unnoticed."""
    merge = make()
    x, y = torch.randn(*x_lead, X), torch.randn(*y_lead, Y)
    lead = torch.broadcast_shapes(x_lead, y_lead)
    pairs = merge(x.expand(*lead, X).reshape(-1, X), y.expand(*lead, Y).reshape(-1, Y))
    assert_close(merge(x, y), pairs.reshape(*lead, OUT))


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "make",
    [
        lambda: Sum(X, Y, OUT, HIDDEN, normalize=True),
        lambda: MLB(X, Y, OUT, HIDDEN, "relu", normalize=True),
        lambda: MFB(X, Y, OUT, HIDDEN),
        lambda: Block(X, Y, OUT, HIDDEN, 4, 3),
        lambda: MCB(X, Y, OUT, 23),
    ],
)
def test_half_precision_is_finite(make: Callable[[], Merge], precision: torch.dtype) -> None:
    merge = make().float()
    x = torch.randn(64, X, dtype=torch.float32, requires_grad=True)
    y = torch.randn(64, Y, dtype=torch.float32, requires_grad=True)
    with torch.autocast("cpu", precision):
        output = merge(x, y)
    output.float().sum().backward()
    for value in (output, x.grad, y.grad, *(p.grad for p in merge.parameters())):
        assert value.isfinite().all()
    assert merge.bfloat16()(x.bfloat16(), y.bfloat16()).isfinite().all()


def chunk_terms(chunks: int, power: int) -> int:
    return sum(size**power + size for size in chunk_sizes(HIDDEN, chunks))


@pytest.mark.parametrize(
    ("merge", "formula"),
    [
        (Sum(X, Y, OUT, HIDDEN), (X + Y + 2) * HIDDEN + (HIDDEN + 1) * OUT),
        (MLB(X, Y, OUT, HIDDEN), (X + Y + 2) * HIDDEN + (HIDDEN + 1) * OUT),
        (MFB(X, Y, OUT, HIDDEN, 3), (X + Y + 2) * HIDDEN * 3 + (HIDDEN + 1) * OUT),
        (MFH(X, Y, OUT, HIDDEN, 3, 2), 2 * (X + Y + 2) * HIDDEN * 3 + (2 * HIDDEN + 1) * OUT),
        (MCB(X, Y, OUT, 23), 24 * OUT),
        (
            Tucker(X, Y, OUT, HIDDEN),
            (X + Y + 2) * HIDDEN + HIDDEN**3 + HIDDEN + (HIDDEN + 1) * OUT,
        ),
        (
            Mutan(X, Y, OUT, HIDDEN, 3),
            (X + Y + 2) * HIDDEN + 2 * 3 * HIDDEN * (HIDDEN + 1) + (HIDDEN + 1) * OUT,
        ),
        (
            Mutan(X, X, OUT, HIDDEN, 3, shared=True),
            (X + 1) * HIDDEN + 3 * HIDDEN * (HIDDEN + 1) + (HIDDEN + 1) * OUT,
        ),
        (
            BlockTucker(X, Y, OUT, HIDDEN, 4),
            (X + Y + 2) * HIDDEN + chunk_terms(4, 3) + (HIDDEN + 1) * OUT,
        ),
        (
            Block(X, Y, OUT, HIDDEN, 4, 3),
            (X + Y + 2) * HIDDEN + 2 * 3 * chunk_terms(4, 2) + (HIDDEN + 1) * OUT,
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_number_of_parameters(merge: Merge, formula: int) -> None:
    assert sum(p.numel() for p in merge.parameters()) == formula


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Block(X, Y, OUT, 5, chunks=6), "chunks: got 6 for hidden_dim=5; expected at most"),
        (lambda: Block(X, Y, OUT, 5, 2, rank=0), "rank: got 0; expected a positive integer"),
        (
            lambda: Block(X, Y, OUT, 5, 2, normalize=True),
            "normalize: got True; expected one of before_cat",
        ),
        (lambda: Mutan(X, Y, shared=True), "shared: got True with x_dim=13 and y_dim=11"),
        (lambda: MFB(X, Y, factor=0), "factor: got 0"),
        (lambda: MFH(X, Y, order=0), "order: got 0"),
        (
            lambda: MLB(X, Y, input_activation="swish"),
            "input_activation: got 'swish'; expected one",
        ),
        (lambda: MCB(X, Y, sketch_dim=-1), "sketch_dim: got -1"),
    ],
)
def test_errors_name_the_argument(make: Callable[[], Merge], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("x_shape", "y_shape"),
    [
        ((2, 19, 5), (2, 1, 5)),  # patches and one question
        ((2, 1, 5), (2, 19, 5)),
        ((2, 19, 1, 5), (1, 1, 23, 5)),  # all pairs
        ((3, 5), (3, 5)),
        ((5,), (2, 19, 5)),
        ((2, 0, 5), (2, 1, 5)),
    ],
)
def test_broadcast_product_is_the_product_with_its_gradients(
    x_shape: tuple[int, ...], y_shape: tuple[int, ...]
) -> None:
    x, y = (torch.randn(shape, requires_grad=True) for shape in (x_shape, y_shape))
    ours, plain = broadcast_product(x, y), x * y
    assert_close(ours, plain)
    weights = torch.randn_like(plain)
    assert_close(
        torch.autograd.grad(ours, (x, y), weights), torch.autograd.grad(plain, (x, y), weights)
    )
