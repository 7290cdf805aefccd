"""A hub of Hugging Face on this machine: it takes what is pushed, and gives it back. Nothing leaves the machine."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SHA = "a" * 40


class Hub:
    """What the hub holds.

    Attributes:
      repositories: files by path, by the name of the repository.
      private: whether each was made private.
      requests: method and path of each, in order.
      tokens: what came as authorization.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.requests: list[str] = []
        self.tokens: set[str | None] = set()
        self.url = ""

    def post(self, path: str, body: bytes) -> tuple[int, Any]:
        """Status and answer, as JSON."""
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            if name in self.repositories:
                return 409, {"error": "exists", "url": f"{self.url}/{name}"}
            self.repositories[name] = {}
            self.private[name] = wanted.get("private", False) or wanted.get("visibility") == "private"
            return 200, {"url": f"{self.url}/{name}"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path.partition("?")[0])
        if found is None or found[1] not in self.repositories:
            return 404, {"error": f"no {path}"}
        if found[2] == "preupload":
            files = [file["path"] for file in json.loads(body)["files"]]
            return 200, {"files": [{"path": file, "uploadMode": "regular", "shouldIgnore": False} for file in files]}
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                content = base64.b64decode(entry["value"]["content"])
                self.repositories[found[1]][entry["value"]["path"]] = content
        url = f"{self.url}/{found[1]}/commit/{SHA}"
        return 200, {"success": True, "commitOid": SHA, "commitUrl": url, "hookOutput": ""}

    def get(self, path: str) -> tuple[int, Any, dict[str, str]]:
        """Status, content and headers."""
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/revision/main)?", path.partition("?")[0])
        if found and found[1] in self.repositories:
            siblings = [{"rfilename": name} for name in self.repositories[found[1]]]
            return 200, {"id": found[1], "sha": SHA, "siblings": siblings, "private": self.private[found[1]]}, {}
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/\w+", path.partition("?")[0])
        if found and found[1] in self.repositories:
            files = self.repositories[found[1]].items()
            entries = [
                {"type": "file", "path": name, "oid": _oid(content), "size": len(content)} for name, content in files
            ]
            return 200, entries, {}
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path.partition("?")[0])
        if found and found[2] in self.repositories.get(found[1], {}):
            content = self.repositories[found[1]][found[2]]
            return 200, content, {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": SHA}
        return 404, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"}


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def served() -> Iterator[Hub]:
    """A hub at `Hub.url`, the value of HF_ENDPOINT."""
    hub = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self._body()
            self._note()
            self._answer(*hub.post(self.path, body))

        def do_GET(self) -> None:
            self._note()
            self._answer(*hub.get(self.path))

        do_HEAD = do_GET

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _note(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            hub.tokens.add(self.headers.get("Authorization"))

        def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
            sent = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(sent)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(sent)

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        hub.url = f"http://127.0.0.1:{server.server_port}"
        yield hub
        server.shutdown()
