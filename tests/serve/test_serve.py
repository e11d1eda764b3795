"""`vlm serve` answers as the model does, and refuses the rest in words."""

from __future__ import annotations

import base64
import gzip
import json
import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import httpx
import pytest
import torch
from demo_server import bomb, untrained, write_model
from PIL import Image
from serving import KEY, QUESTION, Server, data_url, picture, serving

import vlm
from vlm.cli.main import main
from vlm.serve.listening import listen

pytest.importorskip("prometheus_client", reason="install it with `pip install 'vlm-vqa[serve]'`")


@pytest.fixture(scope="module")
def server(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(run, tmp_path_factory.mktemp("serve"), "--name=colors") as server:
        yield server


@pytest.fixture(scope="module")
def known(run: Path, data: Path) -> list[tuple[bytes, vlm.Answer]]:
    """Images, with the model's own answers."""
    vqa = vlm.load(run)
    paths = sorted((data / "test/images").iterdir())
    answers = vqa.answer(paths, [QUESTION] * len(paths))
    assert len({answer.text for answer in answers}) > 1, "a constant would pass"
    return [(path.read_bytes(), answer) for path, answer in zip(paths, answers, strict=True)]


def test_json_and_forms_give_the_model_s_answers(
    server: Server, known: list[tuple[bytes, vlm.Answer]]
) -> None:
    for content, expected in known[:4]:
        form = server.client.post(
            "/answer", files={"image": ("photo.png", content)}, data={"question": QUESTION}
        )
        for answer in (server.ask(content), form):
            said = answer.json()
            assert answer.status_code == 200
            assert said["answer"] == expected.text == said["top"][0]["answer"]
            assert said["probability"] == pytest.approx(expected.probability, abs=1e-5)
            assert (said["calibrated"], said["abstains"]) == (expected.calibrated, False)
            assert (said["warnings"], said["guess"]) == ([], None)


def test_fifty_clients_are_answered_in_batches(server: Server, run: Path) -> None:
    images = [picture(number) for number in range(150)]
    vqa = vlm.load(run)
    expected = [vqa.answer(image, QUESTION).text for image in images]
    batches, questions = (server.metric(f"vlm_batch_questions_{name}") for name in ("count", "sum"))
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(server.ask, images))
    assert [answer.status_code for answer in answers] == [200] * len(images)
    assert [answer.json()["answer"] for answer in answers] == expected
    assert server.metric("vlm_batch_questions_sum") - questions == len(images)
    assert server.metric("vlm_batch_questions_count") - batches < len(images)


def test_a_question_beyond_the_model_is_not_answered(server: Server) -> None:
    before = server.metric("vlm_abstentions_total")
    said = server.ask(picture(1), "wherefore quixotic zebras?").json()
    assert said["answer"] is said["probability"] is None
    assert said["guess"]
    assert "unknown to the model" in said["warnings"][0]
    assert server.metric("vlm_abstentions_total") == before + 1


def test_an_image_is_read_once(server: Server) -> None:
    before = server.metric('vlm_images_total{source="file"}')
    for question in (QUESTION, "is it red?", "is it blue?"):
        assert server.ask(picture(999), question).status_code == 200
    assert server.metric('vlm_images_total{source="file"}') == before + 1


IMAGE = data_url(picture(0))
REFUSED = {
    "no image": ({"question": QUESTION}, 422, "image: got none"),
    "no question": ({"image": IMAGE}, 422, "question: got none"),
    "empty question": ({"image": IMAGE, "question": " "}, 422, "question is empty"),
    "number": ({"image": IMAGE, "question": 3}, 422, "question: got 3"),
    "long": ({"image": IMAGE, "question": "x" * 8001}, 422, "8,001 characters"),
    "unknown": ({"image": IMAGE, "question": "a", "k": 1}, 422, "k: unknown"),
    "two images": (
        {"image": [IMAGE] * 2, "question": "a"},
        422,
        "got 2 for a question; this model",
    ),
    "empty list": ({"image": [], "question": "a"}, 422, "image: got none"),
    "choices": ({"image": IMAGE, "question": "a", "choices": ["a", "b"]}, 422, "does not choose"),
    "risk": ({"image": IMAGE, "question": "a", "max_risk": 0.1}, 422, "no threshold"),
    "no risk": ({"image": IMAGE, "question": "a", "max_risk": 2}, 422, "max_risk: got 2"),
    "base64": ({"image": "data:image/png;base64,???", "question": "a"}, 400, "not base64"),
    "percent": ({"image": "data:image/png,AAAA", "question": "a"}, 400, "not base64"),
    "type": ({"image": "data:text/plain;base64,AAAA", "question": "a"}, 400, "URL of text/plain"),
    "no png": ({"image": "data:image/png;base64,JVBERi0xLjc=", "question": "a"}, 422, "PDF"),
    "nothing": ({"image": "data:image/png;base64,", "question": "a"}, 422, "empty (0 bytes)"),
    "bomb": ({"image": data_url(bomb()), "question": "a"}, 422, "too large"),
    "path": ({"image": "/etc/passwd", "question": "a"}, 400, "expected a data: URL"),
    "file": ({"image": "file:///etc/passwd", "question": "a"}, 400, "not fetched"),
    "address": ({"image": "http://127.0.0.1:1/a.png", "question": "a"}, 400, "not fetched"),
    "surrogate": ({"image": IMAGE, "question": "\ud800"}, 422, "not valid Unicode"),
    "surrogates": ({"image": IMAGE, "question": "a", "\ud800": 1}, 422, "a valid string"),
    "half a type": ({"image": "data:\ud800;base64,AA", "question": "a"}, 400, "URL of \\ud800"),
    "half a path": ({"image": "http://127.0.0.1/\ud800", "question": "a"}, 400, "a data: URL"),
    "no name": ({"image": "https://xn--a/b.png", "question": "a"}, 400, "not fetched"),
    "bad address": ({"image": "http://a:b/", "question": "a"}, 400, "expected a data: URL"),
    "list": ([IMAGE, QUESTION], 400, "not a readable JSON object"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_answered_is_refused_in_words(server: Server, name: str) -> None:
    body, status, words = REFUSED[name]
    answer = server.client.post("/answer", content=json.dumps(body))
    assert (answer.status_code, words in answer.json()["detail"]) == (status, True), answer.text


def test_bodies_that_are_no_question(server: Server) -> None:
    def post(content: bytes, kind: str = "application/json") -> tuple[int, str]:
        answer = server.client.post("/answer", content=content, headers={"Content-Type": kind})
        return answer.status_code, answer.json()["detail"]

    assert post(b"{")[0] == post(b"\xff")[0] == post(b"[" * 9_000)[0] == 400
    assert post(b"[" * 20_000)[0] == 413
    assert post(b" " * 20_000_001) == (413, "The request is larger than 20 MB.")
    assert post(b"x", "multipart/form-data; boundary=b")[0] == 400
    # Python would decode it in minutes, and everybody else would wait.
    status, said = post(b"x", "multipart/form-data; boundary=b; charset=punycode")
    assert (status, "the charset" in said) == (400, True), said
    image = base64.b64encode(bytes(10_000_001)).decode()
    body = {"image": f"data:image/png;base64,{image}", "question": QUESTION}
    assert post(json.dumps(body).encode()) == (413, "image: at most 10 MB are read.")
    files = [("image", ("a.png", picture(1))), ("image", ("b.png", picture(2)))]
    two = server.client.post("/answer", files=files, data={"question": QUESTION})
    assert two.status_code == 422
    assert "image: got 2 for a question; this model takes one" in two.json()["detail"]
    file = {"question": ("a.txt", b"what?"), "image": ("a.png", picture(1))}
    asked = server.client.post("/answer", files=file)
    assert (asked.status_code, asked.json()["detail"]) == (
        422,
        "question: got a file; expected a text.",
    )
    noise = BytesIO()
    Image.frombytes("RGB", (700, 700), random.Random(0).randbytes(3 * 700 * 700)).save(noise, "PNG")
    assert len(noise.getvalue()) > 2**20
    large = {"image": (None, data_url(noise.getvalue())), "question": (None, QUESTION)}
    assert server.client.post("/answer", files=large).status_code == 200
    path = {"image": (None, "photo.png"), "question": (None, QUESTION)}  # curl's -F without the @
    text = server.client.post("/answer", files=path)
    assert text.status_code == 422
    assert (
        "got the text 'photo.png'; expected a file or a data: URL. With curl"
        in text.json()["detail"]
    )


def test_a_key_is_needed_and_the_host_is_checked(server: Server) -> None:
    for key in ("", "Bearer wrong", f"Basic {KEY}", "Bearer é"):
        headers = {"Authorization": key.encode()}
        for route in ("/answer", "/metrics", "/v1/models", "/openapi.json", "/nothing"):
            refused = httpx.get(server.address + route, headers=headers)
            assert refused.status_code == 401, route
        assert httpx.get(f"{server.address}/health", headers=headers).is_success
        assert httpx.get(f"{server.address}/ready").json() == {"status": "ready", "model": "colors"}
    home = server.client.get("/").json()
    assert home["model"] == "colors"
    assert "POST /answer" in home["ask"]
    foreign = server.client.get("/health", headers={"Host": "evil.example"})
    assert foreign.status_code == 403
    assert "--allow-host" in foreign.json()["detail"]
    assert server.client.get("/docs").status_code == 404


def test_an_answer_that_is_not_finite_is_the_server_s_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = untrained()
    embedding = model.text_encoder.embedding
    with torch.no_grad():
        embedding.weight[model.text_encoder.tokenizer.ids("red")] = 3e38
    with serving(write_model(model, tmp_path / "one.ckpt", "one"), tmp_path) as server:
        broken = server.ask(picture(1), "is it red?")
        assert broken.status_code == 500
        assert "the model's answer is not finite" in broken.json()["detail"]
        assert server.ask(picture(1), "is it blue?").is_success
        assert " POST /answer 500 " in server.log.read_text()
    with torch.no_grad():
        embedding.weight[:] = 3e38
    path = write_model(model, tmp_path / "all.ckpt", "all")
    with pytest.raises(SystemExit, match="vlm serve: the model's answer is not finite"):
        main(["serve", str(path), "--port=0"])
    assert "The server is at" not in capsys.readouterr().out


def test_the_schema_names_what_is_taken(server: Server) -> None:
    schema = server.client.get("/openapi.json").json()
    body = schema["paths"]["/answer"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "multipart/form-data"}
    assert set(body["application/json"]["schema"]["properties"]) == {
        *("image", "question", "choices", "max_risk"),
    }
    assert "Said" in schema["components"]["schemas"]


def test_a_slow_client_keeps_nobody_waiting(server: Server) -> None:
    body = json.dumps({"image": data_url(picture(5)), "question": QUESTION}).encode()
    place = urlsplit(server.address)
    head = f"POST /answer HTTP/1.1\r\nHost: localhost:{place.port}\r\nConnection: close\r\n"
    head += f"Authorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((place.hostname, place.port), timeout=60) as slow:
        slow.sendall(head.encode() + body[:50])
        assert server.ask(picture(6)).is_success
        slow.sendall(body[50:])
        answer = b"".join(iter(lambda: slow.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 200")


def test_the_log_holds_no_contents(server: Server) -> None:
    server.ask(picture(7), "is the xylophone red?")
    server.client.get("/secret-path")
    text = server.log.read_text()
    assert "POST /answer 200" in text
    for secret in ("xylophone", KEY, "secret-path", "127.0.0.1", "Traceback"):
        assert secret not in text


def test_a_model_that_chooses_needs_choices(tmp_path: Path) -> None:
    model = write_model(untrained("choices"), tmp_path / "it.ckpt", "it")
    with serving(model, tmp_path) as server:
        asked = {"question": QUESTION, "choices": ["red", "blue"]}
        form = server.client.post("/answer", files={"image": picture(1)}, data=asked)
        assert form.json()["answer"] in ("red", "blue")
        assert server.ask(picture(1)).status_code == 422
        many = [server.ask(picture(n), choices=["a", "b", "c"][: 2 + n % 2]) for n in range(4)]
        assert all(answer.is_success for answer in many)


class Images(BaseHTTPRequestHandler):
    """Serves one image, also packed, and redirects to it."""

    def do_GET(self) -> None:
        status = {"/a.png": 200, "/packed": 200, "/moved": 302}.get(self.path, 404)
        content = picture(3) if status == 200 else b""
        self.send_response(status)
        self.send_header("Location", "/a.png")
        if self.path == "/packed":
            content = gzip.compress(content)
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def test_images_are_fetched_from_allowed_hosts_alone(run: Path, tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Images) as images:
        Thread(target=images.serve_forever, daemon=True).start()
        port = images.server_address[1]
        allowed = ("--allow-image-host=127.0.0.1", "--allow-image-host=LOCALHOST")
        with serving(run, tmp_path, *allowed) as server:

            def ask(url: str) -> httpx.Response:
                return server.client.post("/answer", json={"image": url, "question": QUESTION})

            good = ask(f"http://127.0.0.1:{port}/a.png")
            assert good.json()["answer"] == server.ask(picture(3)).json()["answer"]
            for path, words in (("moved", "said 302"), ("none", "said 404")):
                assert words in ask(f"http://127.0.0.1:{port}/{path}").json()["detail"]
            assert "gave none" in ask("http://127.0.0.1:1/a.png").json()["detail"]
            assert ask(f"http://localhost:{port}/a.png").is_success
            packed = ask(f"http://127.0.0.1:{port}/packed")
            assert "an archive" in packed.json()["detail"], "it is not unpacked"
            for other in ("[::1]", "127.0.0.2", "127.0.0.1@127.0.0.2", "127.0.0.1.example.org"):
                refused = ask(f"http://{other}:{port}/a.png").json()["detail"]
                assert "an address at 127.0.0.1, localhost" in refused, other
        images.shutdown()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--port=70000", "--port: got 70000"),
        ("--batch=0", "--batch: got 0"),
        ("--seconds=inf", "--seconds: got inf"),
        ("--allow-image-host=http://a", "--allow-image-host: got 'http://a'"),
        ("--device=gpu0", "--device: got 'gpu0'"),
    ],
)
def test_options_that_cannot_be(
    run: Path, option: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", str(run), "--port=0", option])
    assert message in str(ended.value) + capsys.readouterr().err


def test_an_answer_s_body_does_not_wait_for_its_headers() -> None:
    """Accepted connections send small packets at once: asyncio does not see to it here."""
    with (
        listen("127.0.0.1", [0]) as server,
        socket.create_connection(server.getsockname()),
        server.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_in_use_is_said_before_the_model_loads(run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = (
            rf"cannot listen on 127.0.0.1:{port} \(Address already in use\); choose another --port"
        )
        with pytest.raises(SystemExit, match=said):
            main(["serve", str(run), f"--port={port}"])
