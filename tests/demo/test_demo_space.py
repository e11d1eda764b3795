"""`vlm demo --space` writes a folder whose app serves the page to everybody."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import yaml
from demo_server import start, untrained, write_model

import vlm
from vlm.cli.main import main
from vlm.demo.space import write_space

pytest.importorskip("gradio", reason="install it with `pip install 'vlm-vqa[demo]'`")


@pytest.mark.slow
def test_the_space_s_app_serves_its_models(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_model(untrained(), tmp_path / "other.ckpt", "other")
    main(["demo", str(run), str(other), f"--space={tmp_path / 'space'}"])
    folder = tmp_path / "space"
    card = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert (card["sdk"], card["app_file"]) == ("gradio", "app.py")
    assert (folder / "requirements.txt").read_text().startswith("vlm-vqa[demo]==")
    first = f"{run.parent.name}-{run.name}"  # the page's name, without what is a path
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == [first, "other"]
    assert vlm.load(folder / first).model.config == vlm.load(run).model.config
    with pytest.raises(SystemExit, match="is not empty"):
        main(["demo", str(run), f"--space={folder}"])
    # Its app, on another port than 7860 and with the models' full paths.
    app = (folder / "app.py").read_text().replace(', "--port=7860"', ", *sys.argv[1:]")
    for name in (first, "other"):
        app = app.replace(f'"{name}"', f'"{folder / name}"')
    app = app.replace("import os", "import os, sys")
    (tmp_path / "app.py").write_text(app)
    monkeypatch.setenv("SPACE_HOST", "me-colors.hf.space")
    address = start((), program=(tmp_path / "app.py",))
    host = {"Host": "me-colors.hf.space"}
    plain = httpx.get(address, headers=host)
    assert "SameSite=Lax" in plain.headers["Set-Cookie"], "over HTTP no browser takes the other"
    page = httpx.get(address, headers=host | {"X-Forwarded-Proto": "https"})
    assert page.is_success, "without a password"
    assert (
        page.headers["Content-Security-Policy"] == "frame-ancestors 'self' https://huggingface.co"
    )
    assert "X-Frame-Options" not in page.headers
    assert "SameSite=None; Secure; Partitioned" in page.headers["Set-Cookie"]
    assert httpx.get(address, headers={"Host": "evil.example"}).status_code == 403


def test_a_public_demo_has_no_password(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["demo", str(run), "--public", "--auth=me:mine"])
    assert "--public: got a password too" in capsys.readouterr().err


def test_names_of_models_become_folders_of_their_own(tmp_path: Path) -> None:
    titles = {"a/b": untrained(), "a-b": untrained(), "...": untrained()}
    models = {title: vlm.VQA(model) for title, model in titles.items()}
    assert write_space(models, tmp_path / "space") == []
    assert "--trust" not in (tmp_path / "space/app.py").read_text()
    folders = sorted(path.name for path in (tmp_path / "space").iterdir() if path.is_dir())
    assert folders == ["a-b", "a-b-2", "model"]
    card = yaml.safe_load((tmp_path / "space/README.md").read_text().split("---")[1])
    assert (card["title"], card["python_version"]) == ("a/b, a-b, ...", "3.11")


def test_a_space_runs_parts_from_outside_vlm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "outside.py").write_text(
        "import vlm\n\nclass Mine(vlm.fusion.CrossAttention): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from outside import Mine

    own = untrained()
    model = vlm.VQAModel(own.image_encoder, own.text_encoder, Mine(12, 11), own.head)
    path = write_model(model, tmp_path / "mine.ckpt", "mine")
    main(["demo", str(path), "--trust", f"--space={tmp_path / 'space'}"])
    assert "parts of outside: put this code into" in capsys.readouterr().out
    assert '"mine", "--trust", "--host=' in (tmp_path / "space/app.py").read_text()
