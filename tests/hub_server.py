"""A server on loopback that answers as a model hub does: one file per repository and revision."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "1f" * 20


class Hub(ThreadingHTTPServer):
    """Files by `owner/name/file`; remembers what it was asked for."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files, self.asked = files, []
        self.revisions = {"main": COMMIT, COMMIT: COMMIT}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    """`/OWNER/NAME/resolve/REVISION/FILE`."""

    server: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        owner, name, _, revision, file = self.path.split("?")[0].strip("/").split("/", 4)
        commit = self.server.revisions.get(revision)
        data = self.server.files.get(f"{owner}/{name}/{file}")
        if commit is None or data is None:
            self.send_response(404)
            self.send_header(
                "X-Error-Code", "RevisionNotFound" if commit is None else "EntryNotFound"
            )
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Hub]:
    """The hub, for as long as it is needed."""
    hub = Hub(files)
    thread = Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
