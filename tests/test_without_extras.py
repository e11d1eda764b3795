"""What the documents promise of an installation without extras, or with one of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vlm.core.extras import EXTRAS

FREE = {"jinja2"}
"""torch brings it."""
OF_GRADIO = {
    *("fastapi", "filelock", "fsspec", "huggingface_hub", "python_multipart", "rich", "yaml"),
    *("captum", "matplotlib", "scipy"),
}
"""What the packages of the demo's extra bring."""


@pytest.mark.parametrize(
    ("installed", "modules"),
    [
        ((), ("vlm", "vlm.fusion", "vlm.inference", "vlm.cli.commands.ask")),
        ((), ("vlm.explain", "vlm.cli.commands.explain", "vlm.explain.whole_case")),
        (("demo",), ("vlm.cli.commands.demo", "vlm.demo.page", "vlm.demo.server")),
    ],
)
def test_modules_need_no_other_extra(installed: tuple[str, ...], modules: tuple[str, ...]) -> None:
    own = {name for extra in installed for name in EXTRAS[extra].split()} | FREE
    missing = {name for packages in EXTRAS.values() for name in packages.split()} - own
    missing -= OF_GRADIO if "demo" in installed else set()
    block = f"import sys; sys.modules.update(dict.fromkeys({sorted(missing)!r}))"
    code = f"{block}\nimport {', '.join(modules)}"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-2000:]
