"""The command `vlm`: a table of commands, each imported when it is called."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pkgutil import resolve_name
from typing import NamedTuple

from vlm.cli.configs import with_configs
from vlm.core.extras import missing_extra
from vlm.core.validation import did_you_mean, nearest


class Command(NamedTuple):
    """A row of the table.

    Attributes:
        function: with its module in `vlm.cli.commands`; called with the arguments after the
            command's name.
        summary: a few words for the list of commands.
        example: a command to copy.
    """

    function: str
    summary: str
    example: str

    def load(self) -> Callable[[Sequence[str]], None]:
        function: Callable[[Sequence[str]], None] = resolve_name(
            f"{__package__}.commands.{self.function}"
        )
        return function


COMMANDS = {
    "init": Command("init:init", "write a project of your own", "vlm init my_project"),
    "fit": Command("training:fit", "train a model", "vlm fit -c configs/easy_vqa.yaml"),
    "validate": Command(
        "training:validate", "score a model on the validation split", "vlm validate RUN"
    ),
    "test": Command("training:test", "score a model on the test split", "vlm test RUN"),
    "predict": Command("training:predict", "write answers to a file", "vlm predict RUN"),
    "download": Command(
        "download:download", "get a data set from its authors", "vlm download text_vqa --to data/"
    ),
    "check-data": Command(
        "check_data:check",
        "list mistakes in a data set",
        "vlm check-data configs/own_data.yaml --dataset.path FILE",
    ),
    "shard": Command(
        "shard:shard", "write images to tar shards", "vlm shard configs/easy_vqa.yaml FOLDER"
    ),
    "cache": Command(
        "cache:cache", "encode images in advance", "vlm cache CONFIG --data.images.features=FOLDER"
    ),
    "evaluate": Command(
        "evaluate:evaluate_command",
        "score a file of answers",
        "vlm evaluate answers.csv -c configs/easy_vqa.yaml",
    ),
    "browse": Command(
        "browse:browse_command",
        "look through a data set and its errors",
        "vlm browse configs/easy_vqa.yaml --predictions FILE",
    ),
    "submit": Command(
        "submit:submit",
        "write a file for a test server",
        "vlm submit PREDICT/predictions.jsonl QUESTIONS.json",
    ),
    "ask": Command(
        "ask:ask", "answer one question", 'vlm ask RUN photo.png "What color is the shape?"'
    ),
    "calibrate": Command(
        "calibrate:calibrate_command", "calibrate a run's probabilities", "vlm calibrate RUN"
    ),
    "report": Command(
        "report:report_command", "report how far answers can be trusted", "vlm report RUN"
    ),
    "completion": Command(
        "completion:completion", "complete commands and options in a shell", "vlm completion bash"
    ),
    "doctor": Command(
        "doctor:doctor_command", "say what is installed and which problems to expect", "vlm doctor"
    ),
    "demo": Command("demo:demo", "ask questions in the browser", "vlm demo RUN [ANOTHER_RUN]"),
    "serve": Command(
        "serve:serve_command", "answer other programs over HTTP", "vlm serve RUN --port 8000"
    ),
    "explain": Command(
        "explain:explain_command",
        "show what an answer rests on",
        'vlm explain RUN photo.png "What color is the shape?"',
    ),
    "list": Command("list_parts:list_command", "list parts and data sets", "vlm list fusions"),
    "share": Command(
        "share:share", "write a model for others, without code", "vlm share RUN FOLDER"
    ),
    "export": Command(
        "export:export_command", "write a model as ONNX or torch graphs", "vlm export RUN FOLDER"
    ),
    "compare": Command(
        "compare:compare",
        "train and compare several fusions",
        "vlm compare configs/compare/easy_vqa.yaml",
    ),
    "tune": Command(
        "tune:tune_command",
        "find a configuration's best settings",
        "vlm tune CONFIG --search model.optimizer.init_args.lr=0.0003..0.01",
    ),
    "forgetting": Command(
        "forgetting:forgetting",
        "measure what fine-tuning destroyed",
        "vlm forgetting RUN [ANOTHER_RUN]",
    ),
}
HELP = """\
usage: vlm COMMAND ...

Visual question answering: train models from swappable parts, and ask them about images.

commands:
{commands}

RUN is the folder that `fit` prints.

Swap a part with one argument:
  vlm fit -c configs/easy_vqa.yaml --model.fusion=vlm.fusion.CrossAttention
Options of a command:      vlm fit --help
Options of a part:         vlm fit --model.fusion.help=vlm.fusion.CrossAttention
"""


def main(args: Sequence[str] | None = None) -> None:
    """Run a command; `args` are `sys.argv[1:]` if None."""
    arguments = list(sys.argv[1:] if args is None else args)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        sys.exit(0 if arguments else 2)
    name, *rest = arguments
    if name == "--version":
        from vlm.core.version import __version__

        print(__version__)
    elif name in COMMANDS:
        try:
            COMMANDS[name].load()(with_configs(name, rest))
        except ModuleNotFoundError as error:
            if (sentence := missing_extra(error, name)) is None:
                raise
            sys.exit(f"vlm {name}: {sentence}")
    else:
        hint = did_you_mean(nearest(name, COMMANDS)) or " `vlm --help` lists the commands."
        print(f"vlm: there is no command {name!r}.{hint}", file=sys.stderr)
        sys.exit(2)


def _help() -> str:
    names, summaries = max(map(len, COMMANDS)), max(len(c.summary) for c in COMMANDS.values())
    rows = (
        f"  {name:{names}}  {command.summary:{summaries}}  {command.example}"
        for name, command in COMMANDS.items()
    )
    return HELP.format(commands="\n".join(rows))
