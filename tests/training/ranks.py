"""Run several `vlm` commands in each process that torchrun starts.

torchrun ranks.py COMMANDS.json [SECONDS]: Python and torch start only once for all commands. The
second process starts each command SECONDS after the first.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from vlm.cli.training_cli import VQACLI
from vlm.training.fault_tolerance.leave import leave

if __name__ == "__main__":
    delay = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
    for arguments in json.loads(Path(sys.argv[1]).read_text()):
        time.sleep(delay * int(os.environ["RANK"]))
        VQACLI(arguments)
    leave(0)
