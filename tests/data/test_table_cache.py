"""When a cached question table is reused, and when it must be read again."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import ROOT
from rich.console import Console

from vlm.core import terminal
from vlm.core.files import cache_folder
from vlm.datasets import GQA, Dataset
from vlm.datasets.errors import Problems, collecting
from vlm.datasets.sources import is_there, note
from vlm.datasets.table import SCHEMA, question_table, source_of
from vlm.datasets.table_cache import cached


class Lines(Dataset):
    """A data set with one question per line; counts how often it is read."""

    readings = 0

    def __init__(self, root: Path, suffix: str = "?", **kwargs) -> None:
        super().__init__(**kwargs)
        self.root, self.suffix = Path(root), suffix

    @cached
    def read(self, split: str) -> pa.Table | None:
        if split not in ("train", "test"):
            return None
        type(self).readings += 1
        path = self.root / f"{split}.txt"
        note(path)
        ending = self.suffix + ("!" if is_there(self.root / "loud") else "")
        rows = [
            {"id": f"{split}-{n}", "image": f"{n}.jpg", "question": line + ending, "answers": ["a"]}
            for n, line in enumerate(path.read_text().splitlines())
        ]
        return question_table(rows, str(path))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A separate cache folder for each test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("VLM_CACHE", str(folder))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Lines.readings = 0
    (tmp_path / "train.txt").write_text("who\nwhat\nwhere\n")
    (tmp_path / "test.txt").write_text("why\n")
    return tmp_path


def test_reading_is_shown_and_mapping_is_not(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr(terminal, "_stderr", lambda: console)
    Lines(root).read("train")
    assert "Reading train questions (Lines)" in console.file.getvalue()
    console.file = io.StringIO()
    Lines(root).read("train")
    assert console.file.getvalue() == ""
    with collecting(Problems(1)):
        Lines(root).read("train")
    assert "Reading train questions (Lines)" in console.file.getvalue()


def asked(data: Dataset, split: str = "train") -> list[str]:
    table = data.read(split)
    assert table is not None
    return table["question"].to_pylist()


def test_the_second_reading_is_a_mapped_file_with_the_same_rows(root: Path, cache: Path) -> None:
    first, second = Lines(root).read("train"), Lines(root).read("train")
    assert Lines.readings == 1
    assert first.equals(second)
    assert second.schema.equals(SCHEMA)
    assert second.schema.equals(first.schema, check_metadata=True)
    assert source_of(second) is not None
    assert len(list((cache / "tables").iterdir())) == 1

    used = pa.total_allocated_bytes()
    mapped = Lines(root).read("train")
    assert pa.total_allocated_bytes() - used < 100, mapped


def test_splits_and_arguments_have_their_own_tables(root: Path) -> None:
    assert asked(Lines(root)) == ["who?", "what?", "where?"]
    assert asked(Lines(root), "test") == ["why?"]
    assert asked(Lines(root, suffix=".")) == ["who.", "what.", "where."]
    assert Lines(root).read("predict") is None
    assert Lines.readings == 3


def test_arguments_of_loading_and_the_path_s_type_change_nothing(root: Path) -> None:
    asked(Lines(root))
    asked(Lines(str(root), "?", validation_share=0.3, seed=5))
    assert Lines.readings == 1


def test_a_subclass_has_its_own_table(root: Path) -> None:
    class Other(Lines):
        pass

    asked(Lines(root))
    asked(Other(root))
    assert (Lines.readings, Other.readings) == (1, 2)


def test_a_changed_file_is_read_anew_and_replaces_the_old_table(root: Path, cache: Path) -> None:
    asked(Lines(root))
    (root / "train.txt").write_text("who\nwhat\nwhen\nhow\n")
    assert asked(Lines(root)) == ["who?", "what?", "when?", "how?"]
    assert len(list((cache / "tables").iterdir())) == 1


def test_a_file_of_the_same_size_and_another_time_is_read_anew(root: Path) -> None:
    path = root / "train.txt"
    asked(Lines(root))
    time = path.stat().st_mtime_ns
    path.write_text("WHO\nWHAT\nWHERE\n")
    os.utime(path, ns=(time, time + 1))
    assert asked(Lines(root)) == ["WHO?", "WHAT?", "WHERE?"]


def test_a_file_that_appears_is_noticed(root: Path) -> None:
    asked(Lines(root))
    (root / "loud").touch()
    assert asked(Lines(root))[0] == "who?!"


def test_relative_paths_from_another_folder_are_other_files(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    asked(Lines(Path(".")))
    other = tmp_path_factory.mktemp("other")
    shutil.copy2(root / "train.txt", other)  # with its modification time
    monkeypatch.chdir(other)
    asked(Lines(Path(".")))
    assert Lines.readings == 2


def test_another_version_reads_anew(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked(Lines(root))
    monkeypatch.setattr("vlm.datasets.table_cache.__version__", "another")
    asked(Lines(root))
    assert Lines.readings == 2


def test_changed_code_reads_anew(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked(Lines(root))
    copy = root / "reader.py"
    shutil.copy(__file__, copy)
    monkeypatch.setattr(sys.modules[Lines.__module__], "__file__", str(copy))
    asked(Lines(root))
    assert Lines.readings == 2


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "another table"])
def test_a_broken_file_is_rebuilt(root: Path, cache: Path, damage: str) -> None:
    asked(Lines(root))
    (path,) = (cache / "tables").iterdir()
    content = path.read_bytes()
    if damage == "another table":
        with pa.ipc.new_file(str(path), pa.schema({"a": pa.int64()})) as writer:
            writer.write_table(pa.table({"a": [1]}))
    else:
        path.write_bytes({"cut": content[:-50], "empty": b"", "text": b"hello\n" * 99}[damage])
    assert asked(Lines(root)) == ["who?", "what?", "where?"]
    assert Lines.readings == 2
    asked(Lines(root))
    assert Lines.readings == 2


def test_a_folder_that_cannot_be_written_is_a_warning(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "file").touch()
    monkeypatch.setenv("VLM_CACHE", str(root / "file"))
    with pytest.warns(UserWarning, match="could not be cached there.*set VLM_CACHE"):
        assert asked(Lines(root)) == ["who?", "what?", "where?"]


def test_what_was_read_with_a_warning_is_not_kept(root: Path) -> None:
    class Warns(Lines):
        @cached
        def read(self, split: str) -> pa.Table | None:
            import warnings

            note(root)
            warnings.warn("half a file", stacklevel=1)
            return super().read(split)

    for _ in range(2):
        with pytest.warns(UserWarning, match="half a file"):
            asked(Warns(root))


def test_what_notes_no_file_is_not_kept(root: Path) -> None:
    class Blind(Lines):
        @cached
        def read(self, split: str) -> pa.Table | None:
            return question_table([{"id": "1", "image": "i", "question": str(root)}], "here")

    asked(Blind(root))
    assert not list(cache_folder().rglob("*.arrow"))


def test_an_override_without_the_decorator_is_not_cached(root: Path, cache: Path) -> None:
    class Override(Lines):
        def read(self, split: str) -> pa.Table | None:
            return question_table([{"id": "1", "image": "i", "question": "q"}], "here")

    asked(Override(root))
    assert not list(cache.rglob("*.arrow"))


def test_a_check_reads_the_files_themselves(root: Path, cache: Path) -> None:
    asked(Lines(root))
    with collecting(Problems(3)):
        asked(Lines(root))
    assert Lines.readings == 2


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_CACHE", "/somewhere")
    assert cache_folder() == Path("/somewhere")
    monkeypatch.delenv("VLM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/vlm")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache/vlm"


@pytest.mark.slow
def test_several_processes_at_once(root: Path, cache: Path) -> None:
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]);"
        "from test_table_cache import Lines;"
        "print(len(Lines(Path(sys.argv[1])).read('train')))"
    )
    command = [sys.executable, "-c", code, str(root), str(Path(__file__).parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate()[0] for process in running] == ["3\n"] * 2
    (kept,) = (cache / "tables").iterdir()
    assert kept.suffix == ".arrow"


def test_gqa_with_columns_of_its_own(root: Path) -> None:
    record = {
        "imageId": "n1",
        "question": "What is it?",
        "answer": "cat",
        "isBalanced": True,
        "entailed": [],
        "groups": {"global": "thing", "local": "l"},
        "types": {"structural": "query", "semantic": "obj", "detailed": "categoryThis"},
    }
    path = root / "questions1.2/val_balanced_questions.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"1": record}))
    first, second = GQA(root).table("validation"), GQA(root).table("validation")
    assert first.equals(second)
    assert second["valid"].null_count == 1

    choices = root / "eval/val_choices.json"
    choices.parent.mkdir()
    choices.write_text(json.dumps({"1": {"valid": ["cat"], "plausible": ["cat"]}}))
    assert GQA(root).table("validation")["valid"].to_pylist() == [["cat"]]


def test_a_data_module_with_a_mapped_table_is_pickled(root: Path) -> None:
    data = Lines(root)
    copy = pickle.loads(pickle.dumps(data))
    assert asked(copy) == asked(data)
    assert Lines.readings == 1
