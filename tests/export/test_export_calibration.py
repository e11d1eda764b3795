"""A calibrated model's export has its probabilities and its thresholds, and takes no others."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from export_models import QUESTIONS, make_vqa
from test_export import images, same

import vlm
from vlm.core.calibration import Calibration
from vlm.export import Exported, ExportError, export, measure_parity
from vlm.export.manifest import write_manifest
from vlm.heads import Classification, Generation, MultipleChoice, TransformerDecoder


def stored(method: str = "temperature", **more: Any) -> dict[str, Any]:
    return {"method": method, "scale": 0.4, "thresholds": [], **more}


def calibrated(vqa: vlm.VQA, **more: Any) -> vlm.VQA:
    return vlm.VQA(vqa.model, {"calibration": stored(**more)})


@pytest.fixture(scope="module")
def folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(vlm.load(run), tmp_path_factory.mktemp("exports") / "model")


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def rewrite(folder: Path, calibration: object, signed: bool = True) -> None:
    """Another calibration in the manifest, with the digest of it if `signed`."""
    manifest = folder / "manifest.json"
    about = json.loads(manifest.read_bytes()) | {"calibration": calibration}
    if signed:
        write_manifest(folder, about)
    else:
        manifest.write_text(json.dumps(about))


def test_a_calibrated_run_s_probabilities(run: Path, data: Path, folder: Path) -> None:
    vqa, exported = vlm.load(run), Exported(folder)
    assert exported.calibration == vqa.calibration is not None
    bare = vlm.VQA(vqa.model)
    for number in range(3):
        image = data / f"test/images/{number}.png"
        own = vqa.answer(image, QUESTIONS)
        same(own, said := exported.answer(image, QUESTIONS))
        assert all(answer.calibrated for answer in said)
        for one, other in zip(own, bare.answer(image, QUESTIONS), strict=True):
            assert one.probability != pytest.approx(other.probability, abs=1e-4)


def test_below_the_threshold_an_export_does_not_know(data: Path, copied: Path) -> None:
    image, question = data / "test/images/0.png", "what color is it?"
    known = Exported(copied).answer(image, question)
    for shift, abstains in ((-1e-6, False), (1e-6, True)):
        threshold = [0.05, min(1.0, known.probability + shift), 1.0, ""]
        about = json.loads((copied / "manifest.json").read_bytes())["calibration"]
        rewrite(copied, about | {"thresholds": [threshold]})
        answer = Exported(copied).answer(image, question, max_risk=0.1)
        assert answer.abstains is abstains
        assert (answer.text == "I don't know") is abstains
        assert answer.top == known.top
    with pytest.raises(ValueError, match=r"max_risk: got 0\.01.*expected one of 0\.05"):
        Exported(copied).answer(image, question, max_risk=0.01)
    rewrite(copied, None)
    assert not Exported(copied).answer(image, question).calibrated
    with pytest.raises(ValueError, match="vlm calibrate"):
        Exported(copied).answer(image, question, max_risk=0.1)


def test_a_changed_calibration_is_refused(copied: Path) -> None:
    about = json.loads((copied / "manifest.json").read_bytes())["calibration"]
    rewrite(copied, about | {"scale": 2 * about["scale"]}, signed=False)
    with pytest.raises(ExportError, match=r"manifest\.json: its SHA-256 is not the one"):
        Exported(copied)


@pytest.mark.parametrize(
    "absurd",
    [
        stored(scale=-1.0),
        stored(scale=float("nan")),
        stored(thresholds=[[0.05, 2.0]]),
        stored("length"),
        stored("magic"),
        {"scale": 1.0},
        "no calibration",
    ],
)
def test_an_absurd_calibration_is_refused(copied: Path, absurd: object) -> None:
    rewrite(copied, absurd)
    with pytest.raises(ExportError, match=r"copy: .*calibration: got"):
        Exported(copied)


def test_what_is_not_a_number_stays_so() -> None:
    nan = float("nan")
    assert str(Calibration("length", 1.0).of_text(nan, "red")) == "nan"


@pytest.mark.slow  # an export takes ten seconds
def test_every_method(tmp_path: Path) -> None:
    platt = make_vqa(head=_taking(partial(Classification, loss="bce"), "answers"))
    choose = make_vqa(head=_taking(partial(MultipleChoice), "text_dim"))
    candidates = [
        ["yes", "a red image"],
        ["red", "is", "not"],
        ["no", "x"],
        ["1", "2"],
        ["it", "y"],
    ]
    for name, vqa, choices in (
        ("platt", calibrated(platt, method="platt", bias=-0.3), None),
        ("temperature", calibrated(choose), candidates),
    ):
        exported = Exported(export(vqa, tmp_path / name))
        own = vqa.answer(images(5), QUESTIONS, choices=choices)
        same(own, exported.answer(images(5), QUESTIONS, choices=choices))


@pytest.mark.slow
def test_written_answers(data: Path, tmp_path: Path) -> None:
    decoder = partial(TransformerDecoder, dim=16, num_layers=1, max_length=5)
    head = _taking(partial(Generation, decoder=decoder))
    vqa = calibrated(make_vqa(head=head), method="length", bias=-1.0, length=0.1)
    exported = Exported(export(vqa, tmp_path / "new"))
    own = vqa.answer(images(5), QUESTIONS, top_k=1)
    same(own, exported.answer(images(5), QUESTIONS, top_k=1))
    module = vlm.VQADataModule(vlm.datasets.EasyVQA(root=str(data)))
    parity = measure_parity(vqa, exported, module)
    assert parity.equal == parity.questions
    assert parity.largest_difference < 1e-4


def _taking(made: Any, *takes: str) -> Any:
    made.takes = takes  # for make_vqa
    return made
