"""The Sphinx configuration of the documentation: `make docs` builds it into `build/docs`.

Two kinds of page are made at the start of a build, so that they cannot disagree with the code:
the commands from the real parser, and the notebooks from `demos/`. `make docs` turns warnings, such
as those of broken links, into errors.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

from vlm.cli.main import COMMANDS, main  # noqa: E402
from vlm.core.version import __version__  # noqa: E402

project = "vlm"
author = "the vlm authors"
copyright = "the vlm authors, Apache-2.0"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"vlm {release}"
templates_path: list[str] = []

# Markdown as GitHub reads it: headings are link targets down to the fourth level.
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]
nb_execution_mode = "off"  # tests/test_notebooks.py runs them; the pages show the committed outputs
nb_merge_streams = True

# A docstring's `name` is code. `Args: image_dim, text_dim: ...` documents two at once.
default_role = "code"
autodoc_member_order = "groupwise"
autodoc_inherit_docstrings = False  # what Lightning and torch document, they document
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_use_rtype = False
napoleon_use_ivar = True

# Sphinx resolves our own cross-references; those into torch and others would need the network.
nitpick_ignore_regex = [(r"py:.*", r".*")]


def write_commands(*_: Any) -> None:
    """`docs/reference/commands.md`: the help of each command, as the command prints it."""
    page = [
        "# Commands\n",
        "Every page below is what `vlm COMMAND --help` prints. For `fit`, `validate`, `test` and "
        "`predict`, `--help-all` prints every option with its full text.\n",
    ]
    for name, command in {"": None, **COMMANDS}.items():
        title = f"vlm {name}".strip()
        summary = "" if command is None else f"{command.summary.capitalize()}.\n"
        page.append(f"## {title}\n\n{summary}\n```text\n{printed_help(name)}```\n")
    write_if_changed(DOCS / "reference/commands.md", "\n".join(page))


def printed_help(command: str) -> str:
    os.environ["COLUMNS"] = "100"  # whatever the terminal of the build
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([*command.split(), "--help"])
    return said.getvalue().rstrip() + "\n"


def copy_notebooks(*_: Any) -> None:
    """`docs/tutorials/NAME.ipynb`: the notebooks of `demos/`, which lie outside this folder."""
    for notebook in sorted((ROOT / "demos").glob("*.ipynb")):
        text = notebook.read_text(encoding="utf-8").replace("(../docs/", "(../")
        write_if_changed(DOCS / "tutorials" / notebook.name, text)


def write_if_changed(path: Path, text: str) -> None:
    """Sphinx builds a page again where its file is newer."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def mark_equations(
    _app: Any, _what: str, _name: str, _object: Any, _: Any, lines: list[str]
) -> None:
    """Docstrings indent equations and file trees; Sphinx reads a block as text only after `::`."""
    marked: list[str] = []
    paragraph = ""  # the last line that is neither empty nor indented
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("    ") and not before.strip() and paragraph:
            marked += ["::", ""]
            paragraph = ""
        elif line.strip() and not line.startswith(" "):
            paragraph = "" if line.startswith("- ") else line
        marked.append(line)
    lines[:] = marked


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", mark_equations, priority=400)  # before napoleon's
    app.connect("builder-inited", write_commands)
    app.connect("builder-inited", copy_notebooks)
