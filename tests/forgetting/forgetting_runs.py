"""Small runs whose encoders start from weights in a file, for `vlm forgetting`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import timm
import torch
import yaml
from conftest import small_run
from safetensors.torch import save_file

from vlm.cli.main import main
from vlm.cli.training_cli import VQACLI
from vlm.studies.forgetting.texts import read_sentences

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
WORDS = ["what", "color", "is", "it", "the", "image", "not", "red", "green", "blue"]


def write_weights(folder: Path) -> Path:
    """A folder of "pretrained" weights: a network with its classifier, and a table of word
    vectors."""
    torch.manual_seed(1)
    whole = timm.create_model("vit_tiny_patch16_224", **VIT)
    save_file(whole.state_dict(), folder / "vit.safetensors")
    words = list(dict.fromkeys([*WORDS, *read_sentences(None).words]))
    rows = [" ".join([w, *(f"{x:.5f}" for x in torch.randn(7).tolist())]) for w in words]
    (folder / "vectors.txt").write_text("\n".join(rows) + "\n")
    return folder


def fit(data: Path, weights: Path, folder: Path, *more: str) -> Path:
    """Train, and return the run's folder."""
    vectors = {"class_path": "vlm.text.VectorTokenizer"}
    vectors["init_args"] = {"vectors": str(weights / "vectors.txt")}
    image = {
        "class_path": "vlm.image.TimmEncoder",
        "init_args": {
            "name": "vit_tiny_patch16_224",
            "pretrained": str(weights / "vit.safetensors"),
            "model_args": VIT,
        },
    }
    text = {"class_path": "vlm.text.BagOfWords"}
    text["init_args"] = {"dim": 7, "hidden_dim": 5, "tokenizer": vectors}
    config = weights / "model.yaml"
    config.write_text(yaml.safe_dump({"model": {"image_encoder": image, "text_encoder": text}}))
    told = [*small_run(data, folder), f"-c={config}", "--trainer.max_epochs=1", "--run.test=false"]
    return VQACLI([*told, "--trainer.enable_model_summary=false", *more]).run_folder


FROZEN = [f"--model.tuning.{part}_encoder.frozen=true" for part in ("image", "text")]
LORA = ["--model.tuning.image_encoder.lora.rank=2"]
STAGED = ["--model.tuning.image_encoder.from_epoch=1", "--model.tuning.image_encoder.lr_scale=0.5"]
STAGED += ["--trainer.max_epochs=2"]


def ask(*arguments: object) -> None:
    main(["forgetting", *map(str, arguments)])


def fails(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 1) -> str:
    """The error message of a command that fails."""
    with pytest.raises(SystemExit) as stopped:
        ask(*arguments)
    if isinstance(stopped.value.code, str):
        assert code == 1
        assert stopped.value.code.startswith("vlm forgetting: ")
        return stopped.value.code
    assert stopped.value.code == code
    return capsys.readouterr().err


def changed(run: Path, folder: Path, **settings: object) -> Path:
    """A copy of a run with configuration changes; `__` in names stands for a dot."""
    shutil.copytree(run, folder / "copy")
    path = folder / "copy/config.yaml"
    config = yaml.safe_load(path.read_text())
    for name, value in settings.items():
        *above, last = name.split("__")
        place = config
        for key in above:
            place = place[key]
        place[last] = value
    path.write_text(yaml.safe_dump(config))
    return folder / "copy"


PRETRAINED = "model__image_encoder__init_args__pretrained"
INIT_FROM = "model__tuning__init_from"
