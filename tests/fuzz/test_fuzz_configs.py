"""Faulty configurations are parsed, or refused in a few lines. Nothing is trained."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from conftest import ROOT
from fuzzing import fuzz, json_values, mutated, tried
from hypothesis import given
from hypothesis import strategies as st

from vlm.cli.data_only import DataOnly
from vlm.cli.error_messages import explain
from vlm.core.errors import ConfigError

# Lightning and torch may warn about odd values.
pytestmark = pytest.mark.filterwarnings("ignore")

SHIPPED = sorted([*ROOT.glob("configs/*.yaml"), *ROOT.glob("configs/datasets/*.yaml")])


@pytest.fixture(scope="module")
def parser(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The command line's parser, built once because it takes a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DataOnly, "instantiate_classes", lambda self: None)
        return DataOnly(
            ["fit", "-c", str(ROOT / "configs/own_data.yaml"), "--dataset.path=x"]
        ).parser


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    """A shipped file with a changed value, key or bytes."""
    content = draw(st.sampled_from(SHIPPED)).read_bytes()
    if draw(st.integers(0, 3)) == 0:
        return draw(mutated(content))
    config = yaml.safe_load(content)
    for _ in range(draw(st.integers(1, 3))):
        place = config
        while isinstance(place, dict) and place:
            key = draw(st.sampled_from(sorted(map(str, place))))
            inner = place.get(key)
            if isinstance(inner, dict) and inner and draw(st.integers(0, 4)):
                place = inner
                continue
            kind = draw(st.sampled_from(("value", "list", "typo", "gone", "more")))
            if kind == "value":
                place[key] = draw(json_values)
            elif kind == "list":
                place[key] = [inner, inner]
            elif kind == "typo":
                place[key[:-1] or "x"] = place.pop(key, None)
            elif kind == "gone":
                place.pop(key, None)
            else:
                place[draw(st.text("abcdefgh_.", min_size=1, max_size=9))] = draw(json_values)
            break
    return yaml.safe_dump(config, allow_unicode=True).encode("utf-8", "surrogatepass")


@fuzz
@given(content=changed())
def test_any_configuration_is_parsed_or_refused(
    parser: Any, tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    # Next to the shipped files, which refer to files in their own folder.
    path = tmp_path_factory.getbasetemp() / "changed.yaml"
    for folder in ("image", "text", "fusion", "head"):
        link = path.parent / folder
        if not link.exists():
            link.symlink_to(ROOT / "configs" / folder)
    path.write_bytes(content)
    _, error = tried(lambda: parser.parse_args(["fit", "-c", str(path)]), ConfigError)
    if error is not None:
        said = explain(error)
        assert said
        assert len(said.splitlines()) <= 5
