"""A crafted model runs no code, and the error for a broken one names the problem."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from shared_models import (
    bag,
    conv,
    put_together,
)

import vlm
from vlm.checkpoint.checkpoint import CheckpointError
from vlm.checkpoint.file import write_checkpoint
from vlm.checkpoint.sharing import CONFIG, WEIGHTS
from vlm.cli.main import main
from vlm.heads import (
    Classification,
)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    return put_together(conv(), bag(), Classification).save(tmp_path / "shared")


def changed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


EVIL = "from pathlib import Path\nPath({!r}).touch()\nclass Merge: pass\n"


@pytest.mark.parametrize("place", ["part", "merge", "argument"])
@pytest.mark.parametrize("kind", ["shared", "checkpoint"])
def test_a_foreign_class_is_refused_with_nothing_imported(
    kind: str, place: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil_part.py").write_text(EVIL.format(str(tmp_path / "ran")))
    monkeypatch.syspath_prepend(tmp_path)
    evil = {"class_path": "evil_part.Merge", "init_args": {}}

    def change(model: dict[str, Any]) -> None:
        if place == "part":
            model["head"] = evil
        elif place == "merge":
            model["fusion"]["init_args"]["merge"] = evil
        else:
            model["fusion"]["init_args"]["more"] = [["what", {"deep": [evil]}]]

    if kind == "shared":
        path = changed(vlm.load(run).save(tmp_path / "s"), lambda config: change(config["model"]))
    else:
        content = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
        change(content["vlm"]["model"])
        path = tmp_path / "a.ckpt"
        write_checkpoint(content, path)
    with pytest.raises(CheckpointError, match=r"evil_part.Merge is not a class of vlm's parts"):
        vlm.load(path)
    assert "evil_part" not in sys.modules
    assert not (tmp_path / "ran").exists()
    with pytest.raises(CheckpointError):
        vlm.load(path, trust=True)  # the module's code runs, but it is not a part
    assert (tmp_path / "ran").exists()
    sys.modules.pop("evil_part")


def test_a_training_command_refuses_it_too(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "evil_part.py").write_text(EVIL.format(str(tmp_path / "ran")))
    monkeypatch.syspath_prepend(tmp_path)
    content = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    # The same class name as in the configuration, so that nothing seems to differ.
    own = content["vlm"]["model"]["fusion"]
    own["class_path"] = "evil_part." + own["class_path"].rpartition(".")[2]
    write_checkpoint(content, tmp_path / "a.ckpt")
    with pytest.raises(SystemExit):
        main(["test", "-c", str(run / "config.yaml"), "--ckpt_path", str(tmp_path / "a.ckpt")])
    assert "evil_part.Pooled is not a class of vlm's parts" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("auto_map", {"AutoModel": "someone/model--code.Model"}),
        ("attn_implementation", "someone/kernel"),
        ("checkpoint_path", "evil.pth"),
        ("cache_dir", 7),
        ("act_layer", "someone/kernel"),
    ],
)
def test_options_that_load_code_or_files_are_refused(shared: Path, key: str, value: Any) -> None:
    def change(config: dict[str, Any]) -> None:
        config["model"]["image_encoder"] = {
            "class_path": "vlm.image.TimmEncoder",
            "init_args": {"name": "resnet18", "model_args": {key: value}},
        }

    with pytest.raises(CheckpointError, match=rf"model_args: got {key}.* may load more"):
        vlm.load(changed(shared, change))


def test_a_shared_model_fetches_nothing(shared: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["model"]["text_encoder"] = {
            "class_path": "vlm.text.HuggingFaceEncoder",
            "init_args": {"name": "someone/model"},
        }

    with pytest.raises(CheckpointError, match=r"HuggingFaceEncoder.config: got None"):
        vlm.load(changed(shared, change))


def corrupt_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    """Corrupt the weights and update the checksum, as an attacker would."""
    from hashlib import sha256

    from safetensors.torch import load_file, save_file

    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)
    digest = sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    return changed(folder, lambda config: config["weights"].update(sha256=digest))


def test_weights_that_are_not_finite_are_refused(shared: Path, tmp_path: Path) -> None:
    broken = put_together(conv(), bag(), Classification)
    next(broken.model.head.parameters()).data[0] = torch.nan
    with pytest.raises(CheckpointError, match=r"not written, since head\..* is not finite"):
        broken.save(tmp_path / "broken")
    name = next(name for name, _ in broken.model.named_parameters())
    with pytest.raises(CheckpointError, match=f"{WEIGHTS}: {name} is not finite"):
        vlm.load(corrupt_weights(shared, lambda weights: weights[name].fill_(torch.inf)))


def test_weights_that_do_not_fit_are_named(shared: Path) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        weights["fusion.extra"] = weights.pop("fusion.merge.x_projection.bias")

    with pytest.raises(CheckpointError, match=r"(?s)missing here: fusion.merge.*fusion.extra"):
        vlm.load(corrupt_weights(shared, change))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def model_of(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    return lambda folder: changed(folder, lambda config: change(config["model"]))


MISTAKES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "flipped": (lambda f: flip(f / WEIGHTS), "damaged: its checksum differs"),
    "empty weights": (lambda f: (f / WEIGHTS).write_bytes(b""), "its checksum differs"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), f"{WEIGHTS}: there is no such file"),
    "pickle": (pickled, "pytorch_model.bin can hold code and is not read"),
    "no config": (lambda f: (f / CONFIG).unlink(), f"{CONFIG}: there is no such file"),
    "no JSON": (lambda f: (f / CONFIG).write_text("<html>"), "damaged: not JSON"),
    "deep JSON": (lambda f: (f / CONFIG).write_text("[" * 200_000), "damaged: not JSON"),
    "another list": (lambda f: (f / CONFIG).write_text("[]"), "not a model of vlm"),
    "of the hub": (lambda f: (f / CONFIG).write_text('{"model_type": "vilt"}'), "ViLT or BLIP"),
    "format": (lambda f: changed(f, lambda c: c.update(format=1)), "got format 1; expected 4"),
    "tied": (lambda f: changed(f, lambda c: c["weights"].update(tied={"a": "b"})), "weights.tied"),
    "a part too few": (model_of(lambda m: m.pop("head")), "expected image_encoder, text_encoder"),
    "a part elsewhere": (
        model_of(lambda m: m.update(head=m["fusion"])),
        r"head: got Pooled; expected one of AnswerHead's",
    ),
    "no part": (model_of(lambda m: m.update(head=3)), "expected a part's class_path"),
    "key": (model_of(lambda m: m["head"].update(hook="x")), "got the unknown keys hook"),
    "arguments": (model_of(lambda m: m["head"].update(init_args=[])), "init_args: expected"),
    "class": (model_of(lambda m: m["head"].update(class_path=7)), "expected a class as text"),
    "width": (
        model_of(lambda m: m["head"]["init_args"].update(in_dim="wide")),
        "cannot build the model",
    ),
    "size": (
        model_of(lambda m: m["head"]["init_args"].update(hidden_dims=[10**13])),
        "cannot build the model",
    ),
    "data module": (
        model_of(lambda m: m["head"].update(class_path="vlm.datasets.CustomDataset")),
        "vlm.datasets.CustomDataset is not a class of vlm's parts",
    ),
    "main": (
        model_of(lambda m: m["head"].update(class_path="vlm.__main__.Head")),
        "is not a class of vlm's parts",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_broken_shared_model_is_named_with_the_reason(name: str, shared: Path) -> None:
    spoil, message = MISTAKES[name]
    spoil(shared)
    with pytest.raises(CheckpointError, match=message) as caught:
        vlm.load(shared)
    assert str(shared) in str(caught.value)
    assert "weights_only" not in str(caught.value)


def test_files_of_other_kinds_are_named(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="weights alone; name the folder"):
        vlm.load(shared / WEIGHTS)
    (tmp_path / "a.bin").write_bytes(b"\x80\x04\x95.")
    with pytest.raises(CheckpointError, match="a pickle, which can run code") as caught:
        vlm.load(tmp_path / "a.bin", trust=True)
    assert "trust" not in str(caught.value)
