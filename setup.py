"""Puts the configurations, which stay in `configs/`, into the wheel as `vlm/configs`."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CONFIGS = Path(__file__).parent / "configs"


class BuildWithConfigs(build_py):
    """`build_py`, and the configurations."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # which reads them where they are
            target = Path(self.build_lib) / "vlm/configs"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(CONFIGS, target)


if __name__ == "__main__":
    setup(cmdclass={"build_py": BuildWithConfigs})
