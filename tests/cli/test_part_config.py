"""What the command line asks a part's class before building the part."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlm.cli.part_config import answer_kind, takes


def test_a_class_may_have_the_name_of_its_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "namesake"
    package.mkdir()
    (package / "__init__.py").write_text("from namesake.Own import Own\n")
    (package / "Own.py").write_text("import vlm\nclass Own(vlm.heads.Classification):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    head = {"class_path": "namesake.Own", "init_args": {}}
    assert takes(head, "answers")
    assert not takes(head, "words")
    assert answer_kind(head) == "vocabulary"
