"""Mistakes on the command line are told at once, with the name that was probably meant: where
importing torch fails, they are told all the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import vlm.core.extras
from vlm.cli.main import main

WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from vlm.cli.main import main; main()"
QUESTION = ["photo.png", "what color is it?"]
TOLD = {
    "ask": (
        ["ask", "scenes", *QUESTION, "--chioces", "a", "b"],
        "unrecognized arguments: --chioces a b. Did you mean --choices?",
    ),
    "question first": (
        ["ask", "scenes", "what color is it?", "{folder}/my.jsonl"],
        "my.jsonl: a file where the question belongs. The image comes first: vlm ask scenes",
    ),
    "question first, in pieces": (
        ["ask", "scenes", "is", "it", "red?", "{folder}/my.jsonl"],
        "vlm ask scenes {folder}/my.jsonl 'is it red?'",
    ),
    "no quotes": (
        ["ask", "scenes", "{folder}/my.jsonl", "is", "it", "red?"],
        "is: there is no such image file. Write the question in quotes.",
    ),
    "far": (["ask", "scenes", *QUESTION, "--zzz"], "unrecognized arguments: --zzz.\n"),
    "serve": (["serve", "scenes", "--poort=1"], "--poort=1. Did you mean --port?"),
    "check-data": (
        ["check-data", "own_data", "--dataset.path={folder}/my.jsnol.jsonl"],
        "my.jsnol.jsonl: there is no such file. Did you mean my.jsonl?",
    ),
    "report": (
        ["report", "scenes", "-c", "easy_vqa", "--onyl=accuracy"],
        "unrecognized arguments: --onyl=accuracy. Did you mean --only?",
    ),
    "config": (["fit", "-c", "{folder}/mine.yml"], "mine.yml'. Did you mean mine.yaml?"),
    "folder": (["fit", "-c", "{folder}"], "got the folder {folder}; expected a file, such as"),
    "browse": (
        ["browse", "easy_vqa", "--predictions", "{folder}/no.jsonl"],
        "--predictions: {folder}/no.jsonl: there is no such file",
    ),
    "long YAML": (["fit", "-c", f"{{{{x: {'y' * 400}}}}}"], "does not accept option 'x'"),
    "shipped config": (["fit", "-c", "easy_vga"], "Did you mean easy_vqa?"),
    "test": (["test", "easy_vga", "-c", "easy_vqa"], "easy_vga: there is no such folder, and no"),
    "fit": (
        ["fit", "-c", "own_data", "--dataset.path", "{folder}/nosuch.csv"],
        "dataset.path: {folder}/nosuch.csv: there is no such file.",
    ),
    "fit without -c": (["fit", "my.yaml"], "got 'my.yaml' without an option; expected `vlm fit -c"),
    "predict": (
        ["predict", "scenes", "--dataset.path", "{folder}/my.json"],
        "my.json: there is no such file. Did you mean my.jsonl?",
    ),
}


@pytest.mark.parametrize("name", TOLD)
def test_told_without_torch(name: str, tmp_path: Path) -> None:
    (tmp_path / "my.jsonl").touch()
    (tmp_path / "mine.yaml").touch()
    arguments, message = TOLD[name]
    arguments = [argument.format(folder=tmp_path) for argument in arguments]
    command = [sys.executable, "-c", WITHOUT_TORCH, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == (1 if name == "predict" else 2), ended.stderr
    assert message.format(folder=tmp_path) in ended.stderr


def test_a_model_that_comes_with_vlm_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"vlm ask: scene: .*Did you mean scenes\?"):
        main(["ask", "scene", *QUESTION])
    with pytest.raises(SystemExit, match=r"vlm ask: runs/scene: there is no such file"):
        main(["ask", "runs/scene", *QUESTION])


def test_an_export_is_not_begun_without_its_packages(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = vlm.core.extras.find_spec
    monkeypatch.setattr(
        vlm.core.extras, "find_spec", lambda name: None if name == "onnxruntime" else found(name)
    )
    monkeypatch.setitem(sys.modules, "vlm.inference", None)  # nothing is loaded
    with pytest.raises(SystemExit, match=r"vlm export: onnxruntime is not .*'vlm-vqa\[export\]'"):
        main(["export", str(run), str(tmp_path / "export")])
    assert not (tmp_path / "export").exists()
