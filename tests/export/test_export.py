"""An export reads, answers and warns as its model does, and refuses what it cannot be or do."""

from __future__ import annotations

import json
import shutil
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import rest_slow
from export_models import QUESTIONS, make_vqa
from PIL import Image

import vlm
from vlm.export import Exported, ExportError, export
from vlm.export.manifest import read_manifest, write_manifest
from vlm.export.pixels import PixelTransform
from vlm.export.write import GraphFormat
from vlm.fusion import Fusion, Pooled
from vlm.heads import Classification, Generation, Ranked
from vlm.image import ConvNet, ImageError, RegionFeatures, Tiles
from vlm.text import BagOfWords, WordTokenizer


@pytest.fixture(scope="module")
def vqa() -> vlm.VQA:
    return make_vqa()


@pytest.fixture(scope="module")
def folder(vqa: vlm.VQA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(vqa, tmp_path_factory.mktemp("exports") / "model")


@pytest.fixture(scope="module")
def exported(folder: Path) -> Exported:
    return Exported(folder)


def images(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (16 + n, 23, 3), np.uint8) for n in range(count)]


def same(own: list[vlm.Answer], other: list[vlm.Answer]) -> None:
    for a, b in zip(own, other, strict=True):
        assert (a.text, a.warnings, a.is_guess) == (b.text, b.warnings, b.is_guess)
        assert [t for t, _ in a.top] == [t for t, _ in b.top]
        assert [p for _, p in a.top] == pytest.approx([p for _, p in b.top], abs=1e-5)


def test_answers_are_the_model_s(vqa: vlm.VQA, exported: Exported) -> None:
    for image in images(3):
        same(vqa.answer(image, QUESTIONS), exported.answer(image, QUESTIONS))
        alone = exported.answer(exported.see(image), QUESTIONS[0], top_k=2)
        same([vqa.answer(image, QUESTIONS[0], top_k=2)], [alone])
    several = images(5)
    same(vqa.answer(several, QUESTIONS), exported.answer(several, QUESTIONS))


def test_a_second_question_needs_no_image(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = exported.see(images(1)[0])
    graphs = {name: g for name, g in exported._graphs.items() if name != "image"}
    monkeypatch.setattr(exported, "_graphs", graphs)
    assert exported.answer(seen, "what color is it?").text
    with pytest.raises(KeyError, match="image"):
        exported.see(images(1)[0])


def test_mistakes_are_those_of_a_model(vqa: vlm.VQA, exported: Exported) -> None:
    image = images(1)[0]
    for asked in (vqa, exported):
        with pytest.raises(ValueError, match="question 1: got ' '"):
            asked.answer(image, " ")
        with pytest.raises(ValueError, match="got 2 images for 1 question"):
            asked.answer([image, image], ["is it?"])
        with pytest.raises(ValueError, match="choices: got some"):
            asked.answer(image, "is it?", choices=["yes", "no"])
        with pytest.raises(ImageError, match=r"nothing\.png"):
            asked.answer("nothing.png", "is it?")


def test_the_files_are_plain_and_whole(folder: Path) -> None:
    about = json.loads((folder / "manifest.json").read_bytes())
    assert set(about["files"]) == {p.name for p in folder.iterdir()} - {"manifest.json"}
    assert json.loads((folder / "answers.json").read_bytes()) == ["yes", "no", "red", "blue"]
    assert about["opset"] == 20
    assert set(about["graphs"]) == {"image", "question", "answer"}


@pytest.mark.parametrize("graphs", rest_slow(["onnx", "torch"], "torch"))
def test_no_file_names_a_folder_of_this_machine(
    vqa: vlm.VQA, tmp_path: Path, graphs: GraphFormat
) -> None:
    made = export(vqa, tmp_path / "model", graphs=graphs)
    contents = [path.read_bytes() for path in made.iterdir() if path.suffix != ".pt2"]
    for path in made.glob("*.pt2"):
        with zipfile.ZipFile(path) as archive:
            contents += [archive.read(name) for name in archive.namelist()]
    assert len(contents) > 5
    folders = {str(Path(module.__file__).parent) for module in (vlm, torch)}
    for folder in {*folders, str(tmp_path), str(Path.cwd())}:
        assert not any(folder.encode() in content for content in contents), folder


@pytest.mark.parametrize("name", ["answer.onnx", "tokenizer.json", "answers.json"])
def test_a_changed_file_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    copied = shutil.copytree(folder, tmp_path / "copy")
    content = bytearray((copied / name).read_bytes())
    content[-3] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(ExportError, match=rf"{name}: its SHA-256"):
        Exported(copied)
    (copied / name).unlink()
    with pytest.raises(ExportError, match=rf"{name}: there is no such file"):
        Exported(copied)


def test_another_format_and_another_opset_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"there is no manifest.json"):
        Exported(tmp_path)
    copied = shutil.copytree(folder, tmp_path / "copy")
    about = json.loads((copied / "manifest.json").read_bytes())
    (copied / "manifest.json").write_text(json.dumps(about | {"format": 99}))
    with pytest.raises(ExportError, match="got format 99; expected 1"):
        Exported(copied)
    for damaged in ("{", "[]", '{"format": 1, "files": {}, "graphs": []}'):
        (copied / "manifest.json").write_text(damaged)
        with pytest.raises(ExportError, match="damaged"):
            Exported(copied)


def test_no_file_is_read_that_has_no_digest(folder: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(folder, tmp_path / "copy")
    about = json.loads((copied / "manifest.json").read_bytes())
    outside = shutil.move(copied / "image.onnx", tmp_path / "image.onnx")
    about["graphs"]["image"]["file"] = str(outside)
    write_manifest(copied, about)
    with pytest.raises(ExportError, match="lists no digest of '/"):
        Exported(copied)


@pytest.mark.parametrize("content", ["{}", "[]", '{"size": 3}', '{"size": [9, 9], "speed": 1}'])
def test_files_with_another_content_are_refused(folder: Path, tmp_path: Path, content: str) -> None:
    copied = shutil.copytree(folder, tmp_path / "copy")
    (copied / "transform.json").write_text(content)
    write_manifest(copied, json.loads((copied / "manifest.json").read_bytes()))
    with pytest.raises(ExportError, match="copy: holds what `vlm export` does not write"):
        Exported(copied)


def test_a_graph_of_another_opset_is_refused(folder: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    copied = shutil.copytree(folder, tmp_path / "copy")
    graph = onnx.load(copied / "question.onnx")
    graph.opset_import[0].version = 999
    onnx.save(graph, copied / "question.onnx")
    about = json.loads((copied / "manifest.json").read_bytes())
    write_manifest(copied, about)
    assert read_manifest(copied)["opset"] == 20
    with pytest.raises(ExportError, match=r"question.onnx: onnxruntime .* cannot read this graph"):
        Exported(copied)


class OddTokenizer(WordTokenizer):
    pass


class Odd(Fusion):
    """Has an operator that ONNX lacks."""

    def __init__(self, image_dim: int, text_dim: int) -> None:
        super().__init__(image_dim, text_dim, text_dim)

    def fuse(self, prepared: vlm.Features, text: vlm.Features) -> vlm.Features:
        odd = torch.special.bessel_j0(text.pooled)
        return vlm.Features(text.tokens, text.mask, odd + prepared.pooled.mean())


def refused(vqa: vlm.VQA, folder: Path, match: str, graphs: str = "onnx") -> None:
    with pytest.raises(ExportError, match=match):
        export(vqa, folder, graphs)  # type: ignore[arg-type]  # wrong ones too
    assert not folder.exists()


def test_what_cannot_be_exported_is_said(vqa: vlm.VQA, tmp_path: Path) -> None:
    new = tmp_path / "new"
    refused(vqa, new, "graphs: got 'tflite'", "tflite")
    odd = BagOfWords(["is"], dim=11)
    odd.tokenizer = OddTokenizer(["is"])
    refused(make_vqa(text=odd), new, "OddTokenizer cannot be written as JSON")
    refused(make_vqa(image=RegionFeatures(8)), new, "RegionFeatures reads features of regions")
    tiles = Tiles(ConvNet(16, (5, 7)))
    refused(make_vqa(image=tiles), new, "Tiles prepares each image by its aspect")
    beams = partial(Generation, beams=2)
    beams.takes = ()  # type: ignore[attr-defined]  # for make_vqa
    refused(make_vqa(head=beams), new, "got beams=2; expected beams=1")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    with pytest.raises(ExportError, match="full: not empty"):
        export(vqa, tmp_path / "full")
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="not empty; expected a new or empty folder"):
        export(vqa, tmp_path / "file")


class LeastLikely(Classification):
    """Answers with what the model thinks least of."""

    def decode(self, output: Any, top_k: int) -> list[Ranked]:
        return super().decode(-output, top_k)


def test_a_head_that_decodes_in_its_own_way_is_refused(tmp_path: Path) -> None:
    new = tmp_path / "new"
    refused(make_vqa(head=LeastLikely), new, "LeastLikely has a `decode` of its own, .* serve")


def test_an_operator_without_onnx_is_named(tmp_path: Path) -> None:
    refused(make_vqa(Odd), tmp_path / "new", r"answer graph .*bessel_j0")


def test_no_space_leaves_nothing(
    vqa: vlm.VQA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vlm.export.write.write_json", full)
    refused(vqa, tmp_path / "new", "cannot be written .No space left on device")


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
def test_pixels_are_those_of_the_image_transform(fit: str, interpolation: str) -> None:
    rng = np.random.default_rng(1)
    own = vlm.image.ImageTransform((31, 37), interpolation, fit, 0.9 if fit == "crop" else 1.0)
    other = PixelTransform(own.size, interpolation, fit, own.crop_share, None)
    for _ in range(60):
        height, width = rng.integers(1, 150, 2)
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        np.testing.assert_array_equal(own.open(image).numpy(), other.open(image))
    grey = Image.fromarray(rng.integers(0, 256, (40, 50), np.uint8)).convert("LA")
    np.testing.assert_array_equal(own.open(grey).numpy(), other.open(grey))


def test_a_fusion_is_a_class_of_its_own(exported: Exported) -> None:
    assert exported.about["parts"]["fusion"] == Pooled.__name__
    assert repr(exported).endswith("model, float32 onnx)")
