"""What a question costs in the demo, and whether it serves several visitors at once.

    python benchmarks/demo.py RUN [--questions 60]

RUN is a run's folder of the default model, trained on easy-VQA. Each question about a new image
pays for reading and encoding it; further questions about it do not. To reach, inside the server and
at the median: 50 ms for a question, 150 ms with its heat map. The last line asks a server of its
own over HTTP, eight at a time.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.request import Request, urlopen

from pairs import machine, timed

import vlm
from vlm.datasets import EasyVQA
from vlm.demo.asker import Asker

CLIENTS = 8


def show(name: str, seconds: list[float]) -> None:
    ordered = sorted(1000 * s for s in seconds)
    print(
        f"{name:<46} median {statistics.median(ordered):7.1f} ms, 95 % under "
        f"{ordered[int(0.95 * (len(ordered) - 1))]:7.1f} ms ({len(ordered)} questions)"
    )


def inside(run: str, rows: list[tuple[bytes, str]]) -> None:
    asker = Asker({"model": vlm.load(run)})
    method = asker.methods[0]
    asker.ask(*rows[-1], ["model"])

    def with_map(content: bytes, question: str) -> None:
        (reply,) = asker.ask(content, question, ["model"])
        asker.explain(content, question, reply, method)

    asked = rows[:-1]
    show("question about a new image", [timed(lambda r=r: asker.ask(*r, ["model"])) for r in asked])
    again = [(asked[-1][0], question) for _, question in asked]
    show(
        "further question about an image",
        [timed(lambda r=r: asker.ask(*r, ["model"])) for r in again],
    )
    asker = Asker(asker.models)
    show(f"new image, with the map of {method}", [timed(lambda r=r: with_map(*r)) for r in asked])


def over_http(run: str, rows: list[tuple[bytes, str]], answers: list[str]) -> None:
    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "vlm", "demo", run], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        found = re.search(r"http://\S+", server.stdout.readline())
        assert found is not None, "the server did not start"
        address = found.group()

        def ask(row: tuple[bytes, str]) -> tuple[str, float]:
            started = time.perf_counter()
            image = {"url": "data:image/png;base64," + base64.b64encode(row[0]).decode()}
            body = json.dumps({"data": [image, row[1], None, "none", None, None]}).encode()
            headers = {"Content-Type": "application/json"}
            with urlopen(Request(f"{address}/gradio_api/call/ask", body, headers)) as response:
                event = json.load(response)["event_id"]
            with urlopen(f"{address}/gradio_api/call/ask/{event}") as stream:
                lines = stream.read().decode().strip().splitlines()
            assert lines[-2] == "event: complete", lines
            reply = json.loads(lines[-1].removeprefix("data: "))[0]["replies"][0]
            return reply["answer"], time.perf_counter() - started

        ask(rows[0])
        with ThreadPoolExecutor(CLIENTS) as pool:
            replies = list(pool.map(ask, rows))
    finally:
        server.terminate()
        server.wait()
    show(f"{CLIENTS} at once over HTTP, no map", [seconds for _, seconds in replies])
    right = sum(a == b for (a, _), b in zip(replies, answers, strict=True))
    print(f"errors 0, right answers {right} of {len(rows)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--questions", type=int, default=60)
    given = parser.parse_args()
    print(machine())
    table = EasyVQA().table("test")
    step = len(table) // (given.questions + 1)
    picked = table.take(list(range(0, step * (given.questions + 1), step))).to_pylist()
    rows = []
    for row in picked:
        with open(row["image"], "rb") as file:
            rows.append((file.read(), row["question"]))
    inside(given.run, rows)
    over_http(given.run, rows, [row["answers"][0] for row in picked])


if __name__ == "__main__":
    main()
