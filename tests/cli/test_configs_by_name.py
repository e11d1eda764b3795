"""Shipped configurations by their names, and commands whose packages are not installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from vlm.cli.configs import with_configs
from vlm.cli.main import main
from vlm.core import extras
from vlm.core.bundled import configs_folder
from vlm.core.extras import EXTRAS, missing_extra

CONFIGS = ROOT / "configs"


@pytest.mark.parametrize(
    ("command", "given", "expected"),
    [
        ("fit", ["-c", "easy_vqa"], ["-c", f"{CONFIGS}/easy_vqa.yaml"]),
        ("fit", ["--config=compare/daquar"], [f"--config={CONFIGS}/compare/daquar.yaml"]),
        ("check-data", ["own_data", "x"], [f"{CONFIGS}/own_data.yaml", "x"]),
        (
            "fit",
            ["--dataset=configs/datasets/gqa.yaml", "--run.name=easy_vqa"],
            [f"--dataset={CONFIGS}/datasets/gqa.yaml", "--run.name=easy_vqa"],
        ),
        ("ask", ["easy_vqa", "a=b.png", "is it?"], ["easy_vqa", "a=b.png", "is it?"]),
        ("fit", ["-c", "nothing"], ["-c", "nothing"]),
        ("fit", ["-c", "a" * 5000, "\0"], ["-c", "a" * 5000, "\0"]),
        ("ask", ["configs/" + "?" * 5000], ["configs/" + "?" * 5000]),
        ("fit", ["-c", "../configs/easy_vqa"], ["-c", "../configs/easy_vqa"]),
    ],
)
def test_names_become_paths(
    command: str,
    given: list[str],
    expected: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert configs_folder() == CONFIGS
    assert with_configs(command, given) == expected


def test_a_file_of_one_s_own_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("easy_vqa").write_text("trainer: {}")
    assert with_configs("fit", ["-c", "easy_vqa"]) == ["-c", "easy_vqa"]


def test_every_import_from_outside_is_the_base_s_or_an_extra_s() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {*EXTRAS} <= {*project["optional-dependencies"]}
    base = {text.partition(">")[0] for text in project["dependencies"]}
    assert base == {"einops", "numpy", "pillow", "regex", "safetensors", "torch"}
    assert missing_extra(ModuleNotFoundError(name="numpy.linalg")) is None
    found = missing_extra(ModuleNotFoundError(name="lightning.pytorch"))
    assert found == "lightning is not installed; run `pip install 'vlm-vqa[train]'`."
    found = missing_extra(ModuleNotFoundError(name="fastapi"))
    assert found == "fastapi is not installed; run `pip install 'vlm-vqa[serve]'`."


def test_the_extra_of_a_command_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ModuleNotFoundError(name="yaml")
    assert "'vlm-vqa[train]'" in str(missing_extra(error, "export"))  # onnx is there
    monkeypatch.setattr("vlm.core.extras.find_spec", lambda name: None)
    assert "'vlm-vqa[train,export]'" in str(missing_extra(error, "export"))
    assert "'vlm-vqa[train]'" in str(missing_extra(error, "fit"))


def test_commands_quote_the_brackets_of_an_extra() -> None:
    """In zsh, the shell of macOS, they are a pattern otherwise, and the command fails."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "vlm").rglob("*.py")]
    unquoted = [page for page in pages if re.search(r"pip install [\w.-]+\[", page.read_text())]
    assert not unquoted


@pytest.mark.parametrize("name", EXTRAS["serve"].split())
def test_serve_names_what_is_missing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda asked: None if asked == name else extras)
    with pytest.raises(SystemExit, match=rf"{name} is not installed; run .*vlm-vqa\[serve\]"):
        main(["serve", "any"])


def blocked(code: str) -> subprocess.CompletedProcess[str]:
    """Python without the packages of any extra."""
    names = [name for packages in EXTRAS.values() for name in packages.split()]
    block = (
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "class Missing(PathFinder):\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {names!r}:\n"
        "            return None\n"
        "        return super().find_spec(name, path, target)\n"
        "sys.meta_path[:] = [Missing if f is PathFinder else f for f in sys.meta_path]\n"
    )
    command = [sys.executable, "-c", block + code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_base_has_fusions_heads_models_and_answers(run: Path, data: Path) -> None:
    model, image = str(run), str(data / "test/images/0.png")
    code = f"print(vlm.load({model!r}).answer({image!r}, 'is it red?').text)"
    ended = blocked(f"import vlm, vlm.fusion, vlm.testing, vlm.export.write; {code}")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() in ("yes", "no", "red", "green", "blue")


@pytest.mark.parametrize(
    ("code", "package", "extra"),
    [
        ("from vlm.cli.main import main; main(['fit', '-c', 'easy_vqa'])", "yaml", "train"),
        ("import vlm; vlm.fit", "lightning", "train"),
        (
            "from vlm.cli.main import main; main(['evaluate', 'x', '-c', 'easy_vqa'])",
            "rich",
            "train",
        ),
    ],
)
def test_what_is_missing_is_named(code: str, package: str, extra: str) -> None:
    ended = blocked(code)
    assert ended.returncode == 1
    assert f"pip install 'vlm-vqa[{extra}]'" in ended.stderr.splitlines()[-1], package


def test_init_writes_no_bytecode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlm.cli.commands import init

    installed = shutil.copytree(init.PROJECT, tmp_path / "installed", dirs_exist_ok=True)
    (installed / "__pycache__").mkdir(exist_ok=True)
    monkeypatch.setattr(init, "PROJECT", installed)
    main(["init", str(tmp_path / "new")])
    assert (tmp_path / "new/my_fusion.py").is_file()
    assert not (tmp_path / "new/__pycache__").exists()


def test_a_new_project_reads_its_own_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["init", str(tmp_path / "new")])
    assert "python -m vlm fit -c config.yaml" in capsys.readouterr().out
    config = yaml.safe_load((tmp_path / "new/config.yaml").read_text())
    assert config["model"]["fusion"]["class_path"] == "my_fusion.MyFusion"
    lines = (tmp_path / "new/questions.jsonl").read_text().splitlines()
    assert len(lines) == 3 * len(list((tmp_path / "new/images").iterdir())) > 100
    with pytest.raises(SystemExit, match="new: not empty"):
        main(["init", str(tmp_path / "new")])


def test_a_new_project_s_fusion_keeps_the_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlm.testing import check_fusion

    main(["init", str(tmp_path / "new")])
    monkeypatch.syspath_prepend(tmp_path / "new")
    from my_fusion import MyFusion  # type: ignore[import-not-found]  # just written

    check_fusion(MyFusion(13, 11, out_dim=17))


@pytest.mark.slow
def test_a_new_project_trains(tmp_path: Path) -> None:
    main(["init", str(tmp_path / "new")])
    command = [sys.executable, "-m", "vlm", "fit", "-c", "config.yaml", "--trainer.max_epochs=1"]
    subprocess.run(command, cwd=tmp_path / "new", check=True, capture_output=True)
    assert list((tmp_path / "new/runs/my_project").glob("*/checkpoints/best.ckpt"))
