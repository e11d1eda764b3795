"""The examples in the data sets' docstrings run on miniatures."""

from __future__ import annotations

from pathlib import Path

import pytest
from custom_files import write_photos, write_rows
from spoilt_miniatures import MINIATURES
from test_examples import mistakes

import vlm.data
import vlm.datasets

CLASSES = {name: getattr(vlm.datasets, name) for name in vlm.datasets.__all__}
CLASSES |= {name: getattr(vlm.data, name) for name in vlm.data.__all__}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder: a folder for each official set, and `my.jsonl` with `photos`."""
    folder = tmp_path_factory.mktemp("examples")
    for name, miniature in MINIATURES.items():
        root = folder / name.removesuffix(" questions")
        if " " not in root.name:
            root.mkdir()
            miniature.write(root)
    write_rows(folder / "my.jsonl", write_photos(folder, images=4))
    return folder


@pytest.mark.filterwarnings("ignore:.*Get the file again")  # the miniatures are small
@pytest.mark.parametrize("name", CLASSES)
def test_a_data_set_has_an_example_that_prints_what_it_says(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert ">>> " in CLASSES[name].__doc__.partition("Example:\n")[2]
    found = mistakes(CLASSES[name])
    assert not found, found
