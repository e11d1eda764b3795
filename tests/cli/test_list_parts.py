"""`vlm list` and `vlm.list_parts` show every public part with a summary and a paper."""

from __future__ import annotations

import inspect

import pytest

import vlm
from vlm.cli.commands.list_parts import KINDS
from vlm.cli.main import main


def test_each_kind_lists_the_public_classes_of_its_base() -> None:
    fusions = {part.name.rpartition(".")[2] for part in vlm.list_parts("fusions")}
    expected = {
        name
        for name in vlm.fusion.__all__
        if inspect.isclass(found := getattr(vlm.fusion, name))
        and issubclass(found, vlm.fusion.Fusion)
        and found is not vlm.fusion.Fusion
    }
    assert fusions == expected
    assert "vlm.fusion.Mutan" in {part.name for part in vlm.list_parts("merges")}
    encoders = [part.name for part in vlm.list_parts("encoders")]
    assert {"vlm.image.ConvNet", "vlm.text.BagOfWords"} <= set(encoders)
    assert not {"vlm.image.ImageEncoder", "vlm.image.PixelEncoder"} & set(encoders)
    assert [part.name for part in vlm.list_parts("heads")] == [
        "vlm.heads.AuxiliaryClassification",
        "vlm.heads.Classification",
        "vlm.heads.Drawing",
        "vlm.heads.Generation",
        "vlm.heads.LearnedMixin",
        "vlm.heads.MultipleChoice",
        "vlm.heads.MultiTask",
    ]
    assert "vlm.datasets.EasyVQA" in {part.name for part in vlm.list_parts("datasets")}


def test_all_kinds_are_listed_without_one() -> None:
    assert vlm.list_parts() == [part for kind in KINDS for part in vlm.list_parts(kind)]


def test_a_summary_is_one_sentence_and_the_paper_is_apart() -> None:
    by_name = {part.name: part for part in vlm.list_parts()}
    assert by_name["vlm.fusion.BAN"][1:] == (
        "Bilinear attention network",
        "Kim et al. 2018, arXiv 1805.07932",
    )
    assert by_name["vlm.fusion.Pooled"].paper == ""
    for part in by_name.values():
        assert 3 < len(part.summary) < 130, part
        assert "arXiv" not in part.summary, part


def test_an_unknown_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"'fusion'.*Did you mean fusions\?"):
        vlm.list_parts("fusion")
    with pytest.raises(SystemExit) as stopped:
        main(["list", "fusion"])
    assert stopped.value.code == 2


def test_the_command_prints_the_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    main(["list", "merges"])
    said = capsys.readouterr().out
    assert all(part.name in said for part in vlm.list_parts("merges"))
    assert "vlm.fusion.MCAN" not in said
    main(["list"])
    said = capsys.readouterr().out
    assert all(kind in said for kind in KINDS)
    assert all(part.name in said for part in vlm.list_parts())


def test_names_are_whole_in_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    main(["list"])
    said = capsys.readouterr().out.split()
    assert {part.name for part in vlm.list_parts()} <= set(said)
