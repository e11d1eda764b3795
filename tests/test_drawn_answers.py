"""A model that draws, asked: in Python, on the command line, and in the demo."""

from __future__ import annotations

import math
from dataclasses import asdict
from functools import partial
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

import vlm
from vlm.cli.main import main
from vlm.core.calibration import ABOUT, Calibration, Threshold
from vlm.demo import view
from vlm.demo.asker import Asker
from vlm.export import export
from vlm.export.graphs import ExportError
from vlm.heads import Drawing, Generation, PictureCodes, TransformerDecoder, WordsAndCodes
from vlm.image.as_text import is_picture

WORDS = ["draw", "a", "red", "circle"]
SENTENCE = "Draw a red circle."


def model(draws: bool, head: type = Drawing) -> vlm.VQA:
    """Untrained, but for what it answers first: a picture or a letter."""
    torch.manual_seed(0)
    image, text = vlm.image.ConvNet(image_size=32), vlm.text.Recurrent(WORDS)
    fusion = vlm.fusion.Pooled(image.dim, text.dim)
    decoder = partial(
        TransformerDecoder, dim=16, num_layers=1, max_length=5, tokenizer=WordsAndCodes(8)
    )
    made = (
        Drawing(fusion.out_dim, text.dim, decoder, PictureCodes(size=32, codes=8))
        if head is Drawing
        else Generation(fusion.out_dim, decoder)
    )
    first = 257 if draws else ord("o")
    with torch.no_grad():
        # Longer than the others, so that none of them fits better.
        made.decoder.embedding.weight[first].mul_(10)
        made.decoder.norm.weight.zero_()
        made.decoder.norm.bias.copy_(1e3 * made.decoder.embedding.weight[first])
    return vlm.VQA(vlm.VQAModel(image, text, fusion, made))


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "photo.png"
    Image.new("RGB", (40, 40), (200, 30, 40)).save(path)
    return str(path)


def test_an_answer_has_a_picture_or_none(photo: str) -> None:
    drawn = model(draws=True).answer(photo, SENTENCE)
    assert drawn.drawing is not None
    assert (drawn.drawing.size, drawn.drawing.mode) == ((32, 32), "RGB")
    assert drawn.top == [(drawn.text, drawn.probability)]
    assert is_picture(drawn.text)
    written = model(draws=False).answer(photo, SENTENCE)
    assert (written.text, written.drawing) == ("ooooo…", None)


def test_one_batch_may_have_both_kinds_of_question(photo: str) -> None:
    vqa = model(draws=True)
    asked = [SENTENCE, "a circle", SENTENCE, "red"]
    together = vqa.answer(photo, asked)
    alone = [vqa.answer(photo, question).text for question in asked]
    assert [answer.text for answer in together] == alone
    assert alone[0] == alone[2]


def test_the_command_writes_the_picture(
    tmp_path: Path, photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, drawn = str(model(draws=True).save(tmp_path / "draws")), tmp_path / "drawn.png"
    main(["ask", folder, photo, SENTENCE, "--output", str(drawn)])
    said = capsys.readouterr().out
    assert "> 99.9 %  a picture" in said
    assert str(drawn) in said
    assert "base64" not in said
    picture = vlm.load(folder).answer(photo, SENTENCE).drawing
    assert picture is not None
    assert Image.open(drawn).tobytes() == picture.tobytes()
    main(["ask", folder, photo, SENTENCE])
    assert "--output PNG writes it" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"vlm ask: .*nowhere"):
        main(["ask", folder, photo, SENTENCE, "--output", str(tmp_path / "nowhere" / "a.png")])


@pytest.mark.parametrize(
    ("head", "said"),
    [(Drawing, "the answer is in words"), (Generation, "answers with words alone")],
)
def test_no_file_is_written_where_nothing_is_drawn(
    head: type, said: str, tmp_path: Path, photo: str
) -> None:
    folder, drawn = str(model(False, head).save(tmp_path / "words")), tmp_path / "drawn.png"
    with pytest.raises(SystemExit, match=said):
        main(["ask", folder, photo, SENTENCE, "--output", str(drawn)])
    assert not drawn.exists()


def test_a_picture_that_is_too_uncertain_exits_with_3(tmp_path: Path, photo: str) -> None:
    vqa = model(draws=True)
    threshold = Threshold(0.05, 1.0, 0.5)
    vqa.about[ABOUT] = asdict(Calibration("length", 1.0, -5.0, thresholds=(threshold,)))
    folder, drawn = str(vqa.save(tmp_path / "draws")), tmp_path / "drawn.png"
    with pytest.raises(SystemExit) as stopped:
        main(["ask", folder, photo, SENTENCE, "--output", str(drawn), "--max-risk", "5%"])
    assert stopped.value.code == 3
    assert not drawn.exists()


def test_a_pictures_probability_does_not_depend_on_the_length_of_its_text(photo: str) -> None:
    vqa = model(draws=True)
    vqa.calibration = Calibration("length", 1.0, 0.0, -0.1)
    (answer,) = vqa.answer(photo, [SENTENCE])
    assert answer.drawing is not None
    assert answer.probability == pytest.approx(1 / (1 + math.exp(0.1 * len("a picture"))), abs=1e-3)


def test_the_demo_shows_the_picture() -> None:
    content = BytesIO()
    Image.new("RGB", (40, 20), (200, 30, 30)).save(content, "PNG")
    asker = Asker({"draws": model(draws=True), "writes": model(draws=False)})
    replies = asker.ask(content.getvalue(), SENTENCE, ["draws", "writes"])
    shown = view.results(replies)
    assert f'<img class="vlm-drawn" src="{replies[0].answer.text}"' in shown
    assert shown.count("base64") == 1
    assert "a picture" in shown
    assert replies[0].as_dict()["answer"] == replies[0].answer.text
    explained = asker.explain(content.getvalue(), SENTENCE, replies[0], "occlusion")
    assert explained.explanation is not None
    assert "base64" not in view.reasons(explained, None)


def test_a_model_that_draws_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="whose answers may be pictures"):
        export(model(draws=True), tmp_path / "export", graphs="torch")
