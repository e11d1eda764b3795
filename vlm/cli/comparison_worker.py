"""One run in a process of its own: `python -m vlm.cli.comparison_worker FOLDER`.

It trains and tests FOLDER/plan.yaml, and writes FOLDER/finished.json as the very last thing. It
ends as soon as its standard input does: however `vlm compare` dies, nothing goes on unseen.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path


def main(folder: Path) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from vlm.cli.training_cli import VQACLI
    from vlm.core.files import write_whole
    from vlm.studies.comparison.runs import FINISHED, PLAN

    cli = VQACLI(["fit", f"--config={folder / PLAN}"])
    if cli.trainer.is_global_zero:
        content = json.dumps({"run": cli.run_folder.name}) + "\n"
        write_whole(folder / FINISHED, content.encode())


def _end_with_parent() -> None:
    # Not `sys.stdin.read`, which holds a lock that Python wants when it ends.
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
