"""A hub on 127.0.0.1 that speaks the few addresses a prefetch needs, and counts the bytes it serves."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest import mock
from urllib.parse import unquote

COMMIT = "c0ffee" + "0" * 34
LARGE = 10_000
"""Files from this size on are listed like large files on the hub, by sha256."""


@dataclass
class Hub:
    """What the server offers and what it did."""

    models: dict[str, dict[str, bytes]] = field(default_factory=dict)
    datasets: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    cut_after: dict[str, int] = field(default_factory=dict)
    """File -> bytes after which each connection breaks."""
    refused: set[str] = field(default_factory=set)
    """Files that answer with an internal error."""
    ignores_ranges: bool = False
    lies_about: set[str] = field(default_factory=set)
    """Files whose listed digest is wrong."""
    served: dict[str, int] = field(default_factory=dict)
    """Bytes sent per file."""
    endpoint: str = ""


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    """Serve `hub` until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        with no_proxy():
            yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def unreachable() -> Iterator[str]:
    """An address where nobody listens, nor can as long as the block lasts."""
    with socket.socket() as held, no_proxy():
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def no_proxy() -> Any:
    """Requests to this machine go to this machine, also where others go through a proxy."""
    return mock.patch.dict(os.environ, {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"})


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    """A request handler that answers for `hub`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(self.path.partition("?")[0])
            if path.startswith("/api/"):
                self.list_files(path)
            else:
                self.send_file(path)

        def do_HEAD(self) -> None:
            path = unquote(self.path)
            content = self.content(path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()

        def content(self, path: str) -> bytes:
            offered = hub.datasets if path.startswith("/datasets/") else hub.models
            owner, name, _, _, *rest = path.removeprefix("/datasets").strip("/").split("/")
            return offered[f"{owner}/{name}"]["/".join(rest)]

        def list_files(self, path: str) -> None:
            if path.count("/") < 4:
                self.refuse(404, "NotFound", "no such address")
                return
            _, _, kind, owner, name, *rest = path.split("/")
            repository = f"{owner}/{name}"
            offered: Mapping[str, Mapping[str, bytes]] = getattr(hub, kind)
            if repository not in offered:
                self.refuse(404, "RepoNotFound", "Repository not found")
            elif repository in hub.gated:
                self.refuse(403, "GatedRepo", "Access to this repository is restricted")
            elif rest and rest[-1] not in ("main", COMMIT):
                self.refuse(404, "RevisionNotFound", "Invalid rev id")
            elif rest and rest[0] == "tree":
                tree = [entry(hub, file, content) for file, content in offered[repository].items()]
                self.answer(json.dumps(tree).encode())
            else:
                files = [listed(hub, file, content) for file, content in offered[repository].items()]
                self.answer(json.dumps({"id": repository, "sha": COMMIT, "siblings": files}).encode())

        def send_file(self, path: str) -> None:
            content = self.content(path)
            file = path.partition(f"/{COMMIT}/")[2]
            if file in hub.refused:
                self.refuse(503, "Unavailable", "try later")
                return
            start = 0
            wanted = self.headers.get("Range")
            if wanted and not hub.ignores_ranges:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            sent = content[start:][: hub.cut_after.get(file)]
            hub.served[file] = hub.served.get(file, 0) + len(sent)
            self.wfile.write(sent)
            self.close_connection = len(sent) < len(content) - start

        def refuse(self, status: int, code: str, message: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", message)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            return

    return Handler


def listed(hub: Hub, file: str, content: bytes) -> dict[str, Any]:
    """A file as the hub lists it with a repository."""
    told = content + b"?" if file in hub.lies_about else content
    blob = hashlib.sha1(f"blob {len(content)}\0".encode() + told).hexdigest()
    fields: dict[str, Any] = {"rfilename": file, "size": len(content), "blobId": blob}
    if len(content) >= LARGE:
        fields["lfs"] = {"sha256": hashlib.sha256(told).hexdigest(), "size": len(content), "pointerSize": 130}
    return fields


def entry(hub: Hub, file: str, content: bytes) -> dict[str, Any]:
    """A file as the hub lists it in a tree."""
    fields = listed(hub, file, content)
    found = {"type": "file", "path": file, "size": fields["size"], "oid": fields["blobId"]}
    if "lfs" in fields:
        found["lfs"] = {**fields["lfs"], "oid": fields["lfs"]["sha256"]}
    return found
