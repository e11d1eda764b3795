"""`vlm download`: get a data set from its authors, under their terms."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from vlm.cli.command_parser import command_parser
from vlm.core.bundled import configs_folder
from vlm.core.validation import did_you_mean, nearest

HELP = """\
Get a data set of configs/datasets/ from its authors. The terms are shown first. An interrupted
download goes on where it ended, and every file is compared with its published digest.
"""
EXAMPLES = """\
examples:
  vlm download text_vqa --to data/
  vlm download vqa_v2 --to data/ --no-images --yes

Files go where the set's configuration looks for them: those of data/vqa_v2 to vqa_v2/ in the folder
--to. For a set whose addresses could not be verified, the command says where to get it by hand.
Exit code 1 if a file cannot be had; run the command again to go on.
"""
GIGABYTE = 1e9


def download(arguments: Sequence[str]) -> None:
    """Run the command; ends the process with 1 if the set, or a file of it, cannot be had."""
    parser = command_parser("download", HELP, EXAMPLES)
    parser.add_argument("name", help="name of a configuration in configs/datasets/")
    parser.add_argument("--to", type=Path, default=Path("data"), help="folder (default data/)")
    parser.add_argument("--yes", action="store_true", help="agree to the terms without a question")
    parser.add_argument(
        "--no-images", dest="images", action="store_false", help="leave archives of images out"
    )
    given = parser.parse_args(arguments)
    # Here and not above: `--help` needs none of it.
    from vlm.datasets.download.fetch import DownloadError
    from vlm.datasets.download.get import get, missing
    from vlm.datasets.download.known import KNOWN

    if given.name == "easy_vqa":  # its folder is that of a package, so it has no file there
        sys.exit("easy_vqa: needs no download of its own: it comes with the extra `train`.")
    config = _config(given.name)
    if config is None:
        names = sorted(path.stem for path in (configs_folder() / "datasets").glob("*.yaml"))
        hint = did_you_mean(nearest(given.name, names)) or f" There are {', '.join(names)}."
        parser.error(f"name: there is no data set {given.name!r}.{hint}")
    if given.name not in KNOWN:
        print(f"{given.name}: {_by_hand(config)}")
        sys.exit(1)
    known = KNOWN[given.name]
    # Where the configuration looks, "data/" in it standing for the folder.
    folder = given.to.joinpath(*Path(config["init_args"]["root"]).parts[1:])
    files = [file for file in known.files if given.images or not file.images]
    rest = missing(files, folder)
    print(f"Terms of {given.name}: {known.terms}\nAddresses and digests: {known.verified}.")
    if not rest:
        print(f"{folder}: all {len(files)} files are there.")
        return
    for file in rest:
        print(f"  {_size(file.size):>10}  {file.url}")
    print(f"To {folder}.")
    if not given.yes and not _agreed():
        sys.exit("vlm download: nothing was fetched.")
    try:
        with _Bar() as bar:
            get(rest, folder, bar.show)
    except (DownloadError, OSError) as error:
        sys.exit(f"vlm download: {error}")
    print(f"{folder}: all files are there. vlm check-data reads them.")


def _config(name: str) -> dict[str, Any] | None:
    import yaml

    path = configs_folder() / "datasets" / f"{name}.yaml"
    if Path(name).name != name or not path.is_file():
        return None
    config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return config


def _by_hand(config: dict[str, Any]) -> str:
    module, _, name = config["class_path"].rpartition(".")
    page = getattr(resolve_name(f"{module}:{name}"), "get", None)
    if page is None:
        return "needs no download of its own: it is generated, or made of other sets."
    return f"its addresses could not be verified, so get it by hand. {page}"


def _agreed() -> bool:
    if not sys.stdin.isatty():
        sys.exit("vlm download: --yes is needed where nobody can be asked; it agrees to the terms.")
    return input("Do you agree to these terms? [y/N] ").strip().lower() in ("y", "yes")


def _size(size: int | None) -> str:
    if size is None:
        return "?"
    return f"{size / GIGABYTE:.1f} GB" if size >= GIGABYTE else f"{size / 1e6:.1f} MB"


class _Bar:
    """A progress bar for each file."""

    def __init__(self) -> None:
        from vlm.core.terminal import new_progress

        self._progress = new_progress(of_bytes=True)
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def show(self, name: str, done: int, total: int | None) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total)
        self._progress.update(self._tasks[name], completed=done, total=total)
