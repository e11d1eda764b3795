"""Parts record their arguments and can be rebuilt from plain data."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vlm.core.part import Configured, Part, build
from vlm.fusion import ConcatMLP, CrossAttention, GlimpseAttention, Pooled, Product, Sum
from vlm.heads import Generation, MultiTask
from vlm.image import ConvNet
from vlm.text import BagOfWords, WordTokenizer

PARTS = [
    lambda: Product(13, 11, 17),
    lambda: ConcatMLP(13, y_dim=11, hidden_dims=(19, 23), activation="gelu"),
    lambda: CrossAttention(13, 11, 14, num_heads=2, dropout=0.3),
    lambda: Pooled(13, 11),
    lambda: Pooled(13, 11, partial(ConcatMLP, out_dim=17, hidden_dims=(19,))),
    lambda: ConvNet(24, widths=(5, 7, 11)),
    lambda: BagOfWords(["what", "colour"], dim=13),
    lambda: BagOfWords((), tokenizer=WordTokenizer(["what"], max_length=5)),
]


@pytest.mark.parametrize("make", PARTS)
def test_round_trip(make: Any) -> None:
    part = make()
    config = json.loads(json.dumps(part.config))
    again = build(config)
    assert type(again) is type(part)
    assert again.config == part.config
    again.load_state_dict(part.state_dict())
    torch.testing.assert_close(again.state_dict(), part.state_dict(), rtol=0, atol=0)


def test_config_is_plain_and_has_every_argument() -> None:
    assert Pooled(13, 11, partial(Product, out_dim=17)).config == {
        "class_path": "vlm.fusion.Pooled",
        "init_args": {
            "image_dim": 13,
            "text_dim": 11,
            "merge": {
                "class_path": "vlm.fusion.Product",
                "init_args": {"out_dim": 17},
                "factory": True,
            },
        },
    }
    assert Product(13, 11).config["init_args"] == {
        "x_dim": 13,
        "y_dim": 11,
        "out_dim": 256,
        "activation": "identity",
        "dropout": 0.0,
    }


def test_a_list_changed_afterwards_does_not_change_the_config() -> None:
    hidden = [19, 23]
    merge = ConcatMLP(13, 11, hidden_dims=hidden)
    hidden.append(29)
    assert merge.config["init_args"]["hidden_dims"] == [19, 23]


def test_a_class_as_a_factory() -> None:
    config = Pooled(13, 11, Product).config
    assert config["init_args"]["merge"] == {"class_path": "vlm.fusion.Product", "factory": True}
    assert build(config).merge.out_dim == 256


def test_a_factory_as_the_command_line_makes_it() -> None:
    def helper(cls: type, *args: Any, **kwargs: Any) -> Any:
        return cls(*args, **kwargs)

    made = Pooled(13, 11, partial(helper, Product, out_dim=17))
    assert build(made.config).merge.config == made.merge.config


def test_parts_inside_parts() -> None:
    tokenizer = WordTokenizer(["what", "colour"], max_length=5)
    again = build(BagOfWords((), tokenizer=tokenizer).config)
    assert (again.tokenizer.words, again.tokenizer.max_length) == (["what", "colour"], 5)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))])
@pytest.mark.parametrize("make", PARTS)
def test_copies_keep_arguments(make: Any, copied: Any) -> None:
    part = make()
    again = copied(part)
    assert again is not part
    assert again.config == part.config
    torch.testing.assert_close(again.state_dict(), part.state_dict(), rtol=0, atol=0)


def test_help_shows_the_constructor() -> None:
    assert list(inspect.signature(Product).parameters) == [
        "x_dim",
        "y_dim",
        "out_dim",
        "activation",
        "dropout",
    ]


def test_wrong_arguments_are_a_type_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'width'"):
        Product(13, 11, width=17)
    with pytest.raises(TypeError, match="y_dim"):
        Product(13)


FOREIGN = """
raise SystemExit("this code must not run")
"""


def test_foreign_classes_need_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "foreign_part.py").write_text(FOREIGN)
    monkeypatch.syspath_prepend(tmp_path)
    inside = Pooled(13, 11).config
    inside["init_args"]["merge"] = {"class_path": "foreign_part.Merge", "factory": True}
    for config in ({"class_path": "foreign_part.Merge"}, inside):
        with pytest.raises(
            ValueError, match=r"foreign_part.Merge is not a class of vlm.*trust=True"
        ):
            build(config)
        assert "foreign_part" not in sys.modules


@pytest.mark.parametrize(
    "path", ["vlmevil.Part", "Product", "", "os.system", ".vlm.X", "vlm_x.y.Z"]
)
def test_what_only_looks_like_vlm_needs_trust(path: str) -> None:
    with pytest.raises(ValueError, match="is not a class of vlm"):
        build({"class_path": path})


class Mine(Part):
    def __init__(self, dim: int = 5) -> None:
        super().__init__()
        self.layer = nn.Linear(dim, dim)


def test_trusted_foreign_class() -> None:
    made = build(Mine(7).config, trust=True)
    assert type(made) is Mine
    assert made.layer.in_features == 7


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("vlm.fusion.Prodct", r"not a part of vlm. Did you mean vlm.fusion.Product\?"),
        ("vlm.fusion.CrossAtention", r"Did you mean vlm.fusion.CrossAttention\?"),
        ("vlm.fusion.record_attention", "not a part of vlm"),
        ("vlm.core.features.Features", "is not a class of vlm's parts"),
        ("vlm.core.part.importlib", "is not a class of vlm's parts"),
        ("vlm.fusion.base.torch", "not a part of vlm"),
        ("vlm.fusion.zzz", r"not a part of vlm\.$"),
        ("vlm.fusion.nowhere.Product", "is not a class of vlm's parts"),
        ("vlm.fusion...base.Product", "is not a class of vlm's parts"),
    ],
)
def test_unknown_classes(path: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build({"class_path": path})


def test_trust_still_wants_a_part() -> None:
    with pytest.raises(ValueError, match=r"os.system is not a part"):
        build({"class_path": "os.system", "init_args": {"command": "false"}}, trust=True)


def test_arguments_of_another_version() -> None:
    config = Product(13, 11).config
    config["init_args"]["rank"] = 5
    with pytest.raises(ValueError, match=r"stored arguments .*'rank'.* do not fit this version"):
        build(config)


def test_positional_factories_are_refused() -> None:
    fusion = Pooled(13, 11, lambda x, y: Product(x, y))
    with pytest.raises(ValueError, match="which a checkpoint cannot store"):
        fusion.config  # noqa: B018  asking for it is the test
    seven = Pooled(13, 11, partial(Product, activation="relu"))
    seven.arguments["merge"] = partial(Product, 13)
    with pytest.raises(ValueError, match="by name, not by position"):
        seven.config  # noqa: B018  asking for it is the test


def test_values_that_cannot_be_stored() -> None:
    class Holder(Configured):
        def __init__(self, value: Any) -> None:
            pass

    with pytest.raises(ValueError, match=r"A part was made with tensor.*cannot store"):
        Holder({"deep": [torch.ones(1)]}).config  # noqa: B018  asking for it is the test
    assert Holder({"a": (1, 2.5, None, "x", True)}).config["init_args"] == {
        "value": {"a": [1, 2.5, None, "x", True]}
    }


class Open(Configured):
    def __init__(self, *sizes: int, **options: int) -> None:
        self.options = options


def test_open_arguments_are_kept_by_name() -> None:
    assert Open(a=1, b=2).config["init_args"] == {"a": 1, "b": 2}
    with pytest.raises(ValueError, match=r"\*sizes: got \(1, 2\); a part can only be rebuilt from"):
        Open(1, 2)


MADE = {
    "merge": lambda merge: Pooled(64, 32, merge=merge),
    "score": lambda merge: GlimpseAttention(64, 32, score=merge),
    "decoder": lambda decoder: Generation(64, decoder),
    "heads": lambda head: MultiTask(64, {"one": head}),
}


@pytest.mark.parametrize("argument", MADE)
def test_a_part_where_its_factory_is_expected(argument: str) -> None:
    expected = "expected a class, or functools.partial of one"
    with pytest.raises(TypeError, match=f"{argument}: got Sum, already built; {expected}"):
        MADE[argument](Sum(64, 32))
    with pytest.raises(TypeError, match=f"{argument}: got 'Sum'; {expected}"):
        MADE[argument]("Sum")
