"""One run in a process of its own: `python -m vlm.studies.comparison.worker FOLDER`.

It trains and tests FOLDER/plan.yaml, and writes FOLDER/finished.json as the very last thing. It
ends as soon as its standard input does: however `vlm compare` dies, nothing goes on unseen.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

PLAN, FINISHED, LOG = "plan.yaml", "finished.json", "log.txt"


def main(folder: Path) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from vlm.cli.training_cli import VQACLI

    cli = VQACLI(["fit", f"--config={folder / PLAN}"])
    if cli.trainer.is_global_zero:
        # Renamed when it is whole, so that it is there or not, and never half.
        whole = folder / f"{FINISHED}.part"
        whole.write_text(json.dumps({"run": cli.run_folder.name}) + "\n")
        whole.replace(folder / FINISHED)


def _end_with_parent() -> None:
    # Not `sys.stdin.read`, which holds a lock that Python wants when it ends.
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
