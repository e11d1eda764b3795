"""Refuse unknown options, keys and classes before anything heavy is imported.

The names are those of `vlm/cli/help/options.json`, which is made from the real parser. What they
cannot judge (types of values, arguments of classes, classes from outside vlm) goes on to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from vlm.core.errors import ConfigError
from vlm.core.validation import did_you_mean, nearest

INDEX = Path(__file__).parent / "help/options.json"
YAML = (".yaml", ".yml", ".json")
MOVED = (
    "The data set has a group of its own: `dataset: {class_path: vlm.datasets.EasyVQA, init_args: "
    "{root: ...}}` beside `data: {images_per_batch: 16, images: {in_memory: true}}`, and "
    "--dataset=EasyVQA --dataset.root=... on the command line."
)


def check_names(command: str, arguments: Sequence[str]) -> None:
    """Raise ConfigError for the first mistake that the names alone show.

    Args:
        command: fit, validate, test or predict.
        arguments: of the command, without its name.
    """
    options = Options(command)
    unknown = []
    for option, value in _pairs(arguments):
        if option in ("c", "config"):
            if value is not None:
                options.check_config(value)
        elif not options.knows(option):
            unknown.append(f"--{option}" if value is None else f"--{option}={value}")
        elif value is not None:
            options.check_value(option, value)
    if unknown:
        name = unknown[0].removeprefix("--").partition("=")[0]
        raise ConfigError(f"unrecognized arguments: {' '.join(unknown)}.{options.hint(name)}")


def refusal(error: ConfigError | str, arguments: Sequence[str]) -> str:
    """The line about a configuration that cannot be used, with the files that it was made from."""
    files = re.findall(r"(?:^| )(?:-c|--config)[ =](\S+)", " ".join(arguments))
    where = f" ({', '.join(files)})" if files else ""
    return f"vlm{where}: {error}"


class Options:
    """The options of a command.

    Args:
        command: fit, validate, test or predict.

    Attributes:
        names: each option and each group of options, such as `trainer` and `trainer.max_epochs`.
    """

    def __init__(self, command: str) -> None:
        self._command = command
        self._index: dict[str, Any] = json.loads(INDEX.read_text(encoding="utf-8"))
        self.names: list[str] = [*self._index["options"], *self._index["further"][command]]

    @cached_property
    def groups(self) -> set[str]:
        """Names with other names below them."""
        return {name.rpartition(".")[0] for name in self.names} - {""}

    @property
    def _classes(self) -> dict[str, list[str]]:
        """Public classes by the name of their base class."""
        found: dict[str, list[str]] = self._index["classes"]
        return found

    def knows(self, name: str) -> bool:
        """Whether this is an option, or lies below one whose type has names of its own."""
        known = set(self.names)
        while name and name not in known:
            name = name.rpartition(".")[0]
            if name in self.groups:
                return False
        return bool(name)

    def hint(self, name: str) -> str:
        """A sentence with the option that was probably meant; empty where none is near."""
        if re.match(r"data\.(class_path|init_args)\b", name):
            return f" {MOVED}"
        return did_you_mean(nearest(name, [*self.names, *self._index["dataset"]]))

    def check_config(self, value: str) -> None:
        """Check what follows `-c`: a file, or YAML itself."""
        path = Path(value).expanduser()
        if path.is_file():
            self._check_file("", path)
        elif not isinstance(_compose(value), yaml.MappingNode):
            raise ConfigError(f"config: File does not exist: {str(path.absolute())!r}")
        else:
            self._check_keys("", _compose(value), Place(None))

    def check_value(self, option: str, value: str) -> None:
        """Check the value of a group or of a class; other values are the parser's."""
        if option in self.groups or option in self._index["parts"]:
            self._check_node(option, _compose(value), Place(None))

    def _check_file(self, name: str, path: Path) -> None:
        """Check a YAML file that holds what `name` stands for, all options if it is empty."""
        try:
            node = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
            reason = ", ".join(filter(None, (error.context, error.problem)))
            raise ConfigError(f"{path}{line}: this is not YAML ({reason}).") from error
        except (OSError, ValueError, RecursionError, yaml.YAMLError):
            return  # for the parser
        self._check_node(name, node, Place(path))

    def _check_node(self, name: str, node: yaml.Node | None, place: Place) -> None:
        if name in self._index["parts"]:
            self._check_part(name, node, place)
        elif isinstance(node, yaml.MappingNode):
            if name in self.groups or not name:
                self._check_keys(name, node, place)
        elif not name:
            raise ConfigError(
                f"{place.of(node)}expected options, such as `trainer: {{max_epochs: 3}}`; got "
                f"{_shown(node)}."
            )
        elif name in self.groups and isinstance(node, yaml.ScalarNode) and not _is_null(node):
            self._check_named(name, node, place)

    def _check_keys(self, group: str, node: yaml.MappingNode, place: Place) -> None:
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            name = f"{group}.{key.value}" if group else key.value
            if not self.knows(name):
                raise ConfigError(
                    f"{place.of(key)}Subcommand '{self._command}' does not accept option '{name}'."
                    f"{self.hint(name)}"
                )
            self._check_node(name, value, place)

    def _check_named(self, name: str, node: yaml.ScalarNode, place: Place) -> None:
        """Check the file that a group or part is read from."""
        path = place.folder / node.value
        if not node.value.endswith(YAML):
            hint = {"data": f" {MOVED}", "data.images": " --dataset.images names a folder."}
            raise ConfigError(
                f"{place.of(node)}{name}: got {node.value!r}; expected options, such as "
                f"`{name}: {{...}}`, or a YAML file.{hint.get(name, '')}"
            )
        if not path.is_file():
            raise ConfigError(f"{place.of(node)}{name}: {node.value}: there is no such file.")
        self._check_file(name, path)

    def _check_part(self, name: str, node: yaml.Node | None, place: Place) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == "class_path" and isinstance(value, yaml.ScalarNode):
                    self._check_class(name, value, place)
        elif isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str":
            if node.value.endswith(YAML):
                self._check_named(name, node, place)
            else:
                self._check_class(name, node, place)

    def _check_class(self, name: str, node: yaml.ScalarNode, place: Place) -> None:
        path, base = node.value, self._index["parts"][name]
        expected = self._classes[base]
        every = {known for classes in self._classes.values() for known in classes}
        full = next((known for known in sorted(every) if known.endswith(f".{path}")), path)
        module = full.rpartition(".")[0]
        if full in expected or any(known.endswith(f".{path}") for known in expected):
            return
        if full not in every:
            if module in {known.rpartition(".")[0] for known in every}:
                near = did_you_mean(nearest(full, expected))
                raise ConfigError(f"{place.of(node)}{name}: there is no class {path}.{near}")
            return  # of another package, or one that the user's code has imported
        hint = ""
        if full in self._classes.get("Merge", ()):
            hint = f" It is a merge, of two vectors: give it as --{name}=vlm.fusion.Pooled "
            hint += f"--{name}.merge={full}"
        raise ConfigError(
            f"{place.of(node)}{name}: Import path {path} does not correspond to a subclass of "
            f"{base}.{hint}"
        )


class Place:
    """Where a value stands, for messages.

    Args:
        path: of the file; None for the command line.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    @property
    def folder(self) -> Path:
        """What paths in the file are relative to."""
        return Path() if self._path is None else self._path.parent

    def of(self, node: yaml.Node | None) -> str:
        """File and line of a node, with a colon; empty on the command line."""
        if self._path is None:
            return ""
        line = "" if node is None else f", line {node.start_mark.line + 1}"
        return f"{self._path}{line}: "


def _pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Options without their dashes, with their values."""
    given = list(arguments)
    while given:
        found = re.fullmatch(r"(?:--|-(?=c))([^=]+?)\+?(?:=(.*))?", given.pop(0), re.DOTALL)
        if found is None:
            continue
        option, value = found[1], found[2]
        if value is None and given and not given[0].startswith("--"):
            value = given.pop(0)
        yield option, value


def _compose(text: str) -> yaml.Node | None:
    """The nodes of a value on the command line; None where it is not YAML."""
    try:
        return yaml.compose(text, yaml.SafeLoader)
    except (ValueError, RecursionError, yaml.YAMLError):
        return None


def _is_null(node: yaml.ScalarNode) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")


def _shown(node: yaml.Node | None) -> str:
    if isinstance(node, yaml.ScalarNode):
        return repr(node.value)
    return "an empty file" if node is None else "a list"
