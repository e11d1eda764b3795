"""Comparisons with heads that take choices: their models are built, sized and timed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from vlm.cli.comparison_base import builder_of
from vlm.studies.comparison.cost import Bench
from vlm.studies.comparison.plan import read_plan

MERGE = {"class_path": "vlm.fusion.Product", "init_args": {"out_dim": 19}}
FUSIONS = {
    "product": {"class_path": "vlm.fusion.Pooled", "init_args": {"merge": MERGE}},
    "cross": {"class_path": "vlm.fusion.CrossAttention", "init_args": {"out_dim": 12}},
}


@pytest.mark.parametrize("name", ["easy_vqa_multiple_choice", "easy_vqa_multi_task"])
def test_fusions_are_compared_under_any_head(name: str, data: Path, tmp_path: Path) -> None:
    plan = {
        "base": str(ROOT / f"configs/{name}.yaml"),
        "fusions": FUSIONS,
        "overrides": {"dataset.root": str(data), "data.images_per_batch": 3},
        "controls": [],
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    builder = builder_of(read_plan(tmp_path / "plan.yaml"))
    bench = Bench(builder)
    assert bench.batch.choices is not None
    widths = []
    for variant in builder.variants():
        model = builder.model_of(variant.fusion)
        assert type(model.head) is type(builder.model.head)
        assert sum(p.numel() for p in model.parameters()) == variant.parameters
        widths.append(model.head.in_dim)
        assert bench.counts(model)["flops"] > 0
    assert widths == [19, 12]
