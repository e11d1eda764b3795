"""Every kind of head, text encoder and fusion leaves as it is; so does a class of one's own."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from export_models import QUESTIONS, WORDS, make_vqa
from test_export import images, same

import vlm
from vlm.cli.main import main
from vlm.export import Exported, ExportError, export, measure_parity
from vlm.heads import Generation, MultipleChoice, MultiTask, TransformerDecoder

pytestmark = pytest.mark.slow  # an export takes ten seconds

CHOICES = [["yes", "a red image"], ["red", "is", "not"], ["no", "maybe"], ["1", "2"], ["it", "x"]]


def head(made: object, *takes: str) -> object:
    made.takes = takes  # type: ignore[attr-defined]  # for make_vqa
    return made


def check(vqa: vlm.VQA, folder: Path, choices: list[list[str]] | None = None) -> Exported:
    exported = Exported(export(vqa, folder))
    several = images(5)
    own = vqa.answer(several, QUESTIONS, choices=choices)
    same(own, exported.answer(several, QUESTIONS, choices=choices))
    return exported


@pytest.mark.parametrize(
    "name", ["CrossAttention", "MCAN", "BAN", "MuRel", "GlimpseAttention", "FiLM"]
)
def test_fusions(name: str, tmp_path: Path) -> None:
    check(make_vqa(getattr(vlm.fusion, name)), tmp_path / "new")


@pytest.mark.parametrize(
    "text",
    [
        partial(vlm.text.Recurrent, WORDS, dim=12, embedding_dim=7, bidirectional=True),
        partial(vlm.text.Recurrent, WORDS, dim=12, embedding_dim=7, cell="lstm"),
        partial(vlm.text.Recurrent, WORDS, dim=12, embedding_dim=7, standardize=True),
        partial(vlm.text.Transformer, WORDS, dim=12),
    ],
    ids=["gru", "lstm", "standardized", "transformer"],
)
def test_text_encoders(text: partial[vlm.text.TextEncoder], tmp_path: Path) -> None:
    check(make_vqa(text=text()), tmp_path / "new")


def test_padded_images(tmp_path: Path) -> None:
    encoder = vlm.image.TimmEncoder(
        "vit_tiny_patch16_224", pretrained=False, image_size=32, fit="pad"
    )
    check(make_vqa(vlm.fusion.CrossAttention, image=encoder), tmp_path / "new")


def test_choices(tmp_path: Path) -> None:
    vqa = make_vqa(head=head(partial(MultipleChoice), "text_dim"))  # type: ignore[arg-type]
    exported = check(vqa, tmp_path / "new", CHOICES)
    with pytest.raises(ValueError, match="choices: got none"):
        exported.answer(images(1)[0], "is it?")


@pytest.mark.parametrize("graphs", ["onnx", "torch"])
def test_a_decoder_writes_the_same(graphs: str, tmp_path: Path) -> None:
    decoder = partial(TransformerDecoder, dim=16, num_layers=2, max_length=9)
    heads = {"write": partial(Generation, decoder=decoder, min_length=2)}
    vqa = make_vqa(vlm.fusion.CrossAttention, head(partial(MultiTask, heads=heads), "answers"))  # type: ignore[arg-type]
    folder = export(vqa, tmp_path / "new", graphs)  # type: ignore[arg-type]
    exported = Exported(folder, trust=True)
    assert set(exported.about["graphs"]) == {"image", "question", "answer", "step"}
    own = vqa.answer(images(5), QUESTIONS, top_k=1)
    assert any(answer.text.endswith("…") for answer in own)
    same(own, exported.answer(images(5), QUESTIONS, top_k=1))


def test_torch_s_own_graphs(tmp_path: Path) -> None:
    vqa = make_vqa(vlm.fusion.CrossAttention)
    with pytest.raises(ExportError, match=r"image\.pt2: a torch export, .* --trust"):
        Exported(export(vqa, tmp_path / "new", "torch"))
    exported = Exported(tmp_path / "new", trust=True)
    same(vqa.answer(images(5), QUESTIONS), exported.answer(images(5), QUESTIONS))


def test_eight_bits(tmp_path: Path) -> None:
    vqa = make_vqa(image=vlm.image.ConvNet(image_size=32, widths=(32, 64)))
    transform = vqa.model.processor.transform
    calibration = [transform.open(image).numpy() for image in images(12, seed=5)]
    full, small = (
        export(vqa, tmp_path / n, calibration=c) for n, c in (("a", None), ("b", calibration))
    )
    sizes = [(folder / "image.onnx").stat().st_size for folder in (full, small)]
    assert sizes[1] < 0.7 * sizes[0]
    a, b = Exported(full), Exported(small)
    assert b.about["precision"] == "int8"
    probabilities = [
        np.array([x.answer(i, QUESTIONS[0]).probability for i in images(5)]) for x in (a, b)
    ]
    assert 0 < np.abs(probabilities[0] - probabilities[1]).max() < 0.2
    # Weights of 7 bits: larger ones would overflow on processors without VNNI.
    for name in ("image", "question", "answer"):
        graph = onnx.load(small / f"{name}.onnx").graph
        weights = [onnx.numpy_helper.to_array(w) for w in graph.initializer]
        eight = [w for w in weights if w.dtype == np.int8 and w.ndim > 1]
        assert eight or name == "question"  # a bag of words has only a table
        assert all(np.abs(w.astype(int)).max() <= 64 for w in eight)


def test_the_command_reports_parity(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["export", str(run), str(tmp_path / "new"), "--int8"])
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "new/parity.json").read_bytes())
    assert report["equal"] <= report["questions"] > 0
    assert f"{report['equal']} of {report['questions']} validation questions" in printed
    low, high, _ = report["interval"]["export"].values()
    assert low <= report["accuracy"]["export"] <= high
    assert {"parity.json", "parity.md"} <= set(Exported(tmp_path / "new").about["files"])


def test_parity_sees_a_difference(run: Path, data: Path, tmp_path: Path) -> None:
    vqa = vlm.load(run)
    module = vlm.VQADataModule(vlm.datasets.EasyVQA(root=str(data)))
    exported = Exported(export(vqa, tmp_path / "new", "torch"), trust=True)
    same_model = measure_parity(vqa, exported, module)
    assert same_model.equal == same_model.questions > 0
    assert same_model.largest_difference < 1e-4
    assert same_model.accuracy["torch"] == same_model.accuracy["export"]
    last = vqa.model.head.layers[-1]  # type: ignore[union-attr]  # of a classification head
    with torch.no_grad():
        last.bias += torch.linspace(0, 50, len(last.bias))
    other = measure_parity(vqa, exported, module)
    assert other.equal < other.questions
    assert other.largest_difference == pytest.approx(50, abs=1e-3)


class Doubled(vlm.fusion.Fusion):
    """A fusion of one's own."""

    def __init__(self, image_dim: int, text_dim: int) -> None:
        super().__init__(image_dim, text_dim, text_dim)
        self.image = torch.nn.Linear(image_dim, text_dim)

    def fuse(self, prepared: vlm.Features, text: vlm.Features) -> vlm.Features:
        return vlm.Features(text.tokens, text.mask, 2 * text.pooled * self.image(prepared.pooled))


def test_a_class_of_one_s_own_needs_trust(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: Path
) -> None:
    shared = make_vqa(Doubled).save(tmp_path / "shared")
    config = [
        "-c",
        str(Path(__file__).parents[2] / "configs/easy_vqa.yaml"),
        f"--dataset.root={data}",
    ]
    command = ["export", str(shared), str(tmp_path / "new"), *config]
    with pytest.raises(SystemExit, match="Doubled"):
        main(command)
    assert not (tmp_path / "new").exists()
    main([*command, "--trust"])
    assert "Doubled" in capsys.readouterr().out
    assert Exported(tmp_path / "new").about["parts"]["fusion"] == "Doubled"
