"""A part of a comparison in a process of its own.

`python -m vlm.cli.comparison_worker FOLDER` trains and tests FOLDER/plan.yaml, and writes
FOLDER/finished.json as the very last thing. `... PLAN FILE` measures the cost of a plan's fusions:
in `vlm compare` itself that would keep memory of the GPU that the runs need.

It ends as soon as its standard input does: however `vlm compare` dies, nothing goes on unseen.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path


def main(*paths: Path) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if len(paths) == 2:
        _measure(*paths)
    else:
        _train(*paths)


def _measure(plan: Path, path: Path) -> None:
    from vlm.cli.comparison_base import builder_of
    from vlm.core.terminal import new_console
    from vlm.studies.comparison.cost import measure
    from vlm.studies.comparison.plan import read_plan
    from vlm.studies.comparison.search import read_tuned

    builder = builder_of(read_plan(plan))
    tuned = {} if builder.plan.search is None else read_tuned(path.parent)
    variants = builder.variants(tuned)
    fusions = [variant for variant in variants if variant.control is None]
    measure(builder, fusions, path, new_console())


def _train(folder: Path) -> None:
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
    main(*map(Path, sys.argv[1:]))
