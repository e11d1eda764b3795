"""A small server that speaks the hub's protocol: repositories of files, by commit."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit


class Hub:
    """What the server has.

    Attributes:
        commits: of each repository, the files of each commit, the newest last.
        asked: method and path of each request.
        gated: repositories whose licence was not accepted.
    """

    token = "hf_of_the_tests"

    def __init__(self, address: str) -> None:
        self.address = address
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.asked: list[tuple[str, str]] = []
        self.gated: set[str] = set()

    def commit(self, name: str, files: dict[str, bytes]) -> str:
        """Add files to what a repository has; the new commit."""
        commits = self.commits.setdefault(name, {})
        content = (list(commits.values()) or [{}])[-1] | files
        digest = hashlib.sha1(repr(sorted(content.items())).encode()).hexdigest()
        commits[digest] = content
        return digest


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(("POST", path))
        if self.headers.get("Authorization") != f"Bearer {Hub.token}":
            self.reply(401, {"error": "Invalid credentials"})
        elif path == "/api/repos/create":
            given = json.loads(body)
            name = "/".join(filter(None, (given.get("organization"), given["name"])))
            self.hub.commits.setdefault(name, {})
            self.reply(200, {"url": f"{self.hub.address}/{name}", "id": name})
        elif path == "/api/validate-yaml":
            self.reply(200, {"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            made = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in files]
            self.reply(200, {"files": made})
        else:
            name = path.removeprefix("/api/models/").partition("/commit/")[0]
            lines = [json.loads(line) for line in body.splitlines()]
            files = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            digest = self.hub.commit(name, files)
            url = f"{self.hub.address}/{name}/commit/{digest}"
            self.reply(200, {"success": True, "commitUrl": url, "commitOid": digest})

    def do_HEAD(self) -> None:
        self.send()

    def do_GET(self) -> None:
        self.send()

    def send(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path))
        if path.startswith("/api/models/") and ("/revision/" in path or "/tree/" in path):
            self.list_files(path.removeprefix("/api/models/"))
            return
        name, _, rest = path.strip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        commits = self.hub.commits.get(name, {})
        commit = list(commits)[-1] if revision == "main" and commits else revision
        if name in self.hub.gated:
            self.reply(401, {"error": "Gated"}, **{"X-Error-Code": "GatedRepo"})
        elif commit not in commits:
            code = "RepoNotFound" if name not in self.hub.commits else "RevisionNotFound"
            self.reply(404, {"error": "Not found"}, **{"X-Error-Code": code})
        elif file not in commits[commit]:
            self.reply(
                404,
                {"error": "Not found"},
                **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit},
            )
        else:
            content = commits[commit][file]
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            self.reply(200, content, **{"ETag": etag, "X-Repo-Commit": commit})

    def list_files(self, path: str) -> None:
        name, _, rest = path.partition("/revision/" if "/revision/" in path else "/tree/")
        commit = rest.partition("/")[0]
        files = self.hub.commits.get(name, {}).get(commit)
        if files is None:
            self.reply(404, {"error": "Not found"}, **{"X-Error-Code": "RepoNotFound"})
        elif "/tree/" in path:
            found = [
                {"type": "file", "path": file, "size": len(content), "oid": "0" * 40}
                for file, content in files.items()
            ]
            self.reply(200, found)
        else:
            siblings = [{"rfilename": file} for file in files]
            self.reply(200, {"id": name, "modelId": name, "sha": commit, "siblings": siblings})

    def reply(self, status: int, content: Any, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A running hub without repositories."""
    handler = type("Handler", (_Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        handler.hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield handler.hub
        finally:
            server.shutdown()
