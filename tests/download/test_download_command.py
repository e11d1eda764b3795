"""`vlm download`: terms, files, and what is said of sets that it cannot get."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from download.file_server import FileServer, serving
from download.test_unpack import pack

import vlm.datasets
from vlm.cli.main import main
from vlm.datasets.download.known import KNOWN, File, Known


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A set of a file, an archive, and an archive of images."""
    with serving() as files:
        packed = pack(tmp_path / "q.zip", {"CLEVR_v1.0/questions/a.json": b"[]"}).read_bytes()
        images = pack(tmp_path / "i.tar", {"images/a.png": b"png"}).read_bytes()
        files.files = {"/read.me": b"hello", "/q.zip": packed, "/i.tar": images}
        made = [
            File(
                files.address + path,
                hashlib.sha256(content).hexdigest(),
                len(content) if path == "/q.zip" else None,
                strip="CLEVR_v1.0" if path == "/q.zip" else "",
                images=path == "/i.tar",
            )
            for path, content in files.files.items()
        ]
        monkeypatch.setitem(KNOWN, "clevr", Known("Be kind.", "this test", tuple(made)))
        yield files


def ended(*arguments: str) -> object:
    with pytest.raises(SystemExit) as left:
        main(["download", *arguments])
    return left.value.code


def test_a_set_lies_where_its_configuration_looks(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["download", "clevr", "--to", str(tmp_path / "data"), "--no-images", "--yes"])
    printed = capsys.readouterr().out
    assert printed.index("Be kind.") < printed.index("/q.zip")
    folder = tmp_path / "data/CLEVR_v1.0"
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert there == {"read.me", "questions/a.json", "downloaded.json"}
    server.asked = []
    main(["download", "clevr", "--to", str(tmp_path / "data"), "--yes"])
    assert [path for path, _ in server.asked] == ["/i.tar"], "what is there is not fetched again"
    assert (folder / "images/a.png").read_bytes() == b"png"
    main(["download", "clevr", "--to", str(tmp_path / "data")])
    assert "all 3 files are there" in capsys.readouterr().out
    for lost in ("read.me", "images/a.png"):
        (folder / lost).unlink()
        server.asked = []
        main(["download", "clevr", "--to", str(tmp_path / "data"), "--yes"])
        assert len(server.asked) == 1, "only the file that is lost, or its archive"
        assert (folder / lost).is_file()


def test_a_download_that_goes_on_needs_room_for_the_rest_only(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(
        "vlm.datasets.download.get.check_space", lambda folder, needed, what: asked.append(needed)
    )
    folder = tmp_path / "data/CLEVR_v1.0"
    folder.mkdir(parents=True)
    whole = server.files["/q.zip"]
    (folder / "q.zip.part").write_bytes(whole[:40])  # of unknown origin: fetched again after all
    main(["download", "clevr", "--to", str(tmp_path / "data"), "--yes"])
    assert asked == [len(whole) - 40]


def test_nothing_is_fetched_without_consent(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--yes is needed" in str(ended("clevr", "--to", str(tmp_path / "data")))
    assert "Be kind." in capsys.readouterr().out
    assert not server.asked
    assert not (tmp_path / "data").exists()


def test_a_file_that_is_gone_ends_in_one_line(server: FileServer, tmp_path: Path) -> None:
    del server.files["/q.zip"]
    said = str(ended("clevr", "--to", str(tmp_path), "--yes"))
    assert said.startswith("vlm download: http")
    assert "the server answers 404" in said


def test_sets_that_are_got_by_hand_and_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended("gqa") == 1
    assert "https://cs.stanford.edu/people/dorarad/gqa/" in capsys.readouterr().out
    assert ended("scenes") == 1
    assert "needs no download" in capsys.readouterr().out
    assert "extra `train`" in str(ended("easy_vqa"))
    assert ended("vqa") == 2
    assert "there is no data set 'vqa'" in capsys.readouterr().err
    assert ended("../easy_vqa") == 2


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_known_is_complete(name: str) -> None:
    known = KNOWN[name]
    config = yaml.safe_load((ROOT / f"configs/datasets/{name}.yaml").read_text())
    dataset = getattr(vlm.datasets, config["class_path"].rpartition(".")[2])
    assert f"vlm download {name} --to" in dataset.get, "the error of a missing file names it"
    for file in known.files:
        assert re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert file.url.startswith("http")
    assert known.terms
    assert known.verified
    assert f"`{name}`" in (ROOT / "docs/downloads.md").read_text()


def test_a_missing_file_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="vlm download clevr --to"):
        vlm.datasets.CLEVR(tmp_path).table("train")
