"""`MuRel` against loops over regions; its map, boxes, parameters and errors."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from vlm.core.features import Features
from vlm.fusion import MLB, Merge, MuRel, Product, record_attention

ROWS, REGIONS, IMAGE_DIM, TEXT_DIM, DIM = 3, 5, 13, 11, 7
COUNTS = (5, 2, 0)
SMALL = partial(MLB, hidden_dim=17)


@pytest.fixture
def image() -> Features:
    torch.manual_seed(1)
    mask = torch.arange(REGIONS) < torch.tensor(COUNTS)[:, None]
    tokens = torch.randn(ROWS, REGIONS, IMAGE_DIM, dtype=torch.float64)
    boxes = torch.rand(ROWS, REGIONS, 4, dtype=torch.float64)
    return Features(tokens, mask, tokens[:, 0], boxes)


@pytest.fixture
def question() -> Tensor:
    torch.manual_seed(2)
    return torch.randn(ROWS, TEXT_DIM, dtype=torch.float64)


def small(image_dim: int = IMAGE_DIM, steps: int = 2, aggregation: str = "max") -> MuRel:
    torch.manual_seed(0)
    fusion = MuRel(image_dim, TEXT_DIM, DIM, steps, SMALL, SMALL, aggregation)
    return fusion.double()


@pytest.mark.parametrize("aggregation", ["max", "mean"])
def test_loops_over_regions(image: Features, question: Tensor, aggregation: str) -> None:
    """The paper's equations, one region and one pair at a time."""
    fusion = small(aggregation=aggregation)
    cell, pairwise = fusion.cell, fusion.cell.pairwise
    fused = fusion(image, question)
    assert fused.mask.equal(image.mask)
    for row, count in enumerate(COUNTS):
        m = [fusion.projection(image.tokens[row, i]) for i in range(count)]
        b, q = image.boxes[row], question[row]
        for _ in range(2):
            s = [cell.merge(m_i, q) for m_i in m]
            next_m = []
            for i in range(count):
                pairs = torch.stack(
                    [
                        pairwise.boxes_merge(b[j], b[i]) + pairwise.regions_merge(s[j], s[i])
                        for j in range(count)
                    ]
                )
                e_i = pairs.amax(0) if aggregation == "max" else pairs.mean(0)
                next_m.append(m[i] + s[i] + e_i)
            m = next_m
        scene = torch.stack(m).amax(0) if m else torch.zeros(DIM, dtype=torch.float64)
        torch.testing.assert_close(fused.pooled[row], fusion.merge(scene, q), rtol=0, atol=1e-12)
        for i in range(count):
            torch.testing.assert_close(fused.tokens[row, i], m[i], rtol=0, atol=1e-12)


def test_paper_width_needs_no_projection() -> None:
    assert isinstance(small(image_dim=DIM).projection, nn.Identity)
    assert isinstance(small().projection, nn.Linear)


def test_without_boxes_each_region_is_the_whole_image(image: Features, question: Tensor) -> None:
    fusion = small()
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64).expand(ROWS, REGIONS, 4)
    wanted = fusion(image._replace(boxes=whole), question)
    without = fusion(image._replace(boxes=None), question)
    torch.testing.assert_close(without.pooled, wanted.pooled)
    torch.testing.assert_close(without.tokens[image.mask], wanted.tokens[image.mask])
    assert (fusion(image, question).pooled - wanted.pooled)[:2].abs().max() > 1e-3


def test_compiles_without_boxes(question: Tensor) -> None:
    fusion, tokens = small(), torch.randn(ROWS, REGIONS, IMAGE_DIM, dtype=torch.float64)
    wanted = fusion(tokens, question)
    compiled = torch.compile(fusion, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens, question), wanted)
    torch.compiler.reset()
    batch = {0: torch.export.Dim.AUTO}
    program = torch.export.export(fusion, (tokens, question), dynamic_shapes=(batch, batch))
    torch.testing.assert_close(program.module()(tokens[:2], question[:2]).pooled, wanted.pooled[:2])


def test_junk_in_padded_boxes(image: Features, question: Tensor) -> None:
    fusion = small()
    junk = image.boxes.masked_fill(~image.mask[..., None], float("nan"))
    fused, wanted = fusion(image._replace(boxes=junk), question), fusion(image, question)
    torch.testing.assert_close(fused.pooled, wanted.pooled)
    fused.pooled.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in fusion.parameters())


def test_map_is_the_share_of_features_won(question: Tensor) -> None:
    fusion = small(image_dim=DIM)
    fusion.cell = Keep()
    tokens = torch.zeros(ROWS, 3, DIM, dtype=torch.float64)
    tokens[0, 0, :5] = 1
    tokens[0, 1, 5:] = 2
    tokens[0, 2] = 9  # padding
    tokens[1, :, 1:] = -1
    tokens[1, 2] = 3
    mask = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
    with record_attention(fusion) as maps:
        fusion(Features(tokens, mask, tokens[:, 0]), question)
    (weights,) = maps["pool"]
    wanted = torch.tensor([[5 / 7, 2 / 7, 0], [0, 0, 1], [0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(weights, wanted[:, None])


def test_equal_regions_share(question: Tensor) -> None:
    fusion = small(image_dim=DIM)
    fusion.cell = Keep()  # matrix products round equal rows differently on some machines
    tokens = torch.ones(ROWS, 4, DIM, dtype=torch.float64)
    with record_attention(fusion) as maps:
        fusion(tokens, question)
    torch.testing.assert_close(maps["pool"][0], torch.full((ROWS, 1, 4), 0.25).double())


class Keep(nn.Module):
    """A cell that leaves the regions unchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.pairwise = self

    def positions(self, boxes: Tensor) -> Tensor:
        return boxes

    def forward(self, regions: Tensor, *others: Tensor) -> Tensor:
        return regions


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def merge_count(x: int, y: int, d: int, h: int = 17) -> int:
    return (x + y + 2) * h + (h + 1) * d


@pytest.mark.parametrize("steps", [1, 3])
def test_number_of_parameters(steps: int) -> None:
    x, y, d = IMAGE_DIM, TEXT_DIM, DIM
    merges = 2 * merge_count(d, y, d) + merge_count(d, d, d) + merge_count(4, 4, d)
    assert count(small(steps=steps)) == (x + 1) * d + merges
    assert count(small(image_dim=d, steps=steps)) == merges


def test_merges_get_the_width() -> None:
    fusion = MuRel(13, 11, out_dim=7, merge=partial(Product, out_dim=3), pairwise_merge=Product)
    merges = [module.out_dim for module in fusion.modules() if isinstance(module, Merge)]
    assert merges == [7, 7, 7, 7]


def test_the_last_merge_may_be_another() -> None:
    fusion = MuRel(13, 11, 7, 1, Product, Product, last_merge=partial(MLB, hidden_dim=5))
    assert [type(fusion.cell.merge), type(fusion.merge)] == [Product, MLB]
    assert fusion.merge.out_dim == 7
    pairwise = fusion.cell.pairwise
    assert {type(pairwise.boxes_merge), type(pairwise.regions_merge)} == {Product}


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"steps: got 0; expected a positive integer"):
        small(steps=0)
    with pytest.raises(ValueError, match=r"aggregation: got 'sum'; expected one of max, mean"):
        small(aggregation="sum")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_boxes_come_in_float32_whatever_the_weights(dtype: torch.dtype) -> None:
    fusion = MuRel(7, 5, 6, 1, SMALL, SMALL).to(dtype)
    tokens, mask = torch.randn(2, 3, 7, dtype=dtype), torch.ones(2, 3, dtype=torch.bool)
    image = Features(tokens, mask, tokens[:, 0], torch.rand(2, 3, 4))
    assert fusion(image, torch.randn(2, 5, dtype=dtype)).pooled.dtype == dtype
