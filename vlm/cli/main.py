"""The command `vlm`. Training is a LightningCLI; asking needs none of that and starts fast."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vlm.core.validation import did_you_mean, nearest

TRAINING = ("fit", "validate", "test", "predict")
HELP = """\
usage: vlm COMMAND ...

Visual question answering: train models from parts that swap, and ask them about pictures.

commands:
  fit        train a model               vlm fit -c configs/easy_vqa.yaml
  validate   score it on validation      vlm validate -c RUN/config.yaml --ckpt_path CHECKPOINT
  test       score it on the test split  vlm test -c RUN/config.yaml --ckpt_path CHECKPOINT
  predict    write its answers           vlm predict -c RUN/config.yaml --ckpt_path CHECKPOINT
  check-data list what is wrong with it  vlm check-data configs/own_data.yaml --data.path FILE
  shard      pictures to tar shards      vlm shard configs/easy_vqa.yaml FOLDER
  cache      pictures to features        vlm cache CONFIG --data.pictures.features=FOLDER
  submit     file for a test server      vlm submit PREDICT/predictions.jsonl QUESTIONS.json
  ask        answer one question         vlm ask RUN photo.png "What color is the shape?"
  demo       ask in the browser          vlm demo RUN [ANOTHER_RUN]
  explain    show why it says so         vlm explain RUN photo.png "What color is the shape?"
  share      a model for others          vlm share RUN FOLDER
  compare    train fusions alike, report vlm compare configs/compare/easy_vqa.yaml
  forgetting what fine-tuning destroyed  vlm forgetting RUN [ANOTHER_RUN]

RUN is the folder that `fit` names, CHECKPOINT is RUN/checkpoints/best.ckpt.

Swap a part with one argument:
  vlm fit -c configs/easy_vqa.yaml --model.fusion=vlm.fusion.CrossAttention
Every option of a command:      vlm fit --help
Every option of a part:         vlm fit --model.fusion.help=vlm.fusion.CrossAttention
"""


def main(args: Sequence[str] | None = None) -> None:
    """Run a command; `args` are `sys.argv[1:]` if None."""
    arguments = list(sys.argv[1:] if args is None else args)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        sys.exit(0 if arguments else 2)
    if arguments[0] == "--version":
        from vlm import __version__

        print(__version__)
    elif arguments[0] == "ask":
        from vlm.cli.commands.ask import ask

        ask(arguments[1:])
    elif arguments[0] == "explain":
        from vlm.cli.commands.explain import explain_command

        explain_command(arguments[1:])
    elif arguments[0] == "check-data":
        from vlm.cli.commands.check_data import check

        check(arguments[1:])
    elif arguments[0] == "shard":
        from vlm.cli.commands.shard import shard

        shard(arguments[1:])
    elif arguments[0] == "share":
        from vlm.cli.commands.share import share

        share(arguments[1:])
    elif arguments[0] == "cache":
        from vlm.cli.commands.cache import cache

        cache(arguments[1:])
    elif arguments[0] == "submit":
        from vlm.cli.commands.submit import submit

        submit(arguments[1:])
    elif arguments[0] == "demo":
        from vlm.cli.commands.demo import demo

        demo(arguments[1:])
    elif arguments[0] == "compare":
        from vlm.cli.commands.compare import compare

        compare(arguments[1:])
    elif arguments[0] == "forgetting":
        from vlm.cli.commands.forgetting import forgetting

        forgetting(arguments[1:])
    elif arguments[0] in TRAINING or arguments[0].startswith("-"):
        from vlm.cli.training_command import run

        run(arguments)
    else:
        commands = [line.split()[0] for line in HELP.splitlines() if line.startswith("  ")]
        hint = did_you_mean(nearest(arguments[0], commands)) or " `vlm --help` lists the commands."
        print(f"vlm: there is no command {arguments[0]!r}.{hint}", file=sys.stderr)
        sys.exit(2)
