"""The plan of a comparison: its YAML file is read and checked without loading torch."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vlm.core.bundled import bundled_config
from vlm.core.validation import did_you_mean, nearest
from vlm.studies.comparison.search_space import Range, Search, read_range

CONTROLS = ("question_only", "image_only", "image_shuffled")
"""Of `vlm.data.ablations`, which loads torch."""
SET_HERE = (
    "model.fusion",
    "seed_everything",
    "ckpt_path",
    "dataset.seed",
    "data.seed",
    "data.control",
    "run.folder",
    "run.name",
    "run.resume",
    "run.test",
)
"""Settings that the comparison makes itself, so `overrides` must not."""
_OTHER_SET = " To draw another generated set, write its seed into the base."


class PlanError(ValueError):
    """An invalid plan. The message is one line: file, key, what was found and what was expected."""


@dataclass(frozen=True)
class Entry:
    """One fusion of the list.

    Attributes:
        spec: `class_path` and `init_args`, as in a training configuration.
        width: dotted names of `init_args`. Under a budget the first is solved for and the others
            stay in proportion to it.
        search: ranges of `init_args` that are tuned, beside those of the plan.
    """

    spec: dict[str, Any]
    width: tuple[str, ...] = ()
    search: dict[str, Range] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A comparison, as its file describes it.

    Attributes:
        base: configuration of `vlm fit` that all runs share.
        fusions: fusions by name, in the order of the file.
        budget: trainable parameters of fusion and head together; None keeps each fusion's defaults.
        controls: controls to train, with the base's own fusion.
        overrides: settings for every run, named as on the command line of `vlm fit`.
        search: what is tuned for each fusion; None trains each as the plan has it.
        solved: accuracy on test from which a seed counts as having solved the data.
    """

    path: Path
    base: Path
    fusions: dict[str, Entry]
    seeds: tuple[int, ...] = (0, 1, 2)
    budget: int | None = None
    controls: tuple[str, ...] = CONTROLS
    overrides: dict[str, Any] = field(default_factory=dict)
    search: Search | None = None
    solved: float = 0.95

    @property
    def options(self) -> list[str]:
        """`overrides` as options of `vlm fit`."""
        return [f"--{name}={_text(value)}" for name, value in self.overrides.items()]


def read_plan(path: Path) -> Plan:
    """Read a plan; a `PlanError` if it is invalid."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _NoRepeats)
    except OSError as error:
        raise PlanError(
            f"{path}: {error.strerror}; expected the YAML file of a comparison."
        ) from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise PlanError(f"{path}: {' '.join(str(error).split())}") from None
    try:
        return _checked(path, content)
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from None


class _NoRepeats(yaml.SafeLoader):
    """Rejects duplicate keys: the first of two fusions would be dropped silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.YAMLError(
                    f"{key.value}: defined twice, again in line {key.start_mark.line + 1}; "
                    f"expected each name once."
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _checked(path: Path, content: Any) -> Plan:
    if not isinstance(content, dict):
        raise PlanError(f"got {str(content)[:60]!r}; expected `base:`, `fusions:` and so on.")
    _known_keys("", content, Plan.__dataclass_fields__.keys() - {"path"})
    for key in ("base", "fusions"):
        if not content.get(key):
            raise PlanError(f"{key}: missing or empty; expected {_EXPECTED[key]}.")
    base, fusions = content["base"], content["fusions"]
    base_path = _base(path, base)
    _expect(isinstance(fusions, dict), "fusions", fusions)
    budget = content.get("budget")
    _expect(budget is None or _whole(budget, 1), "budget", budget)
    seeds = content.get("seeds", Plan.seeds)
    _expect(_sequence(seeds) and seeds and all(_whole(seed, 0) for seed in seeds), "seeds", seeds)
    if len(set(seeds)) != len(seeds):
        raise PlanError(f"seeds: got {seeds}; expected each seed once.")
    controls = CONTROLS if content.get("controls") is None else content["controls"]
    _expect(_sequence(controls), "controls", controls)
    for control in controls:
        if control not in CONTROLS:
            raise PlanError(
                f"controls: got {control!r}; expected {_EXPECTED['controls']}."
                + did_you_mean(nearest(control, CONTROLS))
            )
    solved = content.get("solved", Plan.solved)
    number = isinstance(solved, (int, float)) and not isinstance(solved, bool)
    _expect(number and 0 < solved <= 1, "solved", solved)
    search = _search(content.get("search"))
    entries = {name: _entry(name, value, budget is not None) for name, value in fusions.items()}
    for name, entry in entries.items():
        if entry.search and search is None:
            raise PlanError(f"fusions.{name}.search: got ranges without `search:`; expected both.")
        if search is not None and not (entry.search or search.space):
            raise PlanError(f"fusions.{name}: nothing is tuned; expected {_EXPECTED['space']}.")
    return Plan(
        path=path,
        base=base_path,
        fusions=entries,
        seeds=tuple(seeds),
        budget=budget,
        controls=tuple(dict.fromkeys(controls)),
        overrides=_overrides(content.get("overrides")),
        search=search,
        solved=solved,
    )


_EXPECTED = {
    "base": "the path of a configuration of `vlm fit`, relative to the plan, or the name of one "
    "that comes with vlm",
    "fusions": "at least one `name: {class_path: ..., init_args: ...}`",
    "budget": "a whole number of parameters such as 100000, or null for each one's defaults",
    "seeds": "a list of whole numbers from 0 on, such as [0, 1, 2]",
    "controls": f"a list of {', '.join(CONTROLS)}; [] for none",
    "overrides": "settings as on the command line of `vlm fit`, such as {trainer.max_epochs: 5}",
    "search": "`trials:`, `space:` and perhaps `epochs:`",
    "trials": "a whole number of trainings for each fusion, 2 or more",
    "epochs": "a whole number of epochs for each trial",
    "seed": "a whole number from 0 on",
    "space": "settings with their values, such as {model.optimizer.init_args.lr: [0.001, 0.003]}",
    "solved": "an accuracy above 0 and at most 1, such as 0.95",
    "width": "the dotted name of the init_arg to solve for, or a list of several",
}


def _expect(valid: object, key: str, found: Any, what: str | None = None) -> None:
    if not valid:
        expected = _EXPECTED[what or key.rpartition(".")[2]]
        raise PlanError(f"{key}: got {found!r}; expected {expected}.")


def _base(path: Path, base: Any) -> Path:
    _expect(isinstance(base, str), "base", base)
    found = path.parent / base
    if not found.is_file() and (bundled := bundled_config(base)):
        return bundled
    _expect(found.is_file(), "base", base)
    return found


def _entry(name: Any, value: Any, sized: bool) -> Entry:
    key = f"fusions.{name}"
    # The name becomes a folder's name and must not clash with a control.
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]*", name) or name in CONTROLS:
        raise PlanError(f"{key}: expected a name of letters, digits and -_.+ that is no control's.")
    if isinstance(value, str):
        value = {"class_path": value}
    if not isinstance(value, dict):
        raise PlanError(
            f"{key}: got {value!r}; expected a class path, or class_path and init_args."
        )
    _known_keys(f"{key}.", value, ("class_path", "init_args", "width", "search"))
    class_path, init_args = value.get("class_path"), value.get("init_args") or {}
    if not isinstance(class_path, str):
        raise PlanError(
            f"{key}.class_path: got {class_path!r}; expected such as vlm.fusion.Pooled."
        )
    if not isinstance(init_args, dict):
        raise PlanError(f"{key}.init_args: got {init_args!r}; expected names and values.")
    width = value.get("width", ())
    width = (width,) if isinstance(width, str) else width
    named = _sequence(width) and all(isinstance(one, str) for one in width)
    _expect(named, f"{key}.width", width)
    if sized and not width:
        raise PlanError(f"{key}.width: missing; the budget needs {_EXPECTED['width']}.")
    searched = value.get("search") or {}
    _expect(isinstance(searched, dict), f"{key}.search", searched, "space")
    ranges = _ranges(f"{key}.search", searched)
    if sized and (both := [name for name in ranges if any(_within(one, name) for one in width)]):
        raise PlanError(f"{key}.search.{both[0]}: the budget solves for it; remove one of the two.")
    spec = {"class_path": class_path, "init_args": init_args}
    return Entry(spec, tuple(width), ranges)


def _within(name: str, other: str) -> bool:
    """Whether a dotted name, in which `init_args` may be left out, is another or lies in it."""
    name, other = name.replace(".init_args", ""), other.replace(".init_args", "")
    return name == other or name.startswith(f"{other}.")


def _search(content: Any) -> Search | None:
    if content is None:
        return None
    _expect(isinstance(content, dict), "search", content)
    _known_keys("search.", content, Search.__dataclass_fields__)
    trials, epochs = content.get("trials"), content.get("epochs")
    space, seed = content.get("space") or {}, content.get("seed", Search.seed)
    _expect(_whole(trials, 2), "search.trials", trials)
    _expect(epochs is None or _whole(epochs, 1), "search.epochs", epochs)
    _expect(_whole(seed, 0), "search.seed", seed)
    _expect(isinstance(space, dict), "search.space", space)
    check_free("search.space", map(str, space))
    if epochs is not None and "trainer.max_epochs" in space:
        raise PlanError("search.space.trainer.max_epochs: search.epochs sets it; remove one.")
    return Search(trials, _ranges("search.space", space), epochs, seed)


def _ranges(key: str, content: dict[str, Any]) -> dict[str, Range]:
    found = {}
    for name, value in content.items():
        _expect(isinstance(name, str), key, name, "space")
        made = read_range(value)
        if isinstance(made, str):
            raise PlanError(f"{key}.{name}: {made}.")
        found[name] = made
    return found


def _text(value: Any) -> str:
    """A setting as the command line takes it."""
    if isinstance(value, str):
        return value
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return text.removesuffix("\n...\n").strip()


def _overrides(content: Any) -> dict[str, Any]:
    _expect(content is None or isinstance(content, dict), "overrides", content)
    flat = dict(_flattened(content or {}))
    check_free("overrides", flat)
    return flat


def check_free(key: str, names: Iterable[str]) -> None:
    """Refuse settings that the comparison makes itself."""
    for name in names:
        for own in SET_HERE:
            if _within(name, own):
                more = "" if own != "dataset.seed" else _OTHER_SET
                raise PlanError(f"{key}.{name}: the comparison sets {own} itself; remove it.{more}")


def _flattened(content: Mapping[Any, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Flatten nested settings to dotted names; a class with its arguments stays one value."""
    for key, value in content.items():
        if isinstance(value, dict) and value and "class_path" not in value:
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _known_keys(prefix: str, found: Mapping[Any, Any], known: Collection[str]) -> None:
    for key in found:
        if key not in known:
            raise PlanError(
                f"{prefix}{key}: there is no such setting; expected one of "
                f"{', '.join(sorted(known))}." + did_you_mean(nearest(key, known))
            )


def _sequence(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
