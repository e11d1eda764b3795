"""Runs commands of `vlm` one after the other in each process that torchrun starts.

torchrun ranks.py COMMANDS.json: one start of Python and torch for all of them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from vlm.training.cli import VQACLI

if __name__ == "__main__":
    for arguments in json.loads(Path(sys.argv[1]).read_text()):
        VQACLI(arguments)
