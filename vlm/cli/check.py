"""Refuse unknown options, keys and classes before anything heavy is imported.

The names are those of `vlm/cli/help/options.json`, which is made from the real parser. What they
cannot judge (types of values, arguments of classes, classes from outside vlm) goes on to it.
"""

from __future__ import annotations

import json
import re
from argparse import Namespace
from collections.abc import Iterator, Sequence
from os.path import isdir, isfile
from pathlib import Path
from typing import NamedTuple

import yaml

from vlm.cli.command_parser import CommandParser
from vlm.core.bundled import configs_folder
from vlm.core.errors import ConfigError
from vlm.core.validation import did_you_mean, nearest

INDEX = Path(__file__).parent / "help/options.json"
YAML = (".yaml", ".yml", ".json")
TABLES = ("dataset.path", "dataset.validation", "dataset.test")
TABLE_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".parquet", ".gz")
"""Of what can be a file alone: a name without them may be a data set of a hub's."""
NULL = "tag:yaml.org,2002:null"
MOVED = (
    "The data set has a group of its own: `dataset: {class_path: vlm.datasets.EasyVQA, init_args: "
    "{root: ...}}` beside `data: {images_per_batch: 16, images: {in_memory: true}}`, and "
    "--dataset=EasyVQA --dataset.root=... on the command line."
)


def check_names(command: str, arguments: Sequence[str], own: Sequence[str] = ()) -> None:
    """Raise ConfigError for the first mistake that the names of a training command's arguments, or
    of files in them, show. `own` are further options that may have been meant."""
    check_files(arguments)
    options = Options(command)
    unknown = []
    for option, value in _pairs(arguments):
        if option in ("c", "config"):
            if value is not None:
                options.check_config(value)
        elif not options.has(option):
            unknown.append(f"--{option}" if value is None else f"--{option}={value}")
        elif value is not None:
            options.check_value(option, value)
    if unknown:
        hint = options.hint(unknown[0].partition("=")[0], own)
        raise ConfigError(f"unrecognized arguments: {' '.join(unknown)}.{hint}")


def parse_with_data(parser: CommandParser, arguments: Sequence[str]) -> tuple[Namespace, list[str]]:
    """A command's own arguments, and the options of `vlm fit` that set its data; a mistake in their
    names ends the process with 2."""
    given, options = parser.parse_known_args(arguments)
    try:
        check_names("fit", options, parser.own())
    except ConfigError as error:
        parser.error(str(error))
    return given, options


def check_files(arguments: Sequence[str]) -> None:
    """Raise ConfigError for a table of questions on the command line that is not there."""
    for option, value in _pairs(arguments):
        if option not in TABLES or not value or Path(value).suffix not in TABLE_SUFFIXES:
            continue
        path = Path(value).expanduser()
        if not path.exists():
            hint = _near_file(path, TABLE_SUFFIXES)
            raise ConfigError(f"{option}: {value}: there is no such file.{hint}")


def _near_file(path: Path, suffixes: Sequence[str], names: Sequence[str] = ()) -> str:
    """A sentence with the file beside a missing one, or the other name, that was probably meant."""
    beside = (file.name for suffix in suffixes for file in path.parent.glob(f"*{suffix}"))
    return did_you_mean(nearest(path.name, (*beside, *names)))


def refusal(error: ConfigError | str, arguments: Sequence[str]) -> str:
    """The line about a configuration that cannot be used, with the files that it was made from."""
    files = re.findall(r"(?:^| )(?:-c|--config)[ =](\S+)", " ".join(arguments))
    where = f" ({', '.join(files)})" if files else ""
    return f"vlm{where}: {error}"


class Options:
    """The options of a training command.

    `names` has each option and each group of options, such as `trainer` and `trainer.max_epochs`. A
    group (`_groups`) has other names below it; `_parts` gives the base class of each part,
    `_classes` the public classes of each base.
    """

    def __init__(self, command: str) -> None:
        self._command = command
        index = json.loads(INDEX.read_text(encoding="utf-8"))
        self.names: list[str] = [*index["options"], *index["further"][command]]
        self._parts: dict[str, str] = index["parts"]
        self._classes: dict[str, list[str]] = index["classes"]
        self._of_datasets: list[str] = index["dataset"]
        self._groups = {name.rpartition(".")[0] for name in self.names} - {""}

    def has(self, name: str) -> bool:
        """Whether this is an option, or lies below one whose type has names of its own."""
        while name and name not in self.names:
            name = name.rpartition(".")[0]
            if name in self._groups:
                return False
        return bool(name)

    def hint(self, name: str, own: Sequence[str] = ()) -> str:
        """A sentence with the option that was probably meant, with dashes if `name` has them; empty
        where none is near."""
        bare = name.removeprefix("--")
        if re.match(r"data\.(class_path|init_args)\b", bare):
            return f" {MOVED}"
        near = nearest(bare, [*own, *self.names, *self._of_datasets])
        return did_you_mean(near and name.replace(bare, near))

    def check_config(self, value: str) -> None:
        """Check what follows `-c`: a file, or YAML itself."""
        path = Path(value).expanduser()
        if isfile(path):  # `Path.is_file` raises where YAML is longer than a name can be
            self._check_file("", path)
        elif isdir(path):
            raise ConfigError(
                f"config: got the folder {value}; expected a file, such as {path / 'config.yaml'}"
            )
        elif not isinstance(_compose(value), yaml.MappingNode):
            shipped = [file.stem for file in configs_folder().glob("*.yaml")]
            hint = _near_file(path, YAML, shipped if path.name == value else ())
            raise ConfigError(f"config: File does not exist: {str(path.absolute())!r}.{hint}")
        else:
            self._check_keys("", _compose(value), Place())

    def check_value(self, option: str, value: str) -> None:
        """Check the value of a group or of a class; other values are the parser's."""
        if option in self._groups or option in self._parts:
            self._check_node(option, _compose(value), Place())

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
        if name in self._parts:
            self._check_part(name, node, place)
        elif isinstance(node, yaml.MappingNode):
            if name in self._groups or not name:
                self._check_keys(name, node, place)
        elif not name:
            got = "an empty file" if node is None else "a list"
            got = repr(node.value) if isinstance(node, yaml.ScalarNode) else got
            raise ConfigError(
                f"{place.of(node)}expected options, such as `trainer: {{max_epochs: 3}}`; "
                f"got {got}."
            )
        elif name in self._groups and isinstance(node, yaml.ScalarNode) and node.tag != NULL:
            self._check_named(name, node, place)

    def _check_keys(self, group: str, node: yaml.MappingNode, place: Place) -> None:
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            name = f"{group}.{key.value}" if group else key.value
            if not self.has(name):
                raise ConfigError(
                    f"{place.of(key)}Subcommand '{self._command}' does not accept option '{name}'."
                    f"{self.hint(name)}"
                )
            self._check_node(name, value, place)

    def _check_named(self, name: str, node: yaml.ScalarNode, place: Place) -> None:
        """Check the file that a group or part is read from."""
        path = node.value if place.path is None else place.path.parent / node.value
        if not node.value.endswith(YAML):
            hint = {"data": f" {MOVED}", "data.images": " --dataset.images names a folder."}
            raise ConfigError(
                f"{place.of(node)}{name}: got {node.value!r}; expected options, such as "
                f"`{name}: {{...}}`, or a YAML file.{hint.get(name, '')}"
            )
        if not Path(path).is_file():
            # A part's file lies in a folder of its kind; those beside the folders are whole runs'.
            shipped = configs_folder().joinpath(*node.value.removeprefix("configs/").split("/"))
            if shipped.parent != configs_folder() and shipped.is_file():
                near = f" The one that comes with vlm is {shipped}: write that path, or copy it."
            else:
                near = _near_file(Path(path), YAML)
            raise ConfigError(f"{place.of(node)}{name}: {node.value}: there is no such file.{near}")
        self._check_file(name, Path(path))

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
        path, base = node.value, self._parts[name]
        expected = self._classes[base]
        every = sorted({known for classes in self._classes.values() for known in classes})
        if any(f".{known}".endswith(f".{path}") for known in expected):
            return
        full = next((known for known in every if known.endswith(f".{path}")), path)
        if full not in every:
            if full.rpartition(".")[0] in {known.rpartition(".")[0] for known in every}:
                near = did_you_mean(nearest(full, expected))
                raise ConfigError(f"{place.of(node)}{name}: there is no class {path}.{near}")
            return  # of another package, or one that the user's code has imported
        hint = (
            f" It is a merge, of two vectors: give it as --{name}=vlm.fusion.Pooled "
            f"--{name}.merge={full}"
        )
        raise ConfigError(
            f"{place.of(node)}{name}: Import path {path} does not correspond to a subclass of "
            f"{base}.{hint if full in self._classes['Merge'] else ''}"
        )


class Place(NamedTuple):
    """Where a value stands: in a file, whose folder paths in it start from; None on the command
    line."""

    path: Path | None = None

    def of(self, node: yaml.Node | None) -> str:
        """File and line of a node, with a colon; empty on the command line."""
        if self.path is None:
            return ""
        line = "" if node is None else f", line {node.start_mark.line + 1}"
        return f"{self.path}{line}: "


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
