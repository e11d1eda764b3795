"""Files that cannot be downloaded are reported at once, in one sentence."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import small_run
from own_time import own_time

from vlm.cli.main import main
from vlm.pretrained import availability as reach
from vlm.pretrained.availability import (
    FetchError,
    check_hub,
    hub_access,
    nothing_fetched,
    url_access,
)


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(reach, "_silent", {})


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that accepts connections but never answers."""
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        yield address


def test_a_server_that_never_answers_is_not_waited_for(silent: str) -> None:
    start = own_time()
    with pytest.raises(
        OSError, match=rf"someone/model: .* since {silent} does not answer"
    ) as error:
        check_hub("someone/model")
    assert own_time() - start < 2
    assert "pretrained" not in str(error.value)


def test_a_look_up_of_a_name_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "_asked", lambda url: time.sleep(3))
    start = own_time()
    with pytest.raises(OSError, match=r"does not answer within 1\.5 s"):
        check_hub("someone/model")
    assert own_time() - start < 2


def test_a_server_is_asked_once_for_the_files_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not answer is asked once, and again when that result has expired."""
    asked: list[str] = []

    def ask(url: str) -> str | None:
        asked.append(url)
        return f"{url} does not answer (call {len(asked)})"

    def load() -> None:
        with hub_access("someone/model"):
            raise OSError("not in the cache")

    monkeypatch.setattr(reach, "_asked", ask)
    for _ in range(2):
        with pytest.raises(OSError, match=r"does not answer \(call 1\)"):
            load()
    monkeypatch.setattr(reach, "REMEMBERED", 0)
    with pytest.raises(OSError, match=r"does not answer \(call 2\)"):
        load()
    monkeypatch.setattr(reach, "_asked", lambda url: None)
    with pytest.raises(OSError, match="and got: not in the cache"):
        load()


@pytest.mark.parametrize("refused", [ConnectionRefusedError("refused"), ValueError("bad URL")])
def test_any_obstacle_is_a_sentence(monkeypatch: pytest.MonkeyPatch, refused: Exception) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise refused

    monkeypatch.setattr(reach, "urlopen", fail)
    with pytest.raises(OSError, match=rf"does not answer \({refused}\)"):
        check_hub("someone/model")


def test_folders_and_cached_models_need_no_server(silent: str, tmp_path: Path) -> None:
    check_hub(str(tmp_path))
    (tmp_path / "cache/models--someone--model/snapshots").mkdir(parents=True)
    check_hub("someone/model")
    with pytest.raises(FetchError):
        check_hub("someone/other")


def test_names_that_are_none(silent: str) -> None:
    with pytest.raises(OSError, match="a b/c: no name of a model on the hub"):
        check_hub("a b/c")


def test_from_scratch_is_advised_only_where_it_helps(silent: str) -> None:
    for from_scratch in (False, True):
        with pytest.raises(OSError, match="looked in the cache") as error:  # noqa: SIM117  the order matters
            with hub_access("someone/model", from_scratch=from_scratch):
                raise OSError("not here")
        assert ("pretrained=False" in str(error.value)) == from_scratch


def test_a_stored_model_may_fetch_nothing() -> None:
    with nothing_fetched():
        for access in (hub_access("a/b"), url_access("a", "http://127.0.0.1:9/a.pth")):
            with pytest.raises(OSError, match="a stored model may not fetch this"), access:
                pass


def test_the_demo_says_so_before_torch_is_imported() -> None:
    code = """
import sys
from vlm.cli.main import main
try:
    main(["demo", "hf:someone/nosuch"])
finally:
    assert "torch" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 1
    assert re.fullmatch(r"vlm demo: someone/nosuch: .*HF_HUB_OFFLINE is set.*\n", done.stderr)


IMAGE, TEXT, HEAD = (f"--model.{part}" for part in ("image_encoder", "text_encoder", "head"))
NAMED = {
    "transformers": [f"{TEXT}=vlm.text.HuggingFaceEncoder", f"{TEXT}.name=someone/nosuch"],
    "a decoder": [
        f"{HEAD}=vlm.heads.Generation",
        f"{HEAD}.decoder=vlm.heads.HuggingFaceDecoder",
        f"{HEAD}.decoder.name=someone/nosuch",
    ],
    "timm": [
        f"{IMAGE}=vlm.image.TimmEncoder",
        f"{IMAGE}.name=resnet10t",
        f"{IMAGE}.pretrained=true",
    ],
    "open_clip's hub": [
        f"{IMAGE}=vlm.image.OpenClipImageEncoder",
        f"{IMAGE}.name=hf-hub:someone/nosuch",
    ],
    "open_clip": [
        f"{IMAGE}=vlm.image.OpenClipImageEncoder",
        f"{IMAGE}.name=ViT-B-32",
        f"{IMAGE}.pretrained=laion2b_s34b_b79k",
    ],
}


@pytest.mark.parametrize("library", NAMED)
def test_a_training_says_it_in_a_line(
    library: str,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A training run without network fails with one line and no messages from the libraries."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit) as stopped:
        main([*small_run(data, tmp_path), *NAMED[library]])
    assert stopped.value.code == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vlm")]
    assert len(said) == 1
    name = "[a-zA-Z0-9-]+/[a-zA-Z0-9_.-]+|resnet10t"
    assert re.match(rf"vlm: ({name}): the model could not be loaded; looked in", said[0])
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
