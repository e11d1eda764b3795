"""`vlm doctor`: it reports, and names problems with their remedies."""

from __future__ import annotations

import shutil
from collections import namedtuple
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from vlm.cli.commands import doctor
from vlm.cli.main import main
from vlm.core.extras import EXTRAS

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def _a_healthy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = Usage(10**12, 0, 10**12)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(doctor, "_unwritable", lambda _: "")
    monkeypatch.setattr(doctor, "_unfit", lambda: iter(()))


def report(capsys: pytest.CaptureFixture[str], *options: str, code: int = 0) -> str:
    if code:
        with pytest.raises(SystemExit) as ended:
            main(["doctor", *options])
        assert ended.value.code == code
    else:
        main(["doctor", *options])
    return capsys.readouterr().out


def test_a_healthy_machine(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLM_CACHE", str(tmp_path))
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/file").write_bytes(bytes(12_300_000))
    printed = report(capsys)
    assert f"vlm cache     12.3 MB in {tmp_path}" in printed
    assert metadata.version("torch") in printed
    assert "No problems found." in printed
    assert "network" not in printed
    assert all(f"\n  {extra:<14}" in printed for extra in EXTRAS)


def test_missing_extras_have_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "captum" else name)
    printed = report(capsys)
    assert "missing captum: `pip install 'vlm-vqa[explain]'`" in printed
    assert "installed, for vlm tune" in printed


def test_each_extra_has_a_purpose() -> None:
    assert doctor.PURPOSES.keys() == EXTRAS.keys()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("torch.get_num_threads", lambda: 10_000, "set OMP_NUM_THREADS="),
        ("shutil.disk_usage", lambda _: Usage(10**9, 0, 10**6), "has 1.0 MB free"),
        ("shutil.disk_usage", lambda _: Usage(64 * 10**6, 0, 10**12), "--shm-size=1g"),
        ("vlm.cli.commands.doctor._unwritable", lambda f: f"{f} cannot be written", "be written"),
        (
            "vlm.cli.commands.doctor._unfit",
            lambda: iter([("lightning", "9.0", "<2.7")]),
            "pip install 'lightning<2.7'",
        ),
    ],
)
def test_problems_have_remedies(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: Any,
    expected: str,
) -> None:
    monkeypatch.setattr(name, value)
    printed = report(capsys, code=1)
    assert expected in printed.partition("Problems:")[2]


def test_the_hub_is_asked_only_on_request(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(
        "vlm.pretrained.availability._obstacle", lambda: asked.append(1) or "it is asleep"
    )
    report(capsys)
    assert asked == []
    said = report(capsys, "--online", code=1)
    assert "No model can be fetched from the hub: it is asleep." in said
    monkeypatch.setattr("vlm.pretrained.availability._obstacle", lambda: None)
    assert "hub           answers" in report(capsys, "--online")


def test_versions_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real `_unfit`
    assert list(doctor._unfit()) == []
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda n: "0.1" if n == "einops" else real(n))
    assert list(doctor._unfit()) == [("einops", "0.1", ">=0.8")]
