"""Generation heads through the command line, the report, checkpoints and questions."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import ROOT, write_data
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from transformers import BertTokenizerFast, GPT2Config

import vlm
from vlm.cli.training_cli import VQACLI
from vlm.data.compatibility import check_written
from vlm.datasets.table import DataError
from vlm.heads import Generation, SubwordAnswers, TransformerDecoder


def arguments(data: Path, folder: Path, *more: str) -> list[str]:
    return [
        "fit",
        "-c",
        str(ROOT / "configs/easy_vqa_generation.yaml"),
        f"--dataset.root={data}",
        "--data.images_per_batch=3",
        "--dataset.validation_share=0.25",
        f"--run.folder={folder}",
        "--trainer.enable_progress_bar=false",
        *more,
    ]


@pytest.fixture(scope="module")
def written(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    long = ("--trainer.max_epochs=30", "--trainer.check_val_every_n_epoch=15")
    return VQACLI(arguments(data, folder, *long)).run_folder


def test_the_report_has_the_figures_of_written_answers(written: Path) -> None:
    report = json.loads((written / "test.json").read_text())
    assert set(report["summary"]) == {"exact_match", "anls"}
    lines = (written / "test_predictions.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    share = sum(row["answer"] in row["answers"] for row in rows) / len(rows)
    assert report["summary"]["exact_match"] == pytest.approx(share)
    assert share > report["results"][0]["majority"]  # which is 1/3
    assert report["summary"]["anls"] >= share
    assert report["results"][0]["ceiling"] == 1


def test_a_checkpoint_answers(written: Path, data: Path) -> None:
    model = vlm.load(written)
    assert isinstance(model.model.head, Generation)
    image = data / "test/images/0.png"
    answer = model.answer(image, "what color is it?")
    assert answer.text in ("red", "green", "blue")
    assert answer.warnings == ()
    assert len(answer.top) == 1  # greedy decoding gives only one


def test_an_answer_that_never_ends_is_cut_and_warned_of(written: Path, data: Path) -> None:
    model = vlm.load(written)
    decoder = model.model.head.decoder
    table = decoder.embedding.weight.detach()
    table[decoder.tokenizer.end] = 0
    table[:256] = decoder.norm.bias.detach().new_ones(table.shape[1])
    decoder.norm.weight.data.zero_()
    decoder.norm.bias.data.fill_(5)
    answer = model.answer(data / "test/images/0.png", "what color is it?")
    assert answer.text.endswith("…")
    assert answer.warnings == ("The answer never ended: it was cut at 16 tokens.",)


def test_answers_that_are_too_long_stop_a_training_before_it_begins(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    path = data / "train/questions.json"
    rows = json.loads(path.read_text())
    for row in rows[:4]:
        row[1] = " ".join(["word"] * 500)
    path.write_text(json.dumps(rows))
    share = "--dataset.validation_share=0.1"
    with pytest.raises(DataError, match=r"max_length: got 16, but \d of .* up to 2,500 \('word"):
        VQACLI(arguments(data, tmp_path / "runs", share, "--trainer.max_epochs=1"))


def test_choices_that_are_too_long_are_found_in_every_split() -> None:
    choices = [["red", "blue"], ["red", "greenish"]]
    table = pa.table({"answers": [["red"], ["red"]], "choices": choices})
    head = Generation(3, partial(TransformerDecoder, max_length=5), choose=True)
    with pytest.raises(DataError, match=r"validation: max_length: got 5, but 1 of the choices"):
        check_written(head, table, "validation")
    head = Generation(3, partial(TransformerDecoder, max_length=5))
    check_written(head, table, "train")


def test_answers_that_cannot_be_spelled_are_found_in_every_split() -> None:
    pieces = Tokenizer(WordPiece({"[UNK]": 0, "red": 1, "end": 2}, unk_token="[UNK]"))
    tokenizer = SubwordAnswers(json=pieces.to_str(), end="end")
    head = Generation(3, partial(TransformerDecoder, tokenizer=tokenizer, max_length=2))
    table = pa.table({"answers": [["red"], ["blue"]]})
    for split in ("train", "validation", "test"):
        with pytest.raises(DataError, match=rf"^{split}: answers: got 'blue', of which 'blue' is"):
            check_written(head, table, split)
    check_written(head, table, "predict")  # answers are not read for it


def test_a_choice_may_end_in_dots(written: Path, data: Path) -> None:
    model = vlm.load(written)
    model.model.head.takes_choices = True
    choices = ["red…", "blue…"]
    answer = model.answer(data / "test/images/0.png", "what color is it?", choices=choices)
    assert answer.text in choices
    assert not any("never ended" in warning for warning in answer.warnings)
    answer = model.answer(data / "test/images/0.png", "what color is it?", choices=["red", "?"])
    assert answer.warnings == ()  # bytes can spell any text, each differently
    with pytest.raises(ValueError, match=r"choices: got 5; expected such a list for each"):
        model.answer(data / "test/images/0.png", ["what color is it?"], choices=5)


def test_a_pretrained_decoder_is_rebuilt_from_the_checkpoint_alone(
    data: Path, tmp_path: Path
) -> None:
    hub = tmp_path / "hub"
    hub.mkdir()
    letters = [f"{mark}{letter}" for letter in "abcdefghijklmnopqrstuvwxyz" for mark in ("", "##")]
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (hub / "vocab.txt").write_text("\n".join([*marks, *letters]))
    BertTokenizerFast(str(hub / "vocab.txt")).save_pretrained(hub)
    GPT2Config(vocab_size=57, n_embd=14, n_head=2, n_layer=1).save_pretrained(hub)
    decoder = tmp_path / "decoder.yaml"
    decoder.write_text(
        "class_path: vlm.heads.HuggingFaceDecoder\n"
        f"init_args: {{name: {hub}, pretrained: false, max_length: 11}}\n"
    )
    cli = VQACLI(
        arguments(
            data,
            tmp_path / "runs",
            f"--model.head.init_args.decoder={decoder}",
            "--model.head.init_args.beams=3",
            "--trainer.max_epochs=1",
            "--run.test=false",
        )
    )
    for file in hub.iterdir():
        file.unlink()
    answer = vlm.load(cli.run_folder).answer(data / "test/images/0.png", "what color is it?")
    assert 1 <= len(answer.top) <= 3
    # The configuration still names the deleted folder; the parts come from the checkpoint.
    checkpoint = cli.run_folder / "checkpoints/best.ckpt"
    config = cli.run_folder / "config.yaml"
    again = VQACLI(["test", f"-c={config}", f"--ckpt_path={checkpoint}"])
    assert 0 <= again.trainer.callback_metrics["test_exact_match"] <= 1
