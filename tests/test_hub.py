"""Models go to the hub and come from it, as a stranger's folder does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from demo_server import untrained
from held_encoder import Held
from hub_folders import vilt_folder
from hub_server import Hub, hub_server

import vlm
from vlm.checkpoint.checkpoint import CheckpointError
from vlm.checkpoint.publishing import RunRecord, model_card
from vlm.checkpoint.sharing import CONFIG, WEIGHTS
from vlm.cli.main import main
from vlm.core.calibration import Calibration
from vlm.model import VQAModel
from vlm.pretrained.availability import FetchError

QUESTION = "what color is it?"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub_server() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        template = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        yield hub


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def shared(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "model"
    main(["share", str(run), str(folder)])
    return folder


def test_a_run_goes_to_the_hub_and_answers_from_there(
    run: Path, data: Path, tmp_path: Path
) -> None:
    """By the commands, in processes of their own, as HF_ENDPOINT is read once."""
    asked = [str(data / "test/images/0.png"), QUESTION]
    with hub_server() as hub:
        environment = os.environ | {
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(tmp_path),
            "HF_TOKEN": Hub.token,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }

        def vlm_(*arguments: str) -> str:
            done = subprocess.run(
                [sys.executable, "-m", "vlm", *arguments],
                env=environment, capture_output=True, text=True, check=True,
            )  # fmt: skip
            return done.stdout

        said = vlm_("share", str(run), "hf:me/colors")
        assert f"{hub.address}/me/colors/commit/" in said
        (files,) = hub.commits["me/colors"].values()
        assert {*files} == {"README.md", CONFIG, WEIGHTS}
        answers = vlm_("ask", "hf:me/colors", *asked)
    assert answers == vlm_("ask", str(run), *asked)
    assert answers == vlm_("ask", "hf:me/colors", *asked), "from the cache, without the hub"


def test_the_card_says_what_was_measured(run: Path, shared: Path) -> None:
    card = (shared / "README.md").read_text()
    _, head, text = card.split("---\n", 2)
    assert yaml.safe_load(head)["pipeline_tag"] == "visual-question-answering"
    row = json.loads((run / "test.json").read_text())["results"][0]
    shares = [f"{100 * row[key]:.2f}" for key in ("accuracy", "low", "high")]
    assert f"| overall | {row['questions']} | {shares[0]} | {shares[1]} - {shares[2]} |" in text
    assert "`vlm.datasets.EasyVQA`" in text
    assert "trainer.max_epochs | `12`" in text
    assert "5 answers" in text
    assert f"were {vlm.load(run).calibration.about}" in text
    assert str(run.parent) not in card
    assert "](http" not in card


def test_results_of_another_state_of_the_run_are_left_out(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = shutil.copytree(run, tmp_path / "run")
    results = json.loads((copied / "test.json").read_text())
    results["about"]["seconds"] += 1
    (copied / "test.json").write_text(json.dumps(results))
    main(["share", str(copied), str(tmp_path / "model")])
    assert "test.json is of another state of this run" in capsys.readouterr().err
    assert "no test report" in (tmp_path / "model/README.md").read_text()
    assert "results" not in vlm.load(tmp_path / "model").about


def test_the_card_says_whether_probabilities_are_calibrated(shared: Path) -> None:
    vqa = vlm.load(shared)
    calibration = {"method": "platt", "scale": 2.0, "questions": 1884, "thresholds": []}
    about = {key: value for key, value in vqa.about.items() if key != "calibration"}
    assert "not calibrated" in model_card(vqa.model, about, RunRecord(), "my_model", "")
    text = model_card(vqa.model, about | {"calibration": calibration}, RunRecord(), "my_model", "")
    assert "calibrated on 1,884 validation questions (platt)" in text
    assert "not calibrated" not in text


def test_a_model_that_is_shared_again_keeps_its_results(shared: Path, tmp_path: Path) -> None:
    main(["share", str(shared), str(tmp_path / "shared")])
    first, second = (folder / "README.md" for folder in (shared, tmp_path / "shared"))
    results, again = (
        card.read_text().partition("## Results")[2].partition("## Trust")[0]
        for card in (first, second)
    )
    assert "Intervals are over" in results
    assert results == again


def test_a_card_shows_texts_of_a_stranger_as_text(shared: Path) -> None:
    vqa = vlm.load(shared)
    rows = [dict(row) for row in vqa.about["results"]]
    rows[0]["type"] = "all | 1 |\n\n## Verified\n\n<script> [free](http://evil) `x`"
    rows[0]["over"] = "images.\n\n![x](http://evil/track.png)"
    card = model_card(vqa.model, vqa.about | {"results": rows}, RunRecord(), "my_model", "")
    text = card.partition("## Results")[2].partition("## Trust")[0]
    assert "\n## " not in text
    for mark in "<[!":
        assert text.count(mark) == text.count(f"\\{mark}")
    assert "http:" not in text


def test_a_model_without_a_test_says_so(shared: Path) -> None:
    vqa = vlm.load(shared)
    about = {key: value for key, value in vqa.about.items() if key != "results"}
    assert "no test report" in model_card(vqa.model, about, RunRecord(), "my_model", "")


def test_the_card_is_true_of_other_models_too(shared: Path, tmp_path: Path) -> None:
    vqa = vlm.load(shared)
    about = {**vqa.about, "calibration": asdict(Calibration("temperature", 2.0, questions=1500))}
    card = model_card(vqa.model, about, RunRecord(), "hf:me/colors", "")
    assert "were calibrated on 1,500 validation questions (temperature)" in card
    assert "not calibrated" not in card
    assert "runs no code" in card
    other = untrained()
    held = Held(str(tmp_path / "hold"))
    strange = VQAModel(held, other.text_encoder, other.fusion, other.head)
    card = model_card(strange, about, RunRecord(), "hf:me/colors", "")
    assert 'vlm.load("hf:me/colors", trust=True)' in card
    assert "vlm ask --trust hf:me/colors" in card
    assert "runs no code" not in card
    main(["share", str(vilt_folder(tmp_path / "vilt")), str(tmp_path / "again")])
    card = (tmp_path / "again/README.md").read_text()
    assert "Not by vlm: it was converted from `vilt`" in card
    assert str(tmp_path) not in card + (tmp_path / "again/config.json").read_text()
    assert "vlm fit" not in card


def test_the_card_has_the_command_and_the_trust_report(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    settings = copy / "config.yaml"
    command = "vlm fit -c configs/easy_vqa.yaml --dataset.root=/home/me/data -c 'a: {b: ~/x/y.z}'"
    assert settings.read_text().startswith("# vlm fit ")
    settings.write_text(f"# {command}\n" + settings.read_text().partition("\n")[2])
    main(["report", str(copy), "--only", "calibration", "selective"])
    main(["share", str(copy), str(tmp_path / "shared")])
    card = (tmp_path / "shared/README.md").read_text()
    public = "vlm fit -c configs/easy_vqa.yaml --dataset.root=data -c 'a: {b: y.z}'"
    assert f"```bash\n{public}\n```" in card
    report = json.loads((copy / "report/report.json").read_text())
    rows = report["sections"]["calibration"]["table"]
    assert f"### Calibration\n\n| {' | '.join(rows[0])} |\n| --- |" in card
    assert f"| {' | '.join(rows[1])} |" in card
    assert "certified for risk" in card
    report["about"]["digest"] = "another"
    (copy / "report/report.json").write_text(json.dumps(report))
    main(["share", str(copy), str(tmp_path / "again")])
    assert "changed since its trust report" in (tmp_path / "again/README.md").read_text()
    (copy / "report/report.json").write_text('{"about": 1}')
    with pytest.raises(SystemExit, match=r"report\.json: not a report of vlm"):
        main(["share", str(copy), str(tmp_path / "third")])


def test_a_revision_is_that_of_the_hub(hub: Hub, shared: Path, data: Path) -> None:
    first = hub.commit("me/colors", files_of(shared))
    second = hub.commit("me/colors", {CONFIG: b"{}"})
    assert first != second
    image = data / "test/images/0.png"
    answer = vlm.load("hf:me/colors", revision=first).answer(image, QUESTION)
    assert answer == vlm.load(shared).answer(image, QUESTION)
    with pytest.raises(CheckpointError, match="not a model of vlm"):
        vlm.load("hf:me/colors")
    with pytest.raises(FetchError, match="me/colors: the model could not be loaded"):
        vlm.load("hf:me/colors", revision="nosuch")
    with pytest.raises(FetchError, match="me/nosuch"):
        vlm.load("hf:me/nosuch")
    with pytest.raises(ValueError, match="revision: got 'main' for"):
        vlm.load(shared, revision="main")


def test_the_repository_says_what_kind_of_model_it_is(hub: Hub, tmp_path: Path) -> None:
    folder = vilt_folder(tmp_path / "vilt")
    hub.commit("them/vilt", {**files_of(folder), "code.py": b"raise SystemExit"})
    vqa = vlm.load("hf:them/vilt")
    assert vqa.about["run"] == "them/vilt"
    assert type(vqa.model.fusion).__name__ == "ViltFusion"
    fetched = {path.rpartition("/")[2] for method, path in hub.asked if method == "GET"}
    assert fetched == {CONFIG, "preprocessor_config.json", "tokenizer.json", WEIGHTS}


def test_a_stranger_s_repository_is_as_guarded_as_a_folder(
    hub: Hub, shared: Path, data: Path
) -> None:
    config = json.loads((shared / CONFIG).read_text())
    config["model"]["fusion"]["class_path"] = "subprocess.Popen"
    hub.commit("evil/code", {**files_of(shared), CONFIG: json.dumps(config).encode()})
    with pytest.raises(CheckpointError, match=r"subprocess\.Popen is not a class of vlm"):
        vlm.load("hf:evil/code")
    weights = (shared / WEIGHTS).read_bytes()
    hub.commit("evil/damaged", {**files_of(shared), WEIGHTS: weights[:-1] + b"x"})
    with pytest.raises(CheckpointError, match="checksum differs"):
        vlm.load("hf:evil/damaged")


def test_every_command_takes_a_model_of_the_hub(
    hub: Hub, shared: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.commit("me/colors", files_of(shared))
    folder = vilt_folder(tmp_path / "vilt")
    hub.commit("them/vilt", files_of(folder))
    config = str(ROOT / "configs/easy_vqa.yaml")
    for name in ("me/colors", "them/vilt"):
        main([
            *("test", f"hf:{name}", "-c", config, f"--dataset.root={data}"),
            *(f"--run.folder={tmp_path / name}", "--trainer.enable_progress_bar=false"),
        ])  # fmt: skip
        assert len(list((tmp_path / name).glob("*/*/test.json"))) == 1
    image = str(data / "test/images/0.png")
    explained = tmp_path / "why.png"
    main(["explain", "hf:me/colors", image, QUESTION, f"--output={explained}"])
    assert explained.is_file()
    main(["share", "hf:me/colors", str(tmp_path / "again")])
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (shared / WEIGHTS).read_bytes()
    hub.commit("me/damaged", {CONFIG: b"{"})
    for name, words in (("me/nosuch", "me/nosuch"), ("a b", "a b"), ("me/damaged", "not JSON")):
        with pytest.raises(SystemExit) as ended:
            main(["test", f"hf:{name}", "-c", config])
        assert ended.value.code == 2
        assert words in capsys.readouterr().err


def test_a_refused_upload_is_a_sentence(
    hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.hf_api.get_token", lambda: None, raising=False)
    with pytest.raises(SystemExit, match=r"vlm share: me/colors: the repository .*hf auth login"):
        main(["share", str(run), "hf:me/colors"])
    with pytest.raises(SystemExit, match=r"vlm share: .*a b"):
        main(["share", str(run), "hf:a b"])
    with pytest.raises(SystemExit):
        main(["share", str(run), "folder", "--private"])
