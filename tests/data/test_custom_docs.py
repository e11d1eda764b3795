"""The example in docs/own_data.md runs as written."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from conftest import ROOT
from PIL import Image

from vlm.cli.main import main
from vlm.datasets.readers.rows import COLUMNS

PAGE = (ROOT / "docs/own_data.md").read_text("utf-8")
QUICK = ["--trainer.max_epochs=1", "--trainer.enable_progress_bar=false"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def commands() -> list[list[str]]:
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines]


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the page's example file, its images and the configurations."""
    (example,) = blocks("json")
    (tmp_path / "my.jsonl").write_text(example, "utf-8")
    rows = [json.loads(line) for line in example.splitlines()]
    extra = [rows[0] | {"image": "kitchen2.png"}]
    with (tmp_path / "my.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in extra)
    for row in rows + extra:
        path = tmp_path / "photos" / row["image"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 7), (len(path.name), 80, 80)).save(path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_first_two_commands(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check, fit = commands()[:2]
    with pytest.raises(SystemExit) as stopped:
        main(check[1:])
    said = capsys.readouterr().out
    assert stopped.value.code == 0, said
    assert (there / "runs/own_data/check-data/distributions.png").is_file()
    main([*fit[1:], *QUICK])
    (run,) = (there / "runs/own_data").glob("*/test.json")
    predict = next(c for c in commands() if c[:2] == ["vlm", "predict"])
    new = there / predict[-1]
    new.write_text(json.dumps({"image": "photos/kitchen.png", "question": "what is it?"}))
    arguments = [a.replace("RUN", str(run.parent)) for a in predict[1:]]
    main([*arguments, "--dataset.images=."])
    assert list((there / "runs/own_data").glob("*-predict/predictions.jsonl"))


def test_the_other_commands_parse(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rest = [c for c in commands()[2:] if c[:2] == ["vlm", "fit"]]
    assert len(rest) == 2
    (there / "my.csv").touch()
    for command in rest:
        with pytest.raises(SystemExit) as stopped:
            main([*command[1:], "--print_config"])
        assert stopped.value.code == 0
        printed = capsys.readouterr().out
        for value in ("answer: label", "resnet50"):
            assert (value in " ".join(command)) == (value in printed)


def test_every_column_is_documented() -> None:
    rows = re.findall(r"^\|([^|]*)\|", PAGE, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} >= set(COLUMNS)
