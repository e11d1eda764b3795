"""FLOPs and memory match values worked out by hand; variants are timed in turn."""

from __future__ import annotations

import io
import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT
from rich.console import Console
from torch import nn
from torch.nn import functional as F

from vlm.cli.comparison_base import builder_of
from vlm.studies.comparison.build import Builder
from vlm.studies.comparison.cost import (
    Bench,
    Cost,
    Step,
    count_flops,
    measure,
    peak_memory,
    read_costs,
)
from vlm.studies.comparison.plan import PlanError, read_plan

FUSIONS = {
    "product": {
        "class_path": "vlm.fusion.Pooled",
        "init_args": {
            "merge": {"class_path": "vlm.fusion.Product", "init_args": {"out_dim": 19}},
        },
    },
    "cross": {"class_path": "vlm.fusion.CrossAttention", "init_args": {"out_dim": 12}},
}


def build(data: Path, tmp_path: Path, **overrides: Any) -> Builder:
    plan = {
        "base": str(ROOT / "configs/easy_vqa.yaml"),
        "fusions": FUSIONS,
        "overrides": {"dataset.root": str(data), "data.images_per_batch": 3, **overrides},
        "controls": [],
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    return builder_of(read_plan(tmp_path / "plan.yaml"))


@pytest.fixture
def builder(data: Path, tmp_path: Path) -> Builder:
    return build(data, tmp_path)


def test_costs_by_hand_and_from_the_file(builder: Builder, tmp_path: Path) -> None:
    variants, path = builder.variants(), tmp_path / "costs.json"
    console = Console(file=io.StringIO())
    costs = measure(builder, variants, path, console)
    assert list(costs) == ["product", "cross"]
    product = costs["product"]
    assert (product.questions, product.images) == (9, 3)
    # Two projections to 19, of 3 images and of 9 questions: backward costs twice forward, and a
    # multiply-add counts as two.
    inputs = 3 * builder.model.image_encoder.dim + 9 * builder.model.text_encoder.dim
    assert product.fusion_flops == 19 * inputs * 2 * 3
    for cost in costs.values():
        assert 0 < cost.ms_low <= cost.ms <= cost.ms_high
        assert cost.flops > cost.fusion_flops
        assert cost.memory is not None
    # At least the weights, gradients and AdamW's two moments.
    parameters = {variant.name: variant.parameters for variant in variants}
    assert (product.memory or 0) > 4 * 4 * parameters["product"]

    known = json.loads(path.read_text())
    known["costs"]["product"]["ms"] = 12345.0
    path.write_text(json.dumps(known))
    assert measure(builder, variants, path, console)["product"].ms == 12345.0
    assert read_costs(path, variants)["product"].ms == 12345.0
    with pytest.raises(PlanError, match="has costs of other settings, since the plan was changed"):
        read_costs(path, variants[:1])
    [one, *_] = variants
    again = measure(builder, [one], path, console)
    assert list(again) == ["product"]
    assert again["product"].ms != 12345.0


def test_no_gradient_goes_into_what_is_frozen(data: Path, tmp_path: Path) -> None:
    builder = build(
        data,
        tmp_path,
        **{"model.tuning.image_encoder.frozen": True, "model.image_encoder.positions": "none"},
    )
    [product, _] = builder.variants()
    cost = measure(builder, [product], tmp_path / "costs.json", Console(file=io.StringIO()))
    # Half of the backward pass is for the weights and half for the inputs.
    inputs = 3 * 2 * builder.model.image_encoder.dim + 9 * 3 * builder.model.text_encoder.dim
    assert cost["product"].fusion_flops == 19 * inputs * 2


def test_a_step_that_fails_is_left_out(
    builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = Bench.counts

    def failing(bench: Bench, model: Any) -> dict[str, Any]:
        if type(model.fusion).__name__ == "CrossAttention":
            raise RuntimeError("shapes that do not fit")
        return counts(bench, model)

    monkeypatch.setattr(Bench, "counts", failing)
    console = Console(file=io.StringIO(), width=200)
    costs = measure(builder, builder.variants(), tmp_path / "costs.json", console)
    assert list(costs) == ["product"]
    assert isinstance(costs["product"], Cost)
    assert isinstance(console.file, io.StringIO)
    assert "cross: cost not measured: shapes that do not fit" in console.file.getvalue()
    monkeypatch.setattr(Bench, "counts", counts)  # the cause is gone, and it is measured
    costs = measure(builder, builder.variants(), tmp_path / "costs.json", console)
    assert list(costs) == ["product", "cross"]


def test_attention_is_counted_on_cpu_too() -> None:
    query = torch.randn(2, 3, 5, 7, requires_grad=True)
    with count_flops() as counter:
        F.scaled_dot_product_attention(query, query, query).sum().backward()
    assert counter.get_total_flops() == 2 * 3 * (2 * 5 * 5 * 7) * 2 * 3


def test_memory_by_hand() -> None:
    """A 400 x 300 layer on 500 rows: its output, and gradients for output and weights."""
    layer = nn.Linear(300, 400, bias=False)
    x = torch.randn(500, 300)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = layer, SimpleNamespace(loss=lambda y, _: y.square().sum())

        def forward(self, batch: Any) -> torch.Tensor:
            return self.layer(x)

    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    step = Step(Model(), None, optimizer, nullcontext)
    step()
    optimizer.zero_grad()
    found = peak_memory(step, torch.device("cpu"))
    weights, rows = 400 * 300 * 4, 500 * 400 * 4
    assert found is not None
    assert 2 * weights + 2 * rows <= found <= 2 * weights + 4 * rows


SMALL = {"class_path": "vlm.image.ConvNet", "init_args": {"widths": [3, 5, 7, 9]}}
TWO = {"class_path": "vlm.image.SideBySide", "init_args": {"encoders": [SMALL, SMALL]}}


@pytest.mark.parametrize(
    ("tuning", "cached"),
    [
        ({"model.tuning.image_encoder.frozen": True}, ""),
        (
            {"model.image_encoder": TWO, "model.tuning.encoders": [{"frozen": True}, {}]},
            "views.0",
        ),
    ],
)
def test_of_an_encoder_whose_features_are_cached_nothing_is_counted(
    tuning: dict[str, Any], cached: str, data: Path, tmp_path: Path
) -> None:
    flops = {}
    for name, more in {
        "plain": {},
        "cached": {"data.images.features": str(tmp_path / "features")},
    }.items():
        builder = build(data, tmp_path, **{"data.images.in_memory": False}, **tuning, **more)
        variant = builder.variants()[0]
        flops[name] = Bench(builder).counts(builder.model_of(variant.fusion))["flops"]
    encoder = builder.model.image_encoder.get_submodule(cached)
    with count_flops() as frozen, torch.no_grad():
        encoder.look(torch.zeros(3, 3, 64, 64))  # positions enter later
    # A frozen layer only runs forward.
    assert flops["plain"] - flops["cached"] == frozen.get_total_flops() > 0
