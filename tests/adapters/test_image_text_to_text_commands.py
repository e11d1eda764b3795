"""Every command that asks a model asks an image-text-to-text model of the hub too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hub_server import Hub, hub_server
from hub_vlms import vlm_folder
from PIL import Image

import vlm
from vlm.adapters import ImageTextToText
from vlm.cli.main import main
from vlm.demo.asker import Asker
from vlm.pretrained.availability import FetchError

QUESTIONS = ["what color is the cat", "is it red"]
NAME = "somebody/llava-tiny"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vlm_folder(tmp_path_factory.mktemp("vlm") / "llava", "llava")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> Iterator[Hub]:
    with hub_server() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        template = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        hub.commit(NAME, {**files, "pytorch_model.bin": b"pickle", "original/x.json": b"{}"})
        yield hub


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Questions about six images, a third with choices."""
    rows: list[dict[str, Any]] = []
    for number in range(12):
        name = f"{number // 2}.png"
        Image.new("RGB", (40, 30), (40 * (number // 2), 90, 200)).save(tmp_path / name)
        row: dict[str, Any] = {
            "id": str(number),
            "image": name,
            "question": QUESTIONS[number % 2],
            "answer": "red",
        }
        rows.append(row | ({"choices": ["red", "blue"]} if number % 3 == 0 else {}))
    path = tmp_path / "my.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def photo(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 48), (200, 30, 30)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_model_is_fetched_by_its_name_without_pickles(hub: Hub, folder: Path) -> None:
    vqa, image = vlm.load(f"hf:{NAME}"), Image.new("RGB", (60, 60))
    assert isinstance(vqa, ImageTextToText)
    assert vqa.about["run"] == NAME
    assert vqa.answer(image, QUESTIONS) == vlm.load(folder).answer(image, QUESTIONS)
    fetched = {path.rpartition("/")[2] for method, path in hub.asked if "/resolve/" in path}
    assert "model.safetensors" in fetched
    assert not {"pytorch_model.bin", "x.json"} & fetched


def test_a_licence_that_wants_a_login(hub: Hub) -> None:
    hub.gated.add(NAME)
    with pytest.raises(FetchError, match=rf"{NAME}.*licence wants a login: accept it at .*{NAME}"):
        vlm.load(f"hf:{NAME}")


def test_what_cannot_be_asked_is_refused_before_its_weights_are_fetched(hub: Hub) -> None:
    config = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}
    hub.commit(
        "somebody/gpt", {"config.json": json.dumps(config).encode(), "model.safetensors": b""}
    )
    with pytest.raises(ValueError, match="somebody/gpt: the model is GPT2LMHeadModel; expected"):
        vlm.load("hf:somebody/gpt")
    assert not [path for _, path in hub.asked if path.endswith("model.safetensors")]


def test_ask(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = photo(tmp_path)
    main(["ask", str(folder), str(image), QUESTIONS[0]])
    assert vlm.load(folder).answer(image, QUESTIONS[0]).text in capsys.readouterr().out
    main(["ask", str(folder), str(image), QUESTIONS[0], "--choices", "red", "blue"])
    assert {"red", "blue"} <= set(capsys.readouterr().out.split())
    with pytest.raises(SystemExit, match=r"prompt: got 'Why\?'"):
        main(["ask", str(folder), str(image), QUESTIONS[0], "--prompt", "Why?"])


def test_predict_and_evaluate(
    folder: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["predict", str(folder), "--dataset.path", str(table), "--batch", "5"])
    path = table.parent / "my_answers.jsonl"
    rows = list(map(json.loads, path.read_text().splitlines()))
    vqa = vlm.load(folder)
    for row in rows:
        asked = (table.parent / row["image"], row["question"], 1, row.get("choices"))
        answer = vqa.answer(*asked)
        assert row["prediction"] == answer.text
        assert row["probability"] == pytest.approx(answer.probability, rel=1e-3)
    assert {row["prediction"] for row in rows if "choices" in row} <= {"red", "blue"}
    capsys.readouterr()
    data = ["--dataset=vlm.datasets.CustomDataset", f"--dataset.path={table}"]
    split = ["--split", "validation"]
    held_out = [row for row in rows if row["id"] in ("4", "5")]  # the image that is validation's
    path.write_text("".join(json.dumps(row) + "\n" for row in held_out))
    main(["evaluate", str(path), "-c", "configs/own_data.yaml", *data, *split])
    assert "validation questions answered" in capsys.readouterr().out


def test_explain(folder: Path, tmp_path: Path) -> None:
    image, output = photo(tmp_path), tmp_path / "why"
    asked = ["explain", str(folder), str(image), QUESTIONS[0], "--answer", "red"]
    main([*asked, "--output", str(output)])
    found = json.loads(output.with_suffix(".json").read_text())
    assert found["answer"] == "red"
    assert found["words"] == QUESTIONS[0].split()
    assert output.with_suffix(".png").is_file()
    with pytest.raises(SystemExit, match="--method: got grad_cam; expected occlusion"):
        main([*asked, "--method", "grad_cam"])


def test_report(folder: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlm.trust.objects.EXPLAINED", 1)
    monkeypatch.setattr("vlm.trust.stress.SEVERITIES", (5,))
    data = ["--dataset=vlm.datasets.CustomDataset", f"--dataset.path={table}"]
    asked = ["report", str(folder), "-c", "configs/own_data.yaml", *data, "--split", "validation"]
    output = ["--output", str(tmp_path / "report")]
    main([*asked, *output])
    sections = json.loads((tmp_path / "report" / "report.json").read_text())["sections"]
    assert sections["accuracy"]["numbers"][0]["questions"] == 2
    assert sections["consistency"]["numbers"][0]["wording"] == "upper case"
    assert sections["corruptions"]["numbers"]["jpeg"].keys() == {"5"}
    assert "all of these were cut" in sections["grounding"]["text"][0]
    assert "with a grey image" in sections["language"]["numbers"]
    broken = [name for name, section in sections.items() if "Error" in str(section["text"])]
    assert broken == []

    for row in (rows := list(map(json.loads, table.read_text().splitlines()))):
        row["choices"] = ["red", "blue"]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = ["--output", str(tmp_path / "chosen"), "--only", "accuracy", "grounding"]
    main([*asked, *output])
    sections = json.loads((tmp_path / "chosen" / "report.json").read_text())["sections"]
    assert sections["accuracy"]["numbers"][0]["majority"] == 1
    assert "answers to 1 questions" in sections["grounding"]["text"][0]


def test_serve_answers_openai_s_clients(folder: Path, tmp_path: Path) -> None:
    import base64

    from vlm.serve.app import application
    from vlm.serve.reader import read_upload
    from vlm.serve.requests import Hosts
    from vlm.serve.service import Service

    image = photo(tmp_path)
    vqa = vlm.load(folder)
    service = Service(vqa, read_upload)
    service.warm_up()
    hosts = Hosts("testserver", 80, ("testserver",))
    url = f"data:image/png;base64,{base64.b64encode(image.read_bytes()).decode()}"
    content = [
        {"type": "text", "text": QUESTIONS[0]},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    body = {"model": "llava", "messages": [{"role": "user", "content": content}]}
    with TestClient(application(service, "llava", hosts, (), ())) as client:
        free = client.post("/v1/chat/completions", json=body).json()
        chosen = client.post(
            "/v1/chat/completions", json={**body, "choices": ["red", "blue"]}
        ).json()
    assert free["choices"][0]["message"]["content"] == vqa.answer(image, QUESTIONS[0]).text
    assert chosen["choices"][0]["message"]["content"] in ("red", "blue")
    assert sum(row["probability"] for row in chosen["vlm"]["top"]) == pytest.approx(1)


def test_demo_asks_and_explains(folder: Path) -> None:
    vqa = vlm.load(folder)
    assert isinstance(vqa, ImageTextToText)
    asker = Asker({"llava": vqa})
    buffer = BytesIO()
    Image.new("RGB", (64, 48), (200, 30, 30)).save(buffer, "PNG")
    content = buffer.getvalue()
    assert asker.methods == ["occlusion"]
    (reply,) = asker.ask(content, QUESTIONS[0], ["llava"])
    assert reply.scale.startswith("The probability of writing exactly this. Not calibrated")
    assert (
        "No reasons: the answer never ended."
        in asker.explain(content, QUESTIONS[0], reply, "occlusion").notes
    )
    (reply,) = asker.ask(content, QUESTIONS[0], ["llava"], ["red", "blue"])
    assert reply.scale.startswith("Shares among the choices.")
    explained = asker.explain(content, QUESTIONS[0], reply, "occlusion", ["red", "blue"])
    assert explained.explanation is not None
    assert explained.explanation.answer == reply.answer.text
