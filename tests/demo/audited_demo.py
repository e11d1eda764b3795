"""`vlm demo`, with a log of the files it opens or creates and what it starts or connects to.

python tests/demo/audited_demo.py NOTES CHECKPOINT ... OPTIONS

Files of Python and its packages are left out.
"""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from pathlib import Path
from typing import Any

PACKAGES = (
    *(sys.prefix, sys.base_prefix, str(Path(__file__).parents[2] / "vlm"), *site.getsitepackages()),
    *(path for path in sys.path if path.endswith("site-packages")),
    sysconfig.get_path("stdlib"),
)
NOTED = ("open", "subprocess.Popen", "socket.connect", "socket.getaddrinfo", "glob.glob")


def main() -> None:
    notes = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event in NOTED or event.startswith(("os.", "shutil.", "tempfile.")):
            name = str(arguments[0] if arguments else "")
            if not name.startswith(PACKAGES):
                os.write(notes, f"{event} {arguments!r:.300}\n".encode(errors="replace"))

    sys.addaudithook(note)
    from vlm.cli.main import main as vlm

    vlm(["demo", *sys.argv[2:]])


if __name__ == "__main__":
    main()
