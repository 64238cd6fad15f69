"""Numbers in, points and writers of them out; a peer that answers as a test tells it to."""

import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from connectors.influx import InfluxWriter
from pipeline.messages import Point

NOW = time.time_ns()
TOKEN = "a-token-that-nobody-may-see"  # noqa: S105  (not a secret)


def points(numbers, measurement="m", **fields):
    return [
        Point(measurement, (("sensor", f"s{n % 7}"),), fields or {"v": float(n)}, NOW + n)
        for n in numbers
    ]


@contextmanager
def writer(service, bucket, **more):
    made = InfluxWriter(service.url, service.token, service.org, bucket, **more)
    made.start()
    try:
        yield made
    finally:
        made.close(0.5)


def eventually(condition, within_s=20.0):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def count(service, bucket, measurement="m", field="v"):
    rows = service.query(bucket, f'select count("{field}") as n from "{measurement}"')  # noqa: S608  (our own)
    return rows[0]["n"] if rows else 0


class Peer:
    """An HTTP server that answers requests to write as told: (status, headers, text) each, from a
    function of the lines it got."""

    def __init__(self, answer):
        self.got, self.answer, self.org, self.token = [], answer, "o", TOKEN
        peer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                lines = body.decode().splitlines()
                peer.got.append((time.monotonic(), lines))
                status, headers, text = peer.answer(lines)
                said = text.encode(errors="surrogateescape")
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if status != 204:
                    self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                if status != 204:
                    self.wfile.write(said)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def in_turn(*answers):
    """These answers one after the other, the last for ever."""
    left = list(answers)
    return lambda _lines: left.pop(0) if len(left) > 1 else left[0]


STORED = (204, {}, "")


def asked(service, **other):
    given = {"url": service.url, "token": service.token, "org": service.org} | other
    made = InfluxWriter(given["url"], given["token"], given["org"], given["bucket"], timeout_s=5)
    try:
        made.check()
    finally:
        made.close(0)
