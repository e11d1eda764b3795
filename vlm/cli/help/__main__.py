"""`python -m vlm.cli.help`: write the short help pages and the index of options."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from argparse import Action, ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from io import StringIO
from pkgutil import resolve_name
from typing import Any, Literal, get_args, get_origin

from vlm.cli.commands.list_parts import public_classes
from vlm.cli.help import FOLDER
from vlm.cli.main import COMMANDS
from vlm.cli.training_cli import VQACLI
from vlm.core.part import Configured
from vlm.fusion import Merge

WIDTH, COLUMN = 100, 46
USAGE = {
    "fit": """\
usage: vlm fit -c CONFIG [--OPTION=VALUE ...]

Train a model; write its checkpoints, metrics and report to a new folder.

examples:
  vlm fit -c configs/easy_vqa.yaml
  vlm fit -c configs/easy_vqa.yaml --model.fusion=vlm.fusion.CrossAttention --run.name=cross
  vlm fit -c configs/easy_vqa.yaml --model.fusion.merge=vlm.fusion.Mutan --trainer.max_epochs=3
  vlm fit -c RUN/config.yaml --ckpt_path=RUN                    continue a run that has ended
  vlm fit -c configs/easy_vqa.yaml --print_config > mine.yaml   a configuration to edit
""",
}
DOES = {
    "validate": "Score a trained model on the validation split.",
    "test": "Score a trained model on the test split, and write the report and the answers.",
    "predict": "Write a trained model's answers to predictions.jsonl; `vlm submit` converts them "
    "for a server.",
}
USAGE |= {
    command: f"""\
usage: vlm {command} RUN [--OPTION=VALUE ...]

{does}

RUN is the folder of a run, or of a model made by `vlm share` or hf:NAME on the hub, which name no
data set.

examples:
  vlm {command} RUN
  vlm {command} RUN --dataset.root=FOLDER     the same questions in another folder
  vlm {command} SHARED -c configs/easy_vqa.yaml             data from a configuration
  vlm {command} -c CONFIG --ckpt_path=CHECKPOINT            a checkpoint other than the best
"""
    for command, does in DOES.items()
}
USAGE["predict"] += """\
  vlm predict MODEL --dataset.path questions.csv            any table: answers beside its columns,
                                                            with --dataset.images and --output
"""
OPTIONS = """
Write an option as --trainer.max_epochs=3, or in the YAML file as `trainer: {max_epochs: 3}`; the
last one wins. A part is a class (vlm.fusion.MCAN) or a YAML file (fusion/concat.yaml), and its
arguments follow its name: --model.fusion.out_dim=64. A part that replaces another starts from its
own defaults.
"""
MORE = """
Parts and their papers:          vlm list [fusions|merges|encoders|heads|datasets|augmentations]
Arguments of a part:             vlm {command} --model.fusion.help=vlm.fusion.CrossAttention
All options, with full texts:    vlm {command} --help-all
"""
TRAINED = (
    "max_epochs max_steps max_time accumulate_grad_batches gradient_clip_val "
    "check_val_every_n_epoch limit_train_batches limit_val_batches callbacks logger deterministic"
)
EVALUATED = {
    "fit": "",
    "validate": "limit_val_batches",
    "test": "limit_test_batches",
    "predict": "limit_predict_batches",
}
MACHINE = "accelerator devices num_nodes strategy precision fast_dev_run profiler"


class _Stop(Exception):
    """The parsers are made; nothing is parsed."""


class _Unparsed(VQACLI):
    def parse_arguments(self, parser: Any, args: Any) -> None:
        raise _Stop


def parsers() -> dict[str, ArgumentParser]:
    """The real parser of each training command."""
    cli = _Unparsed.__new__(_Unparsed)
    with suppress(_Stop):
        cli.__init__(["fit"])  # type: ignore[misc]  # `__init__` called by its name
    return {command: cli._subcommand_parsers[command] for command in USAGE}


def files() -> dict[str, str]:
    """The content of each generated file by its name."""
    found = parsers()
    made = {f"{command}.txt": _help(command, parser) for command, parser in found.items()}
    return made | {"options.json": json.dumps(_index(found), indent=1) + "\n"}


def _index(found: dict[str, ArgumentParser]) -> dict[str, Any]:
    names = {command: list(_actions(parser)) for command, parser in found.items()}
    shared = [name for name in names["fit"] if all(name in other for other in names.values())]
    further = {command: [n for n in own if n not in shared] for command, own in names.items()}
    bases = {
        name: base
        for name, action in _actions(found["fit"]).items()
        if (base := _part(action)) is not None
    }
    return {
        "commands": {name: _flags(name) for name in COMMANDS if name not in USAGE},
        "options": shared,
        "further": further,
        "parts": {name: base.__name__ for name, base in bases.items()},
        "dataset": sorted(
            {
                f"dataset.{name}"
                for path in public_classes(bases["dataset"])
                for name in inspect.signature(resolve_name(path)).parameters
            }
        ),
        "classes": {
            base.__name__: public_classes(base) for base in dict.fromkeys([*bases.values(), Merge])
        },
    }


def _flags(command: str) -> list[str]:
    """The options of a command that is no training, as its help names them."""
    printed = StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        COMMANDS[command].load()(["--help"])
    return sorted(set(re.findall(r"(?<=[\s\[])--[a-z][a-z-]*", printed.getvalue())))


def _part(action: Action) -> type | None:
    """The class of ours whose subclasses an option takes."""
    hint = getattr(action, "_typehint", None)
    for option in (hint, *get_args(hint)):
        is_part = inspect.isclass(option) and issubclass(option, Configured)
        if is_part and public_classes(option):
            return option
    return None


def _actions(parser: ArgumentParser) -> dict[str, Action]:
    """Each option's long name, without those that show a class's help or extend a list."""
    return {
        option.removeprefix("--"): action
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--") and not option.endswith((".help", "+"))
    }


def _help(command: str, parser: ArgumentParser) -> str:
    actions = _actions(parser)
    fits = command == "fit"
    rows = [USAGE[command], OPTIONS]

    def group(title: str, names: Iterator[str] | list[str]) -> None:
        rows.append(f"\n{title}\n")
        rows.extend(_row(name, actions[name]) for name in names)

    def below(*groups: str) -> Iterator[str]:
        return (
            name
            for name, action in actions.items()
            if name.rpartition(".")[0] in groups and getattr(action, "_typehint", None) is not None
        )

    group("run: where results go", list(below("run")) if fits else ["run.folder", "run.name"])
    group("dataset: questions, answers and metric", ["dataset"])
    batches = ["data", "data.images", "data.images.shards", *["data.augment"] * fits]
    group("data: batches and images", list(below(*batches)))
    group("model: parts, optimiser and schedule", list(below("model")))
    rows += ["\n", *(_classes(name, base) for name, a in actions.items() if (base := _part(a)))]
    if fits:
        part = list(below("model.tuning.fusion"))
        rows.append(
            "\nmodel.tuning.PART: fine-tuning of image_encoder, text_encoder, fusion, head\n"
        )
        rows += [_row(name.replace("fusion", "PART"), actions[name]) for name in part]
        rows += [_row(name, actions[name]) for name in below("model.tuning")]
    asked = f"{TRAINED if fits else EVALUATED[command]} {MACHINE}".split()
    group("trainer: Lightning's most used options", [f"trainer.{name}" for name in asked])
    group("other options", ["seed_everything", "ckpt_path", "print_config"])
    return "".join(rows) + MORE.format(command=command)


def _classes(name: str, base: type) -> str:
    """The classes that a part may be."""
    names = (path.rpartition(".")[2] for path in public_classes(base))
    listed = ", ".join(name for name in names if name != base.__name__)
    lines = textwrap.wrap(listed, WIDTH - 24, break_long_words=False)
    return f"{name:>22}  " + f"\n{'':24}".join(lines) + "\n"


def _row(name: str, action: Action) -> str:
    """An option with its type, its first sentence and its default."""
    head = f"  --{name} {_type(getattr(action, '_typehint', None))}".rstrip()
    text = _sentence(action.help or "")
    text = text[:1].upper() + text[1:]
    default = action.default
    if isinstance(default, dict):
        default = default.get("class_path")
    if default not in (None, "==SUPPRESS=="):
        shown = str(default).lower() if isinstance(default, bool) else default
        text += f" (default {shown})"
    indent = " " * COLUMN
    lines = textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent)
    beside = len(head) < COLUMN - 1
    return (head + lines[len(head) :] if beside else f"{head}\n{lines}").rstrip() + "\n"


def _sentence(text: str) -> str:
    plain = " ".join(text.replace("``", "`").split())
    return re.split(r"(?<=[^.]{3}[a-z)`0-9])\. (?=[A-Z`])", plain)[0].rstrip(".")


def _type(hint: Any) -> str:
    """How a type is written on the command line."""
    names = {bool: "true|false", int: "INT", float: "NUMBER", str: "TEXT"}
    if get_origin(hint) is Callable:
        return _type(get_args(hint)[-1])
    if hint in names:
        return names[hint]
    if get_origin(hint) is Literal:
        return "|".join(sorted(map(str, get_args(hint))))
    if inspect.isclass(hint) and not get_args(hint):
        return hint.__name__
    options = [_type(option) for option in get_args(hint) if option is not type(None)]
    if get_origin(hint) in (list, dict, tuple):
        return "LIST" if get_origin(hint) is not dict else "DICT"
    # Not the first: of equal unions typing keeps the one that was made first, by whoever it was.
    ranks = {"NUMBER": 0, "INT": 1, "TEXT": 2, "LIST": 3}
    found = sorted(filter(None, options), key=lambda o: (ranks.get(o, 4), len(o), o))
    return found[0] if found else ""


def main() -> None:
    for name, content in files().items():
        (FOLDER / name).write_text(content, encoding="utf-8")
        print(FOLDER / name)


if __name__ == "__main__":
    main()
