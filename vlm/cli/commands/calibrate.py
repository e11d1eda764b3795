"""`vlm calibrate`: calibrate a run's probabilities, and store the result in its checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from vlm.cli.check import parse_with_data
from vlm.cli.command_parser import add_device, add_trust, check_device, command_parser
from vlm.core.validation import counted

EXAMPLES = """\
example:
  vlm calibrate RUN

Answers the validation questions again, and writes the result into the run's best checkpoint.
`vlm fit` calibrates at its end, so you need this only for older runs or changed data. Other
options set the data, such as --dataset.root=FOLDER. docs/trust.md explains the calibration.
"""


def calibrate_command(arguments: Sequence[str]) -> None:
    """Run the command; exits with code 1 if the run cannot be calibrated."""
    parser = command_parser("calibrate", "Calibrate a run's probabilities.", EXAMPLES)
    parser.add_argument("run", type=Path, help="a run's folder")
    add_device(parser)
    add_trust(parser)
    given, options = parse_with_data(parser, arguments)
    config = given.run / "config.yaml"
    if not config.is_file():
        parser.error(f"run: got {given.run}; expected a run's folder, with {config.name}")
    # Here and not above: `--help` and a mistake need not wait for torch.
    from vlm.cli.data_only import read_data
    from vlm.core.errors import ConfigError
    from vlm.core.finite import NotFiniteError
    from vlm.training.run_lock import training_in
    from vlm.trust.calibrate import calibrate

    data = read_data("calibrate", config, options).datamodule
    try:
        check_device(given.device)
        with training_in(given.run):
            found = calibrate(given.run, data, given.device, given.trust)
    except (ConfigError, NotFiniteError, OSError, ValueError) as error:
        sys.exit(f"vlm calibrate: {error}")
    print(f"{given.run}: {found.about}.")
    print(
        f"Thresholds certified on {counted(found.certified_on, 'other question')} about "
        f"{counted(found.images, 'image')}:"
    )
    for risk, least, coverage, why in found.thresholds:
        kept = f"answers from {100 * least:.2f} %" if least else "answers everything"
        kept = why or f"{kept}, coverage {100 * coverage:.1f} %"
        print(f"  risk {100 * risk:g} %: {kept}")
