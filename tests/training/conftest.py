"""What tests of trackers need: nobody logged in, a run to write into, and a stand-in for W&B."""

import gzip
import json
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is logged in anywhere, and W&B's server is an address where nobody listens."""
    for name in [n for n in os.environ if n.startswith(("WANDB_", "TRACKIO_", "HF_TOKEN"))]:
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")


@pytest.fixture
def run_copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the tiny run, for trackers to write into."""
    return Path(shutil.copytree(tiny_run, tmp_path / "tiny"))


class WandbServer(ThreadingHTTPServer):
    """Answers W&B's own client, and keeps one run: its settings and the rows of its history."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Requests)
        self.run: dict[str, Any] = {}
        self.history: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        project = {
            "id": "UA==",
            "name": given.get("project"),
            "entity": {"id": "RQ==", "name": "me"},
        }
        if operation == "Viewer":
            teams: dict[str, Any] = {"edges": []}
            return {"viewer": {"id": "Vg==", "entity": "me", "username": "me", "teams": teams}}
        if operation == "RunResumeStatus":
            return {"model": project | {"bucket": self.known_run()}}
        if operation == "UpsertBucket":
            self.run |= {key: value for key, value in given.items() if value is not None}
            bucket = {"id": "Ug==", "name": self.run["name"], "config": "{}", "project": project}
            bucket["displayName"] = self.run["displayName"]
            bucket["historyLineCount"] = len(self.history)
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if operation == "CreateRunFiles":
            return {"createRunFiles": {"runID": "Ug==", "uploadHeaders": [], "files": []}}
        return {}

    def known_run(self) -> dict[str, Any] | None:
        if not self.history:
            return None
        empty = {"summaryMetrics": "{}", "config": "{}", "eventsTail": "[]", "tags": []}
        counts = {"logLineCount": 0, "eventsLineCount": 0, "historyLineCount": len(self.history)}
        tail = {"historyTail": json.dumps(self.history[-1:]), "wandbConfig": '{"t": 1}'}
        names = {"id": "Ug==", "name": self.run["name"], "displayName": self.run["displayName"]}
        return names | empty | counts | tail


class Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            content = gzip.decompress(content)
        asked, answer = json.loads(content), {}
        if self.path == "/graphql":
            variables = asked.get("variables") or {}
            answer = {"data": self.server.answer(asked["operationName"], variables)}
        else:  # the stream of a run's files
            rows = asked.get("files", {}).get("wandb-history.jsonl")
            if rows:
                self.server.history[rows["offset"] :] = rows["content"]
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def wandb_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """The stand-in, which W&B's client takes for its server, and a key."""
    server = WandbServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
