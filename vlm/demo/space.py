"""A demo as a Space: a folder that Hugging Face runs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from vlm.adapters.image_text_to_text import ImageTextToText
from vlm.checkpoint.checkpoint import packages_of
from vlm.core.version import __version__
from vlm.inference import VQA

SITE = "https://huggingface.co"
"""The site whose pages show Spaces in a frame."""
APP = '''\
"""The page of this Space: `vlm demo`, open to everybody."""

import os

from vlm.cli.main import main

host = os.environ.get("SPACE_HOST", "localhost")  # which Hugging Face sets
main(["demo", {arguments}, "--host=0.0.0.0", "--port=7860", "--public", f"--allow-host={{host}}"])
'''
CARD = """\
---
title: {title}
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
---

Ask about images. Made with `vlm demo --space`; the page and its limits are those of `vlm demo`.
"""


def write_space(models: Mapping[str, VQA | ImageTextToText], folder: Path) -> list[str]:
    """Write a Space with these models, by the names that the page shows.

    Args:
        models: to be asked.
        folder: new or empty.

    Returns:
        The packages beside vlm that have parts of the models, which the Space needs too.

    Raises:
        ValueError: the folder is not empty, or a model cannot be written.
    """
    import gradio

    parts = {title: vqa for title, vqa in models.items() if isinstance(vqa, VQA)}
    if others := sorted(set(models) - set(parts)):
        raise ValueError(f"--space: {others[0]} is asked as it is; expected parts of vlm.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"--space: {folder} is not empty; expected a new or empty folder.")
    folder.mkdir(parents=True, exist_ok=True)
    # The page calls a model as its folder. A name is no option and no path.
    names: list[str] = []
    for title in parts:
        name = re.sub(r"\W+", "-", title).strip("-") or "model"
        names.append(name if name not in names else f"{name}-{len(names) + 1}")
    for name, vqa in zip(names, parts.values(), strict=True):
        vqa.save(folder / name)
    packages = set().union(*(packages_of(vqa.model.config) for vqa in parts.values()))
    arguments = [*names, "--trust"] if packages else names  # the author trusts these models
    listed = ", ".join(f'"{argument}"' for argument in arguments)
    title = json.dumps(", ".join(models), ensure_ascii=False)  # a text of YAML, too
    files = {
        "app.py": APP.format(arguments=listed),
        "README.md": CARD.format(title=title, gradio=gradio.__version__),
        "requirements.txt": f"vlm-vqa[demo]=={__version__}\n",
    }
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    return sorted(packages)
