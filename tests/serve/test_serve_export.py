"""An export is loaded, asked and served as its model is."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from serving import QUESTION, picture, serving

import vlm
from vlm.cli.main import main
from vlm.export import Exported, ExportError, export

pytest.importorskip("prometheus_client", reason="install it with `pip install 'vlm-vqa[serve]'`")


@pytest.fixture(scope="module")
def folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(vlm.load(run), tmp_path_factory.mktemp("exports") / "model")


def test_load_takes_an_export(run: Path, data: Path, folder: Path) -> None:
    vqa, exported = vlm.load(run), vlm.load(folder)
    assert isinstance(exported, Exported)
    assert exported.kind == vqa.kind == "vocabulary"
    paths = sorted((data / "test/images").iterdir())[:3]
    seen = exported.see(paths)
    own = vqa.answer(paths, [QUESTION] * 3)
    for answers in (exported.answer(paths, [QUESTION] * 3), exported.answer(seen, [QUESTION] * 3)):
        assert [answer.text for answer in answers] == [answer.text for answer in own]
    assert seen[1].nbytes == exported.see(paths[1]).nbytes > 0
    assert exported.see([]) == []
    other = replace(seen[0], digest="of another model")
    with pytest.raises(ValueError, match="images that another model has seen"):
        exported.answer(other, QUESTION)
    with pytest.raises(ExportError, match=r"device: got cuda for the export .*; expected cpu"):
        vlm.load(folder, "cuda")
    with pytest.raises(ValueError, match="revision: got 'main'"):
        vlm.load(folder, revision="main")


def test_ask_takes_an_export(
    run: Path, data: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = []
    for model in (run, folder):
        main(["ask", str(model), str(data / "test/images/0.png"), QUESTION, "--top=1"])
        printed.append(capsys.readouterr())
    assert printed[0] == printed[1]
    assert "calibrated on" in printed[1].err


def test_predict_takes_an_export(run: Path, data: Path, folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "questions.csv"
    rows = [f"{number}.png,{QUESTION}" for number in range(6)]
    table.write_text("\n".join(["image,question", *rows, ""]))
    found = []
    for model in (run, folder):
        output = tmp_path / f"{len(found)}.jsonl"
        options = [f"--dataset.path={table}", f"--dataset.images={data / 'test/images'}"]
        main(["predict", str(model), *options, f"--output={output}", "--batch=4"])
        found.append([json.loads(line) for line in output.read_text().splitlines()])
    assert len(found[0]) == 6
    for own, other in zip(*found, strict=True):
        assert own["prediction"] == other["prediction"]
        assert own["probability"] == pytest.approx(other["probability"], abs=1e-5)


def test_other_commands_say_that_they_take_none(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"has no checkpoints/best\.ckpt; expected a run's folder"):
        main(["share", str(folder), str(tmp_path / "shared")])


def test_serve_takes_an_export(run: Path, folder: Path, tmp_path: Path) -> None:
    images = [picture(number) for number in range(24)]
    vqa = vlm.load(run)
    with serving(folder, tmp_path) as server:
        with ThreadPoolExecutor(8) as pool:
            found = [reply.json() for reply in pool.map(server.ask, images * 2)]
        assert server.metric('vlm_images_total{source="cache"}') > 0
        refused = server.ask(images[0], choices=["red", "blue"])
    for content, said in zip(images * 2, found, strict=True):
        own = vqa.answer(content, QUESTION)
        assert said["answer"] == own.text
        assert said["probability"] == pytest.approx(own.probability, abs=1e-5)
        assert said["calibrated"]
    assert refused.status_code == 422
    assert "this model does not choose" in refused.text
