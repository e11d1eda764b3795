"""`vlm explain`, its drawings, and the positions of tokens in a question."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from demo_server import untrained
from known_model import (
    QUESTION,
    TimesFusion,
    known_image,
    known_vqa,
)
from PIL import Image
from torch import Tensor

from vlm.cli.main import main
from vlm.explain import explain
from vlm.explain.spans import token_spans
from vlm.inference import VQA


def test_command(run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = str(data / "test/images/0.png")
    asked = [str(run), picture, "What color is it?"]
    output = str(tmp_path / "new/why.v1")
    main(["explain", *asked, "--answer", "yes", "--method", "grad_cam", "--output", output])
    found = json.loads((tmp_path / "new/why.v1.json").read_text())
    assert (found["answer"], found["method"]) == ("yes", "grad_cam")
    assert found["words"] == ["what", "color", "is", "it"]
    assert found["spans"] == [[0, 4], [5, 10], [11, 13], [14, 16]]
    assert len(found["patches"]) == found["grid"][0] * found["grid"][1]
    assert 0 <= found["probability"] <= 1
    assert found["calibrated"]
    Image.open(tmp_path / "new/why.v1.png").verify()
    assert "What color is it?" in (tmp_path / "new/why.v1.html").read_text()
    printed = capsys.readouterr().out
    assert printed.startswith("What color is it?\nWhy yes (")
    assert "color" in printed
    assert printed.endswith(f"{output}.png\n{output}.html\n{output}.json\n")

    main(["explain", *asked, "--device", "cpu", "--all-methods", "--output", f"{output}.png"])
    assert not list(tmp_path.rglob("*.png.*"))
    found = json.loads((tmp_path / "new/why.v1.json").read_text())
    methods = [explanation["method"] for explanation in found]
    assert methods == ["occlusion", "integrated_gradients", "grad_cam"]
    assert "On the image, the methods " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--answer", "purple"], "purple"),
        (["--method", "rollout"], "rollout follows layers"),
        (["--choices", "a", "b"], "choices: got some"),
    ],
)
def test_mistakes(run: Path, data: Path, change: list[str], message: str) -> None:
    picture = str(data / "test/images/0.png")
    with pytest.raises(SystemExit, match=f"vlm explain: .*{message}"):
        main(["explain", str(run), picture, "What color is it?", *change])


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (["a"], "expected at least two"),
        (["a", "a"], "got the choice 'a' twice"),
        (["a", ""], "got an empty choice"),
    ],
)
def test_choices_are_those_that_an_answer_takes(choices: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=f"choices: .*{message}"):
        explain(known_vqa(TimesFusion()), known_image(), QUESTION, choices=choices)


def test_a_method_that_proves_not_to_fit_is_left_out(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`--all-methods` skips Grad-CAM if `pooled` is computed separately from the tokens."""
    vqa = known_vqa(TimesFusion())
    encode = type(vqa.model.image_encoder).encode

    def apart(self: Any, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return encode(self, images, mask)[0], encode(self, images, mask)[1]

    monkeypatch.setattr(type(vqa.model.image_encoder), "encode", apart)
    monkeypatch.setattr("vlm.cli.commands.explain.load_any", lambda *_, **__: vqa)
    asked = ["run", str(data / "test/images/0.png"), QUESTION]
    main(["explain", *asked, "--all-methods", "--output", str(tmp_path / "why")])
    found = json.loads((tmp_path / "why.json").read_text())
    methods = [explanation["method"] for explanation in found]
    assert methods == ["occlusion", "integrated_gradients"]
    assert "grad_cam is left out: method: the answer does not" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="purple"):
        main(["explain", *asked, "--all-methods", "--answer", "purple"])


def test_a_place_that_cannot_be_written_is_a_line(run: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    asked = [str(run), str(data / "test/images/0.png"), "What color is it?"]
    with pytest.raises(SystemExit, match=r"^vlm explain: .*(File exists|Not a directory)"):
        main(["explain", *asked, "--output", str(tmp_path / "file/why")])


def test_the_image_is_not_overwritten(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes((data / "test/images/0.png").read_bytes())
    before = photo.read_bytes()
    for output in ("photo", "photo.html"):
        with pytest.raises(SystemExit):
            main(["explain", str(run), str(photo), "is it red?", f"--output={tmp_path / output}"])
        assert "which is the image; expected another name" in capsys.readouterr().err
    assert photo.read_bytes() == before


def test_a_dark_image_is_drawn_by_the_model_s_white_level(tmp_path: Path) -> None:
    """Of floats up to 4095 nothing could be drawn without it."""
    model = untrained()
    model.image_encoder.transform = replace(model.image_encoder.transform, white_level=4095.0)
    Image.fromarray(np.full((20, 30), 4095.0, np.float32)).save(tmp_path / "dark.tif")
    vqa = VQA(model)
    vqa.transform = model.image_encoder.transform
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlm.cli.commands.explain.load_any", lambda *_, **__: vqa)
        main(["explain", "x", str(tmp_path / "dark.tif"), "is it?", f"--output={tmp_path / 'a'}"])
    drawn = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    assert (drawn == 255).all(-1).mean() > 0.3


def test_missing_files(run: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="there is no such file"):
        main(["explain", str(run), str(tmp_path / "no.png"), "What color is it?"])
    with pytest.raises(SystemExit, match="vlm explain: "):
        main(["explain", str(tmp_path / "no.ckpt"), "no.png", "What color is it?"])


@pytest.mark.parametrize(
    ("question", "tokens", "wanted"),
    [
        ("What  colour, please?", ["what", "colour", "please"], ["What", "colour", "please"]),
        ("Isn\u2019t it?", ["isn't", "it"], ["Isn\u2019t", "it"]),
        ("Cafe\u0301 is it", ["caf\u00e9", "is"], ["Cafe\u0301", "is"]),
        ("is is", ["is", "is"], ["is", "is"]),
        (
            "playing it",
            ["[CLS]", "play", "##ing", "it", "[SEP]"],
            [None, "play", "ing", "it", None],
        ),
        ("what is", ["\u0120what", "\u0120is"], ["what", "is"]),
        ("\u0130s it", ["i\u0307s", "it"], ["\u0130s", "it"]),
        ("", [], []),
    ],
)
def test_spans(question: str, tokens: list[str], wanted: list[str | None]) -> None:
    spans = token_spans(question, tokens)
    assert [s and question[s[0] : s[1]] for s in spans] == wanted


@pytest.mark.parametrize(
    ("question", "tokens", "wanted"),
    [
        ("is the café a bar", ["is", "the", "cafe", "a", "bar"], ["is", "the", "café", "a", "bar"]),
        ("what bus", ["▁us", "▁what", "▁b", "us"], [None, "what", "b", "us"]),
        ("a cat", ["[CLS]", "a", "ca", "##t"], [None, "a", "ca", "t"]),
        ("左边吗", ["左", "边", "吗"], ["左", "边", "吗"]),
        ("Isn't a bird's", ["is", "n't", "a", "bird", "'s"], ["Is", "n't", "a", "bird", "'s"]),
    ],
)
def test_a_word_is_no_part_of_another(
    question: str, tokens: list[str], wanted: list[str | None]
) -> None:
    test_spans(question, tokens, wanted)


def test_a_repeated_word_has_its_own_place() -> None:
    assert token_spans("is is", ["is", "is"]) == [(0, 2), (3, 5)]
