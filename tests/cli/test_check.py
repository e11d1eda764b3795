"""Mistakes found from option names alone, and what is left to the real parser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import ROOT

from vlm.cli.check import check_names
from vlm.core.errors import ConfigError

ACCEPTED = [
    "--trainer.max_epochs=3",
    "--trainer.max_epochs=many",  # values are left to the parser
    "--trainer.callbacks+=EarlyStopping",
    "--trainer.max_time.minutes=5",
    "--model.fusion=vlm.fusion.MCAN",
    "--model.fusion=MCAN",
    "--model.fusion=mine.Fusion",
    "--model.fusion=Mine",
    "--model.fusion.out_dmi=5",  # class arguments are left to the parser
    "--model.fusion={class_path: vlm.fusion.MCAN, init_args: {out_dmi: 5}}",
    "--model.fusion=null",
    "--model.fusion.help=MCAN",
    "--model.optimizer=torch.optim.SGD",
    "--print_config",
    "--trainer={max_epochs: 3}",
]
REFUSED = {
    "--trainer.max_epoch=3": "--trainer.max_epoch=3. Did you mean --trainer.max_epochs?",
    "--run.tests": "--run.tests. Did you mean --run.test?",
    "--model.tuning.fusion.frozn=true": "Did you mean --model.tuning.fusion.frozen?",
    "--model.fusion=vlm.fusion.McAN": "vlm.fusion.McAN. Did you mean vlm.fusion.MCAN?",
    "--model.fusion=vlm.image.ConvNet": "vlm.image.ConvNet does not .* Fusion",
    "--model.fusion=ConvNet": "ConvNet does not .* Fusion",
    "--model.fusion=Mutan": "merge.*=vlm.fusion.Pooled .*merge=vlm.fusion.Mutan",
    "--model.fusion={class_path: vlm.fusion.McAN}": "Did you mean vlm.fusion.MCAN?",
    "--model.fusion=nosuch.yaml": "nosuch.yaml: there is no such file",
    "--model.fusion=fusion/product.yaml": "comes with vlm is .*configs/fusion/product.yaml",
    "--trainer={max_epoch: 3}": "'trainer.max_epoch'. Did you mean trainer.max_epochs?",
    "--trainer=nosuch.yaml": "nosuch.yaml: there is no such file",
    "--trainer=7": "trainer: got '7'",
}


@pytest.mark.parametrize("argument", ACCEPTED)
def test_it_is_left_to_the_parser(argument: str) -> None:
    check_names("fit", [argument])
    check_names("fit", argument.split("=", 1))


@pytest.mark.parametrize(("argument", "message"), REFUSED.items())
def test_it_is_refused(argument: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        check_names("fit", [argument])


def test_options_of_one_command_are_not_another_s() -> None:
    check_names("predict", ["--return_predictions=false"])
    with pytest.raises(ConfigError, match="--return_predictions=false"):
        check_names("fit", ["--return_predictions=false"])


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_pass(path: Path) -> None:
    check_names("fit", ["-c", str(path)])


def test_files_are_looked_for_beside_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/fusion.yaml").write_text("class_path: vlm.fusion.McAN\n")
    (tmp_path / "model.yaml").write_text("fusion: parts/fusion.yaml\n")
    (tmp_path / "mine.yaml").write_text("model: model.yaml\n")
    with pytest.raises(ConfigError) as refused:
        check_names("fit", ["-c", str(tmp_path / "mine.yaml")])
    assert re.match(rf"{tmp_path}/parts/fusion.yaml, line 1: model.fusion: ", str(refused.value))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"{" * 5000])
def test_what_no_reader_of_yaml_gets_through_is_left_to_the_parser(
    content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "odd.yaml").write_bytes(content)
    check_names("fit", ["-c", str(tmp_path / "odd.yaml")])


@pytest.mark.parametrize("content", [b"&a {run: *a}", b"&a [*a]", b"? [a]\n: b\ntraner: 1\n"])
def test_odd_yaml_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"odd\.yaml, line \d"):
        check_names("fit", ["-c", str(tmp_path / "odd.yaml")])
