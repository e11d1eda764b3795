"""`vlm report`: how far you can trust a model, or answers from any source, on one page."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from vlm.cli.check import parse_with_data
from vlm.cli.command_parser import (
    add_device,
    add_prompt,
    add_trust,
    check_device,
    command_parser,
    data_config,
)

EXAMPLES = """\
examples:
  vlm report RUN
  vlm report RUN --only accuracy calibration selective
  vlm report RUN --against OTHER_RUN
  vlm report SHARED -c configs/easy_vqa.yaml
  vlm report hf:dandelin/vilt-b32-finetuned-vqa -c configs/easy_vqa.yaml --split validation \\
    --dataset=configs/datasets/vqa_v2.yaml --dataset.root=/data/vqa_v2
  vlm report --predictions answers.csv -c configs/easy_vqa.yaml

Writes report.html (one file that includes its plots), report.md and report.json. Finished sections
are not computed again. Other options set the data, such as --dataset.root=FOLDER. docs/trust.md
explains each measure.
"""


def report_command(arguments: Sequence[str]) -> None:
    """Run the command; exits with code 1 if the model or the answers cannot be read."""
    parser = command_parser("report", "Report how far you can trust a model's answers.", EXAMPLES)
    add = parser.add_argument
    add(
        "model",
        nargs="?",
        help="a run's folder, a checkpoint, a shared model, hf:NAME of a model on the hub, or "
        "scenes or easy_vqa, which come with vlm",
    )
    add("--predictions", type=Path, metavar="FILE", help="report on a file of answers instead")
    add(
        "-c", "--config", type=Path, help="`vlm fit` configuration of the data (default: the run's)"
    )
    add("--split", choices=("validation", "test"), default="test", help="default: test")
    add("--only", nargs="+", default=[], metavar="SECTION", help="measure only these sections")
    add("--against", metavar="OTHER", help="model or file of answers to compare with")
    add(
        "--output",
        type=Path,
        help="folder to write the report to (default: RUN/report, or NAME_report here for a model "
        "that is no folder; with --split=validation report_validation)",
    )
    add_device(parser)
    add_prompt(parser)
    add_trust(parser)
    given, options = parse_with_data(parser, arguments)
    if (given.model is None) == (given.predictions is None):
        parser.error("expected either a model or --predictions")
    named = Path(given.model or given.predictions)
    if given.model is None and given.config is None:
        parser.error("-c: name a configuration of the data that was answered, as `-c easy_vqa`")
    config = data_config(parser, str(given.model), given.config)
    # Here and not above: `--help` and a mistake need not wait for torch.
    from vlm.adapters.hub import HUB
    from vlm.cli.data_only import read_data
    from vlm.core.bundled import bundled_models
    from vlm.core.finite import NotFiniteError
    from vlm.trust.report import SECTIONS, measure, write_report
    from vlm.trust.subject import Subject

    if wrong := [name for name in given.only if name not in SECTIONS]:
        parser.error(f"--only: got {wrong[0]!r}; expected some of {', '.join(SECTIONS)}")
    data = read_data("report", config, options).datamodule
    folder = given.output or _folder(named, given.model is not None, given.split)

    def is_model(name: str) -> bool:
        path = Path(name)
        return (
            name.startswith(HUB)
            or path.is_dir()
            or path.suffix == ".ckpt"
            or (name in bundled_models() and not path.exists())
        )

    def subject(name: str, answers: bool) -> Subject:
        if answers:
            if not Path(name).is_file():
                option = "--predictions" if name == str(given.predictions) else "--against"
                other = "" if option == "--predictions" else "a model or "
                raise ValueError(
                    f"{option}: got {name}; expected {other}a file of answers, and there is no "
                    "such file."
                )
            return Subject.of_predictions(Path(name), data, given.split)
        options = (given.device, given.trust, given.prompt)
        return Subject.of_model(name, data, given.split, *options)

    try:
        check_device(given.device)
        own = subject(given.model or str(given.predictions), given.model is None)
        other = None
        if given.against is not None:
            other = subject(given.against, not is_model(given.against))
        content = measure(own, folder, given.only, other)
        path = write_report(content, folder, shlex.join(["vlm", "report", *arguments]))
    except (NotFiniteError, OSError, ValueError) as error:
        sys.exit(f"vlm report: {error}")
    print(f"Report: {path}, {path.with_suffix('.md').name} and {path.with_suffix('.json').name}")


def _folder(named: Path, is_model: bool, split: str) -> Path:
    """Where a report is written: in the run's folder, beside a file, or here. One of validation
    leaves that of the test alone."""
    report = "report" if split == "test" else f"report_{split}"
    if not named.exists():  # a model of the hub, or one that comes with vlm
        return Path(f"{named.name}_{report}")
    if is_model:
        return (named if named.is_dir() else named.parent) / report
    return named.with_name(f"{named.stem}_{report}")
