"""A stand-in for the Hugging Face Hub on loopback: as much of its HTTP interface as its own library asks for.

https://huggingface.co/docs/hub/api has the listings. Files below /resolve/ carry their hash as ETag; large ones
(*.safetensors, kept in LFS) are redirected to another host, which answers requests for ranges and wants no token.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_test"
"""What gated and private repositories ask for."""


@dataclass
class Repository:
    """One model.

    Args:
        files: Of each branch, by name.
        gated: Lists its files to everyone, and gives them to those with the token.
        private: Is not there without the token.
    """

    files: dict[str, dict[str, bytes]]
    gated: bool = False
    private: bool = False

    def commit(self, revision: str) -> str | None:
        """The commit that a branch, or the commit itself, stands for."""
        commits = {branch: _commit(files) for branch, files in self.files.items()}
        return commits.get(revision, revision if revision in commits.values() else None)

    def at(self, commit: str) -> dict[str, bytes]:
        """The files of a commit."""
        return next(files for files in self.files.values() if _commit(files) == commit)


@dataclass
class Hub:
    """The stand-in, while it runs.

    Args:
        url: For HF_ENDPOINT.
        repositories: By id; may be changed meanwhile.
        requests: Method and path of all requests so far, in order.
        sent: Bytes of file content that were sent, by file name.
        cut_after: Bytes of a file after which the connection is closed; once for each entry.
        hold_after: Bytes of a file after which the answer stops without an end, until `release` is set.
        damaged: Files that are sent with their first byte changed.
        failing: Every request is answered 503.
        login_page: Every request is answered by a page for people, as networks of hotels do.
    """

    url: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    cut_after: dict[str, int] = field(default_factory=dict)
    hold_after: dict[str, int] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    failing: bool = False
    login_page: bool = False
    held: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    @property
    def storage_url(self) -> str:
        """Where large files are: another host, as far as clients can tell."""
        return self.url.replace("127.0.0.1", "localhost")

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Variables for a process that is to use the stand-in, with its cache in `home`."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), **more}

    def asked_for(self, text: str) -> list[str]:
        """Requests so far with `text` in them."""
        return [request for request in self.requests if text in request]


@contextmanager
def running_hub(repositories: Mapping[str, Repository]) -> Iterator[Hub]:
    """A stand-in that answers until the block ends."""

    class Handler(_Handler):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Handler.hub = Hub(f"http://127.0.0.1:{server.server_address[1]}", dict(repositories))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield Handler.hub
    finally:
        Handler.hub.release.set()
        server.shutdown()
        server.server_close()
        thread.join()


def files_of(folder: Path, *names: str) -> dict[str, bytes]:
    """Files of a folder by name; all of them if none is named."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and (not names or path.name in names)
    }


def _commit(files: Mapping[str, bytes]) -> str:
    return hashlib.sha1("".join(f"{name} {_oid(files[name])}\n" for name in sorted(files)).encode()).hexdigest()


def _oid(content: bytes) -> str:
    """Git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _is_large(name: str) -> bool:
    return name.endswith(".safetensors")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        """Nothing on stderr."""

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def _route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.failing:
            self._refuse(503, None)
        elif self.hub.login_page:
            self._send_head(200, {"Content-Type": "text/html", "Content-Length": "6"})
            self.wfile.write(b"<html>")
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._with_commit(found[1], found[2] or "main", self._info)
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            self._with_commit(found[1], found[2], self._tree)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            name = found[3]
            self._with_commit(found[1], found[2], lambda id_, commit: self._resolve(id_, commit, name))
        elif found := re.fullmatch(r"/storage/([^/]+/[^/]+)/([^/]+)/(.+)", path):
            if self.headers.get("authorization"):
                self._refuse(400, None)
                return
            self._send_file(found[3], self.hub.repositories[found[1]].at(found[2])[found[3]], {})
        else:
            self._refuse(404, None)

    def _with_commit(self, id_: str, revision: str, answer: Callable[[str, str], None]) -> None:
        repository = self.hub.repositories.get(id_)
        if repository is None or (repository.private and not self._has_token()):
            self._refuse(404 if self._has_token() else 401, "RepoNotFound")
        elif (commit := repository.commit(revision)) is None:
            self._refuse(404, "RevisionNotFound")
        else:
            answer(id_, commit)

    def _has_token(self) -> bool:
        return self.headers.get("authorization") == f"Bearer {TOKEN}"

    def _info(self, id_: str, commit: str) -> None:
        names = self.hub.repositories[id_].at(commit)
        self._send_json({"id": id_, "sha": commit, "siblings": [{"rfilename": name} for name in sorted(names)]})

    def _tree(self, id_: str, commit: str) -> None:
        entries: list[dict[str, object]] = []
        for name, content in sorted(self.hub.repositories[id_].at(commit).items()):
            entry: dict[str, object] = {"type": "file", "path": name, "size": len(content), "oid": _oid(content)}
            if _is_large(name):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
            entries.append(entry)
        self._send_json(entries)

    def _resolve(self, id_: str, commit: str, name: str) -> None:
        repository = self.hub.repositories[id_]
        content = repository.at(commit).get(name)
        if repository.gated and not self._has_token():
            self._refuse(403 if self.headers.get("authorization") else 401, "GatedRepo")
        elif content is None:
            self._refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
        elif _is_large(name):
            headers = {
                "Location": f"{self.hub.storage_url}/storage/{id_}/{commit}/{name}",
                "X-Repo-Commit": commit,
                "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Linked-Size": str(len(content)),
                "Content-Length": "0",
            }
            self._send_head(302, headers)
        else:
            self._send_file(name, content, {"X-Repo-Commit": commit, "ETag": f'"{_oid(content)}"'})

    def _send_file(self, name: str, content: bytes, headers: Mapping[str, str]) -> None:
        if name in self.hub.damaged:
            content = bytes([content[0] ^ 1]) + content[1:]
        start = 0
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", "")):
            start = int(asked[1])
            headers = {**headers, "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        self._send_head(206 if asked else 200, {**headers, "Content-Length": str(len(content) - start)})
        if self.command == "HEAD":
            return
        end = min(self.hub.cut_after.pop(name, len(content)), self.hub.hold_after.get(name, len(content)))
        # Counted first: who has received all of it may ask at once.
        self.hub.sent[name] = self.hub.sent.get(name, 0) + max(end - start, 0)
        self.wfile.write(content[start:end])
        self.wfile.flush()
        if end < len(content):
            if name in self.hub.hold_after:
                self.hub.held.set()
                self.hub.release.wait(60)
            self.close_connection = True

    def _send_json(self, content: object) -> None:
        body = json.dumps(content).encode()
        self._send_head(200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _refuse(self, status: int, code: str | None, headers: Mapping[str, str] | None = None) -> None:
        error = {} if code is None else {"X-Error-Code": code}
        self._send_head(status, {**(headers or {}), **error, "Content-Length": "0"})

    def _send_head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
