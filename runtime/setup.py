"""Copies the library's modules that the runtime needs, none of which needs torch, into its wheel.

So there is one code that reads questions and images, and no second one to keep equal to it. In
the wheel `vlm.X` is `vlm_runtime.library.X`, and the two distributions never share a file.
"""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
LIBRARY = HERE.parent / "vlm"
_IMPORT = re.compile(r"^(\s*)from vlm\.", re.MULTILINE)


def needed() -> list[Path]:
    """The library's modules that those of the runtime import, and what these import."""
    found: list[Path] = []
    waiting = sorted((HERE / "vlm_runtime").glob("*.py"))
    while waiting:
        for node in ast.walk(ast.parse(waiting.pop().read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vlm."):
                module = LIBRARY.joinpath(*str(node.module).split(".")[1:]).with_suffix(".py")
                if module not in found:
                    found.append(module)
                    waiting.append(module)
    return sorted(found)


class BuildWithLibrary(build_py):
    """`build_py`, and the copies."""

    def run(self) -> None:
        if not LIBRARY.is_dir():
            raise SystemExit("Build in a clone of vlm: python -m build --wheel runtime")
        package = Path(self.build_lib) / "vlm_runtime"
        shutil.rmtree(package, ignore_errors=True)  # an earlier build may have other modules
        super().run()
        for module in needed():
            path = package / "library" / module.relative_to(LIBRARY)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(module.read_bytes())
            (path.parent / "__init__.py").touch()
        (package / "library" / "__init__.py").touch()
        for path in package.rglob("*.py"):
            source = path.read_text(encoding="utf-8")
            path.write_text(_IMPORT.sub(r"\1from vlm_runtime.library.", source), encoding="utf-8")
        for name in ("LICENSE", "NOTICE"):
            (package / name).write_bytes((LIBRARY.parent / name).read_bytes())


if __name__ == "__main__":
    version = re.search(r'= "(.+)"', (LIBRARY / "core/version.py").read_text(encoding="utf-8"))
    assert version is not None
    setup(version=version[1], cmdclass={"build_py": BuildWithLibrary})
