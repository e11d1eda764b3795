"""No request opens a file on the server; requests of other sites or visitors are refused."""

from __future__ import annotations

import base64
import http.client
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from demo_server import file_of, start, untrained, write_model
from gradio_routes import KEPT, judged
from PIL import Image

from vlm.demo.gate import MAX_TEXT, NOT_YOURS
from vlm.demo.uploads import AT_ONCE
from vlm.serve.requests import MAX_PARTS

QUESTION = "what color is it?"
RED = file_of(Image.new("RGB", (20, 10), "red"))
MARK = {"_type": "gradio.FileData"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gradio", reason="install it with `pip install 'vlm-vqa[demo]'`")
    folder = tmp_path_factory.mktemp("gate")
    write_model(untrained(), folder / "it.ckpt", "it")
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> str:
    program = (Path(__file__).with_name("audited_demo.py"), folder / "notes")
    address = start((folder / "it.ckpt",), "--allow-host=demo.example.org", program=program)
    with httpx.Client(base_url=address, timeout=60) as client:  # trigger late imports now
        asks(client, {"path": put(client)})
        client.get("/gradio_api/info")
    return address


@pytest.fixture
def opened(folder: Path) -> Iterator[None]:
    """Check that the server opens no file during the test."""
    notes = folder / "notes"
    before = notes.stat().st_size
    yield
    assert notes.read_bytes()[before:].decode() == ""


@pytest.fixture
def visitor(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=60) as client:
        yield client


@pytest.fixture
def stranger(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=60) as client:
        yield client


@pytest.fixture
def hostile(tmp_path: Path) -> list[str]:
    """Names of files, folders and devices that no visitor may read."""
    (tmp_path / "image.png").write_bytes(RED)
    (tmp_path / ".hidden.png").write_bytes(RED)
    (tmp_path / "link.png").symlink_to(tmp_path / "image.png")
    os.mkfifo(tmp_path / "fifo")
    absolute = [str(path) for path in tmp_path.iterdir()]
    return [
        *absolute,
        *(
            "image.png",
            "./image.png",
            f"../{tmp_path.name}/image.png",
            ".hidden.png",
            "link.png",
        ),
        *(str(tmp_path), ".", "", "/", "/etc/passwd", "/dev/zero", "/dev/stdin", "/dev/fd/0"),
        *("/proc/self/environ", "/proc/self/fd/0", "/proc/self/cwd/image.png", "/missing/a.png"),
        *(f"file://{tmp_path}/image.png", "http://127.0.0.1:1/a.png", "a\0b.png", "x" * 5000),
        *("\ud800.png", "..%2fimage.png"),
        f"/gradio_api/file={tmp_path}/image.png",
    ]


def shapes(name: Any) -> Iterator[Any]:
    """The ways in which a request can name a file."""
    for more in ({}, {"meta": MARK}):
        yield {"path": name, **more}
        yield {"path": name, "url": name, **more}
        yield {"url": f"http://127.0.0.1:1/{name}"[:80], **more}
    yield {"path": name, "meta": MARK, "orig_name": "a.svg", "is_stream": True}
    yield [{"path": name, "meta": MARK}]
    yield {"value": {"path": name, "meta": MARK}}
    yield {"path": {"path": name, "meta": MARK}, "meta": MARK}


def sent(payload: Any) -> Iterator[tuple[str, str]]:
    """Requests with the payload in every place of every endpoint that takes JSON."""
    body = json.dumps
    for place in range(5):
        data: list[Any] = [None, QUESTION, None, "none", None, None]
        data[place] = payload
        yield "/gradio_api/call/ask", body({"data": data})
    for function in range(4):
        join = {"data": [payload] * 5, "fn_index": function, "session_hash": "mine"}
        yield "/gradio_api/queue/join", body(join)
    join = {"data": [], "fn_index": 1, "session_hash": "mine", "event_data": payload}
    yield "/gradio_api/queue/join", body(join)
    yield "/gradio_api/call/v2/ask", body({"image": payload, "question": QUESTION})
    for shut in ("run/ask", "api/ask", "component_server", "stream/a", "process_recording"):
        yield f"/gradio_api/{shut}", body({"data": [payload]})


@pytest.mark.usefixtures("opened")
def test_no_file_that_is_named_is_opened(visitor: httpx.Client, hostile: list[str]) -> None:
    answers = set()
    for name in hostile:
        everywhere = sent({"path": name, "meta": MARK}) if name in hostile[::8] else ()
        first = (next(sent(payload)) for payload in shapes(name))
        for path, content in (*everywhere, *first):
            answer = visitor.post(path, content=content)
            assert answer.status_code in (403, 404), (path, content, answer.text)
            if answer.status_code == 403:
                answers.add(answer.text)
    # The answer is the same whether or not the file exists.
    assert answers == {json.dumps({"detail": NOT_YOURS}, separators=(",", ":"))}
    asks(visitor, {"url": f"data:image/png;base64,{base64.b64encode(RED).decode()}"})


@pytest.mark.usefixtures("opened")
def test_no_address_opens_a_file(visitor: httpx.Client, hostile: list[str]) -> None:
    quoted = [name.encode("utf-8", "surrogatepass") for name in hostile]
    names = ["".join(f"%{byte:02x}" for byte in name) for name in quoted]
    plain = [name for name in hostile if name.isprintable() and name.isascii() and "?" not in name]
    starts = ("gradio_api/file=", "gradio_api/file/", "gradio_api/proxy=", "assets/", "static/")
    starts += ("svelte/", "gradio_api/custom_component/", "gradio_api/stream/", "gradio_api//file=")
    seen = set()
    for begin in (*starts, "assets/../../../", "static/%2e%2e/%2e%2e/", "%2567radio_api/file="):
        for name in (*names, *plain):
            for method in ("GET", "HEAD"):
                answer = raw(visitor, method, f"/{begin}{name}")
                seen.add(answer)
    assert seen <= {400, 403, 404}


def raw(visitor: httpx.Client, method: str, path: str) -> int:
    """The status of a request whose path is sent unnormalised."""
    host, port = visitor.base_url.host, visitor.base_url.port
    connection = http.client.HTTPConnection(host, port, timeout=60)
    try:
        connection._validate_path = lambda _: None  # type: ignore[attr-defined]  # private
        connection.request(method, path)
        return connection.getresponse().status
    finally:
        connection.close()


def asks(visitor: httpx.Client, image: Any) -> dict[str, Any]:
    """Ask a question over plain HTTP and return the answer."""
    body = {"data": [image, QUESTION, None, "none", None, None]}
    event = visitor.post("/gradio_api/call/ask", json=body).json()["event_id"]
    text = visitor.get(f"/gradio_api/call/ask/{event}").text
    assert text.startswith("event: complete"), text
    return json.loads(text.partition("data: ")[2])[0]


def put(visitor: httpx.Client, name: str = "a.png", content: bytes = RED) -> str:
    answer = visitor.post("/gradio_api/upload", files={"files": (name, content)})
    assert answer.status_code == 200, answer.text
    return answer.json()[0]


@pytest.mark.usefixtures("opened")
@pytest.mark.parametrize("name", ["a.png", "../../a.png", "/etc/passwd", ".a", "x" * 3000, "\0"])
def test_an_upload_is_its_visitor_s_alone_and_never_on_disk(
    visitor: httpx.Client, stranger: httpx.Client, name: str
) -> None:
    mine = put(visitor, name)
    assert visitor.get(f"/gradio_api/file={mine}").content == RED
    for more in ({}, {"meta": MARK}, {"url": f"http://x/gradio_api/file={mine}"}):
        assert asks(visitor, {"path": mine, **more})["replies"][0]["answer"]
    assert put(stranger) != mine
    for asked in ("one who has uploads", "one who is new"):
        if "new" in asked:
            stranger.cookies.clear()
        assert stranger.get(f"/gradio_api/file={mine}").status_code == 404
        body = {"data": [{"path": mine, "meta": MARK}, QUESTION, None, "none", None, None]}
        answer = stranger.post("/gradio_api/call/ask", json=body)
        assert (answer.status_code, answer.json()["detail"]) == (403, NOT_YOURS)


def test_nobody_reads_the_answers_of_another_session(
    visitor: httpx.Client, stranger: httpx.Client
) -> None:
    page = visitor.get("/config").json()
    (function,) = (d["id"] for d in page["dependencies"] if d["api_name"] == "ask")
    mine = put(visitor)
    body = {"data": [{"path": mine}, QUESTION, None, "none", None, None], "fn_index": function}
    body |= {"session_hash": "mysession", "trigger_id": None}
    assert visitor.post("/gradio_api/queue/join", json=body).status_code == 200
    stranger.get("/config")
    for path in ("queue/data?session_hash=mysession", "call/ask/mysession"):
        text = ""
        with (
            suppress(httpx.RemoteProtocolError),
            stranger.stream("GET", f"/gradio_api/{path}") as got,
        ):
            for part in got.iter_text():
                text += part
        assert "session_not_found" in text or "event: error" in text
        assert "complete" not in text
    text = visitor.get("/gradio_api/queue/data?session_hash=mysession").text
    assert "process_completed" in text
    assert '"success":true' in text


BAD_BODIES: dict[str, bytes] = {
    "no JSON": b"{",
    "nothing": b"",
    "a list": b"[]",
    "a number": b"3",
    "deep": b'{"data": ' + b"[" * 9_000 + b"]" * 9_000 + b"}",
    "wide": b'{"data": [' + b"[]," * MAX_PARTS + b"0]}",
    "many paths": b'{"data": [' + b'{"path": "/etc/passwd"},' * 900 + b"0]}",
    "a path twice": b'{"data": [{"path": "/etc/passwd", "path": "/etc/hosts", "meta": {}}]}',
    "a long number": b'{"data": [' + b"9" * 100_000 + b"]}",
    "no number": b'{"data": [NaN]}',
    "too large a number": b'{"data": [1e999]}',
    "a long text": b'{"data": ["' + b"x" * MAX_TEXT + b'"]}',
    "no UTF-8": b'{"data": ["\xff"]}',
    "base64 of a bomb": b'{"data": [{"url": "data:,' + b"A" * 15_000_000 + b'"}]}',
    "no base64": b'{"data": [{"url": "data:image/png;base64,*"}]}',
}


@pytest.mark.usefixtures("opened")
@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
def test_a_bad_body_gets_a_sentence(visitor: httpx.Client, body: bytes) -> None:
    for path in ("call/ask", "call/v2/ask", "queue/join", "cancel", "reset"):
        answer = visitor.post(f"/gradio_api/{path}", content=body)
        assert answer.status_code in (400, 403, 413)
        assert answer.json()["detail"].endswith(".")


def test_several_files_of_one_form(visitor: httpx.Client) -> None:
    files = [("files", (f"{n}.png", b"%d" % n)) for n in range(3)]
    names = visitor.post("/gradio_api/upload", files=files).json()
    assert [visitor.get(f"/gradio_api/file={name}").content for name in names] == [b"0", b"1", b"2"]


@pytest.mark.usefixtures("opened")
def test_what_is_no_form_is_no_upload(visitor: httpx.Client) -> None:
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n1\r\n'
    cases = [
        ({}, b"content"),
        (form, b"content"),
        (form, b""),
        ({"Content-Type": "multipart/form-data"}, part + b"--x--\r\n"),
        (form, part * (AT_ONCE + 1) + b"--x--\r\n"),
        (form, part * 5000 + b"--x--\r\n"),
        (form, b'--x\r\nContent-Disposition: form-data; name="files"\r\n\r\ntext\r\n--x--\r\n'),
        (form, b"--x\r\nContent-Disposition: form-data\r\n\r\ntext\r\n--x--\r\n"),
        (form, part),
    ]
    for headers, body in cases:
        answer = visitor.post("/gradio_api/upload", content=body, headers=headers)
        assert answer.status_code == 400, (body[:80], answer.text)
        assert "one file" in answer.json()["detail"]
    files = {"files": ("a", b"x" * 10_000_001)}
    assert visitor.post("/gradio_api/upload", files=files).status_code == 413


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:PORT"}, 200),
        ({"Host": "[::1]:PORT"}, 200),
        ({"Host": "demo.example.org"}, 200),
        ({"Host": "DEMO.example.org:8443", "Origin": "https://demo.example.org"}, 200),
        ({"Host": "localhost:1"}, 403),
        ({"Host": "localhost"}, 403),
        ({"Host": "evil.example:PORT"}, 403),
        ({"Host": "localhost.evil.example:PORT"}, 403),
        ({"Host": "demo.example.org.evil.example"}, 403),
        ({"Host": "evil.example@localhost:PORT"}, 403),
        ({"Host": "10.1.2.3:PORT"}, 403),
        ({"Host": "localhost:PORT/"}, 403),
        ({"Host": "localhost:99999999"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "http://localhost:PORT"}, 200),
        ({"Host": "localhost:PORT#"}, 403),
        ({"Host": "localhost:PORT?"}, 403),
        ({"Host": "[::1]x:PORT"}, 403),
        ({"Host": "localhost.:PORT"}, 403),
        ({"Host": "2130706433:PORT"}, 403),
        ({"Origin": "chrome-extension://localhost:PORT"}, 403),
        ({"Origin": "file://"}, 403),
        ({"Origin": "http://localhost:PORT"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://localhost:3000"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"X-Forwarded-Host": "demo.example.org"}, 200),
        ({"X-Forwarded-Host": "evil.example"}, 403),
    ],
)
def test_only_the_demo_s_own_names_are_served(
    address: str, visitor: httpx.Client, headers: dict[str, str], status: int
) -> None:
    port = address.rpartition(":")[2]
    headers = {name: value.replace("PORT", port) for name, value in headers.items()}
    for path in ("/", "/config", "/gradio_api/info", "/robots.txt"):
        answer = visitor.get(path, headers=headers)
        assert answer.status_code == status, answer.text
        assert not [name for name in answer.headers if name.startswith("access-control")]
    ask = {"Access-Control-Request-Method": "POST", **headers}
    answer = visitor.request("OPTIONS", "/gradio_api/queue/join", headers=ask)
    assert answer.status_code in (403, 404)
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/", "/robots.txt", "/nothing"])
def test_a_cookie_full_of_backslashes_keeps_nobody_waiting(
    visitor: httpx.Client, path: str
) -> None:
    start = time.monotonic()
    for name in ("vlm_visitor", "other"):
        for filling in ("\\\\", "\\377", "\\a"):
            cookie = f'{name}="{filling * (60_000 // len(filling))}"'
            assert visitor.get(path, headers={"Cookie": cookie}).status_code in (200, 404)
    assert time.monotonic() - start < 10  # Python's cookie parser takes 60 s


@pytest.mark.parametrize("cookie", ["vlm_visitor=x", "vlm_visitor=", "xvlm_visitor=" + "0" * 32])
def test_a_visitor_s_name_is_ours(visitor: httpx.Client, cookie: str) -> None:
    answer = visitor.get("/robots.txt", headers={"Cookie": cookie})
    assert len(answer.cookies["vlm_visitor"]) == 32
    again = f"a=b; vlm_visitor={answer.cookies['vlm_visitor']}; c=d"
    assert not visitor.get("/robots.txt", headers={"Cookie": again}).cookies


WRONG = (b":", b"user", b"user:", b"user:pass", "User:pass:wörd".encode(), b"\xff")


def test_every_route_needs_the_password(folder: Path) -> None:
    address = start((folder / "it.ckpt",), "--auth=user:pass:wörd")
    right = base64.b64encode("user:pass:wörd".encode()).decode()
    wrong = ["", "Basic", "Basic ***", f"Bearer {right}"]
    wrong += [f"Basic {base64.b64encode(text).decode()}" for text in WRONG]
    paths = {path for _, path in judged(KEPT)} | {"/gradio_api/file=0", "/nothing"}
    with httpx.Client(base_url=address, timeout=60) as client:
        for path in paths:
            for method in ("GET", "POST", "HEAD", "OPTIONS", "PUT"):
                given = wrong if path == "/config" else wrong[:1]
                for header in given:
                    headers = {"Authorization": header} if header else {}
                    answer = client.request(method, path, headers=headers)
                    assert answer.status_code == 401
                    assert answer.headers["www-authenticate"].startswith("Basic ")
        client.headers["Authorization"] = f"Basic {right}"
        assert client.get("/").status_code == 200
        assert asks(client, {"path": put(client)})["replies"]
