"""A stand-in for the Hugging Face Hub on the loopback, for huggingface_hub's own client to talk to.

It speaks the part of the Hub's HTTP that the client needs for a model's upload and download.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

TOKEN = "hf_a_token_that_may_write"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Repositories as {name: {file: content}}; ``cut`` names a file that is sent in part."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Requests)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.large_files: dict[str, bytes] = {}
        self.private: list[str] = []
        self.cut = ""
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        if found := re.fullmatch(r"/api/models/(.+)/tree/main\?.*", self.path):
            files = self.server.repos[found[1]].items()
            self.send(
                200, [{"type": "file", "path": n, "size": len(f), "oid": n} for n, f in files]
            )
        elif found := re.fullmatch(r"/api/models/(.+)", self.path):
            self.send_repo(found[1])
        elif found := re.fullmatch(rf"/(.+)/resolve/{COMMIT}/(.+)", self.path):
            self.send_file(*found.groups())
        else:
            self.send(404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        oid = self.path.removeprefix("/large/")
        self.server.large_files[oid] = self.content()
        self.send(200)

    def do_POST(self) -> None:
        content = self.content()
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.send(401, {"error": "Invalid credentials"})
        elif self.path == "/api/repos/create":
            asked = json.loads(content)
            repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
            if repo.startswith("somebody/"):
                self.send(403, {"error": "You don't have the rights to create this repo"})
                return
            self.server.repos.setdefault(repo, {})
            self.server.private += [repo] * (asked.get("visibility") == "private")
            self.send(200, {"url": f"{self.server.url}/{repo}"})
        elif self.path == "/api/validate-yaml":
            self.send(200, {"errors": [], "warnings": []})
        elif self.path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(content)["files"]]
            modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in names}
            files = [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()]
            self.send(200, {"files": files})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                o | {"actions": {"upload": {"href": f"{self.server.url}/large/{o['oid']}"}}}
                for o in json.loads(content)["objects"]
            ]
            self.send(200, {"transfer": "basic", "objects": objects})
        elif found := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
            self.commit(self.server.repos[found[1]], content)
            url = f"{self.server.url}/{found[1]}/commit/{COMMIT}"
            self.send(200, {"success": True, "commitOid": COMMIT, "commitUrl": url})
        else:
            self.send(404)

    def commit(self, repo: dict[str, bytes], lines: bytes) -> None:
        for line in map(json.loads, lines.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                repo[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repo[value["path"]] = self.server.large_files[value["oid"]]
            elif line["key"] == "deletedFile":
                del repo[value["path"]]

    def send_repo(self, repo: str) -> None:
        if repo not in self.server.repos:
            self.send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        siblings = [{"rfilename": name} for name in self.server.repos[repo]]
        self.send(200, {"id": repo, "sha": COMMIT, "siblings": siblings})

    def send_file(self, repo: str, name: str) -> None:
        content = self.server.repos[repo].get(name)
        if content is None:
            self.send(404, headers={"X-Error-Code": "EntryNotFound"})
            return
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Content-Length": str(len(content)),
        }
        if name == self.server.cut and self.command == "GET":
            content = content[: len(content) // 2]
            self.close_connection = True
        self.send(200, content, headers)

    def content(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def send(
        self, status: int, body: bytes | dict | None = None, headers: dict[str, str] | None = None
    ) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        self.server.requests.append(f"{self.command} {self.path}")


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT does, in a process where the client is imported already."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is logged in to the Hub, and its address is one where nobody listens."""
    point_to("http://127.0.0.1:9", monkeypatch)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    # Xet is a protocol of its own, in compiled code; without it the client uploads by HTTP.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture
def hub(no_account: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in, which the client takes for the Hub, and a token that it accepts."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    point_to(server.url, monkeypatch)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def exported(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run, exported. Not to be changed: copy it first."""
    from nanogpkant.share.export import export_run

    to = tmp_path_factory.mktemp("exported") / "tiny-kan"
    export_run(tiny_run, to)
    return to
