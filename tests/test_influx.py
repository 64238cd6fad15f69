import logging
import random
import ssl
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from connectors import influx as writing
from connectors import influx_bucket
from connectors.influx import InfluxError, InfluxWriter
from pipeline.messages import Point
from service_kafka_secure import certificates
from service_process import MissingError, free_port

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


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(writing, "FIRST_DELAY_S", 0.01)
    monkeypatch.setattr(writing, "LONGEST_DELAY_S", 0.02)


at_once = pytest.mark.usefixtures("quick")


# What real InfluxDB does.


def test_what_was_put_is_stored_and_confirmed_in_order(influx):
    bucket = influx.new_bucket("order")
    seen = []
    with writer(influx, bucket, batch_lines=100) as w:
        tickets = [w.put(points(range(n * 30, n * 30 + n))) for n in range(30)]
        assert tickets == list(range(1, 31))
        while not seen or seen[-1] < 30:
            # Asked first, counted then: what is confirmed must be there already.
            seen.append(w.confirmed)
            assert count(influx, bucket) >= sum(range(seen[-1]))
        assert w.wait(30, 10)
        assert w.pending_bytes == 0
        assert w.stats.points == sum(range(30)) == count(influx, bucket)
    assert seen == sorted(seen)


def test_an_empty_put_has_a_ticket_too(influx):
    with writer(influx, influx.new_bucket("empty")) as w:
        assert [w.put([]), w.put(points([], v=1.0)), w.put(points([1], v=float("nan")))] == [
            1,
            2,
            3,
        ]
        assert w.wait(3, 5)
        assert w.stats.requests == 0


def test_the_same_points_twice_change_nothing(influx):
    bucket = influx.new_bucket("twice")
    with writer(influx, bucket) as w:
        for _ in range(2):
            assert w.wait(w.put(points(range(500))), 10)
    assert count(influx, bucket) == 500


def survive(w, end, service, first):
    """Write 40 puts of 500 points, the server ending after the first and before the last."""
    for n in range(first, first + 20):
        last = w.put(points(range(n * 500, n * 500 + 500)))
    eventually(lambda: w.confirmed > last - 20)
    end()
    for n in range(first + 20, first + 40):
        last = w.put(points(range(n * 500, n * 500 + 500)))
    eventually(lambda: w.stats.failing_since is not None)
    assert w.confirmed < last
    assert w.pending_bytes > 20 * 500 * 20
    service.start()
    assert w.wait(last, 30)
    assert w.stats.failing_since is None


def test_nothing_is_lost_when_the_server_is_killed_or_stopped_while_we_write(influx_own):
    bucket = influx_own.new_bucket("outage")
    moves = []
    with writer(influx_own, bucket, batch_lines=700, progress=lambda: moves.append(1)) as w:
        survive(w, influx_own.kill, influx_own, 0)
        survive(w, influx_own.stop, influx_own, 40)
        assert w.stats.refused == 0
        assert w.close(5)
    assert count(influx_own, bucket) == 80 * 500
    assert moves


def refused_by(service, bucket, put, **more):
    """Lines and reasons that a put costs, and the statistics."""
    lost = []
    with writer(service, bucket, refused=lambda *it: lost.append(it), **more) as w:
        assert w.wait(w.put(put), 30)
        return lost, w.stats


def test_one_bad_line_among_a_thousand_costs_one_point(influx):
    bucket = influx.new_bucket("bad")
    put = points(range(1000))
    put[617] = Point("m", (), {"v": 1.0, "n": 2**63}, NOW)
    [(text, why)], stats = refused_by(influx, bucket, put)
    assert text == f"m v=1.0,n={2**63}i {NOW}"
    assert "value out of range" in why
    assert count(influx, bucket) == 999 == stats.points
    assert stats.refused == 1
    assert stats.requests <= 1 + 2 * 10


def test_a_conflict_of_types_costs_that_point_only(influx):
    bucket = influx.new_bucket("types")
    put = points(range(1000))
    put[3] = Point("m", (("sensor", "s"),), {"v": "text", "u": 2.0}, NOW)
    [(text, why)], stats = refused_by(influx, bucket, put)
    assert text.startswith('m,sensor=s v="text"')
    assert "type conflict" in why
    assert count(influx, bucket) == 999
    assert stats.requests <= 1 + 2 * 10


def test_points_beyond_the_retention_cost_themselves_only_and_few_requests(influx):
    bucket = influx.new_bucket("old", 3600)
    put = points(range(5000))
    for n in range(0, 5000, 3):
        put[n] = replace(put[n], at_ns=10**18 + n)
    lost, stats = refused_by(influx, bucket, put)
    assert len({text for text, _ in lost}) == len(lost) == 1667 == stats.refused
    assert all("retention" in why for _, why in lost)
    assert count(influx, bucket) == 5000 - 1667
    assert stats.requests <= 1 + 2 * 13


def test_a_request_of_nothing_but_bad_points_is_sent_once(influx):
    bucket = influx.new_bucket("all-old", 3600)
    put = [Point("m", (), {"v": 1.0}, 10**18 + n) for n in range(2000)]
    lost, stats = refused_by(influx, bucket, put)
    assert len(lost) == 2000
    assert stats.requests == 1


def test_a_search_for_bad_points_never_settles_the_type_of_a_new_field(influx):
    """The text comes before all others by name of its series, and after them in the put."""
    bucket = influx.new_bucket("new")
    put = points(range(1, 300))
    put[50] = Point("m", (("sensor", "a"),), {"v": "text"}, NOW)
    put[60] = Point("m", (("sensor", "a"),), {"v": 2**63}, NOW)
    lost, _ = refused_by(influx, bucket, put)
    assert len(lost) == 2
    assert count(influx, bucket) == 297


def test_points_wrong_in_several_ways_cost_themselves_only(influx):
    bucket = influx.new_bucket("mixed", 3600)
    put = points(range(300))
    put[10] = Point("m", (), {"v": 2**63}, NOW)
    put[20] = Point("m", (), {"v": "text"}, NOW)
    put[30] = Point("m", (), {"v": 1.0}, 10**18)
    put[299] = Point("m", (("time", "x"),), {"v": 1.0}, NOW)
    lost, _ = refused_by(influx, bucket, put)
    assert len(lost) == 4
    assert count(influx, bucket) == 296


def test_odd_text_comes_back_as_it_was(influx):
    drawn = random.Random(1)  # noqa: S311  (no secret)
    odd = [
        "".join(drawn.choices("ab1,= \"\\\n\t#'é機", k=drawn.randint(1, 8))) for _ in range(2000)
    ]
    pairs = list(zip(odd[::2], odd[1::2], strict=True))
    bucket = influx.new_bucket("odd")
    put = [
        Point("m o", (("a=b", tag),), {"the, text": text, "v": 1e-300}, NOW + n)
        for n, (tag, text) in enumerate(pairs)
    ]
    lost, _ = refused_by(influx, bucket, put)
    assert not lost
    rows = influx.query(bucket, 'select "a=b", "the, text", "v" from "m o"')
    assert [row["the, text"] for row in rows] == [text for _, text in pairs]
    assert {row["v"] for row in rows} == {1e-300}
    said = [tag.replace("\n", r"\n").replace("\t", r"\t") for tag, _ in pairs]
    said = [f"{tag[:-1]} " if tag.endswith("\\") else tag for tag in said]
    assert [row["a=b"] for row in rows] == said


def asked(service, **other):
    given = {"url": service.url, "token": service.token, "org": service.org} | other
    made = InfluxWriter(given["url"], given["token"], given["org"], given["bucket"], timeout_s=5)
    try:
        made.check()
    finally:
        made.close(0)


def test_a_wrong_token_bucket_or_organisation_is_refused_in_words(influx):
    bucket = influx.new_bucket("check")
    asked(influx, bucket=bucket)
    asked(influx, bucket=bucket, token=influx.new_token(bucket, read=False))
    with pytest.raises(InfluxError, match=r"token.*401"):
        asked(influx, bucket=bucket, token="wrong")  # noqa: S106  (wrong)
    with pytest.raises(InfluxError, match=r"may not write bucket.*403"):
        asked(influx, bucket=bucket, token=influx.new_token(bucket, write=False))
    with pytest.raises(InfluxError, match=r"no organisation.*'nowhere'.*create it.*404"):
        asked(influx, bucket="nowhere")
    with pytest.raises(InfluxError, match="no organisation 'nobody'"):
        asked(influx, bucket=bucket, org="nobody")
    with pytest.raises(InfluxError, match="not secure"):
        asked(influx, bucket=bucket, url=influx.url.replace("http:", "https:"))
    assert influx.query(bucket, "show measurements") == []


def test_a_server_that_is_not_there_is_waited_for(caplog):
    address = f"http://127.0.0.1:{free_port()}"
    made = InfluxWriter(address, TOKEN, "o", "b")
    made.check()
    assert "will keep trying" in caplog.text
    assert made.close(0)


# What a peer may do that InfluxDB does on a bad day only.


@at_once
def test_a_full_server_is_asked_again_when_it_says_so():
    busy = (503, {"Retry-After": "1"}, "busy")
    with Peer(in_turn(busy, STORED)) as peer, writer(peer, "b") as w:
        assert w.wait(w.put(points([1])), 10)
        (first, _), (second, lines) = peer.got
        assert second - first >= 1.0
        assert lines == [f"m,sensor=s1 v=1.0 {NOW + 1}"]
        assert w.stats.retries == 1


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("0", 0.0), ("2.5", 2.5), ("-3", 0.0), ("1e9", 60.0), ("inf", 60.0), ("nan", 0.0),
        ("soon", None), (None, None), ("", None), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
    ],
)  # fmt: skip
def test_the_wait_asked_for_is_read_and_bounded(text, wait_s):
    assert influx_bucket._wait_s(text) == wait_s


def test_the_wait_may_be_a_date():
    for text in (
        format_datetime(datetime.now(UTC) + timedelta(seconds=31), usegmt=True),
        format_datetime(datetime.now(UTC).replace(tzinfo=None) + timedelta(seconds=31)),
    ):
        assert 25 < influx_bucket._wait_s(text) <= 31


@pytest.mark.parametrize("status", [301, 200, 401, 403, 404, 408, 429, 500, 502, 503, 504])
@at_once
def test_no_answer_but_204_confirms_and_none_of_these_costs_a_point(status):
    with Peer(in_turn(*[(status, {"Location": "/"}, "{}")] * 3, STORED)) as peer:  # noqa: SIM117
        with writer(peer, "b") as w:
            assert w.wait(w.put(points(range(3))), 10)
            assert [len(lines) for _, lines in peer.got] == [3] * 4
            assert (w.stats.points, w.stats.refused, w.stats.retries) == (3, 0, 3)


@pytest.mark.parametrize(
    "text", ["<html>Bad Request</html>", "[]", '{"message": "no"}', "\x00", "\udcff", ""]
)
@at_once
def test_a_400_of_something_between_costs_no_point(text):
    with Peer(in_turn((400, {}, text), STORED)) as peer, writer(peer, "b") as w:
        assert w.wait(w.put(points([1])), 10)
        assert (w.stats.points, w.stats.refused) == (1, 0)


def test_a_body_too_large_is_halved_until_it_fits():
    def fits(lines):
        if len(lines) > 3 or any("long" in text for text in lines):
            return (413, {}, "too large")
        return STORED

    lost = []
    with Peer(fits) as peer, writer(peer, "b", refused=lambda *it: lost.append(it)) as w:
        put = points(range(20))
        put[7] = Point("m", (), {"text": "long"}, NOW)
        assert w.wait(w.put(put), 10)
        stored = [text for _, lines in peer.got if fits(lines) == STORED for text in lines]
        assert len(stored) == len(set(stored)) == 19
        assert [text for text, _ in lost] == [f'm text="long" {NOW}']
        assert "413" in lost[0][1]


def test_a_large_put_is_cut_and_confirmed_with_its_last_request():
    go = threading.Semaphore(2)

    def stored(_lines):
        go.acquire()
        return STORED

    with Peer(stored) as peer, writer(peer, "b", batch_lines=5) as w:
        assert w.put(points(range(12))) == 1
        eventually(lambda: len(peer.got) == 3)
        assert w.confirmed == 0
        go.release()
        assert w.wait(1, 5)
        assert [len(lines) for _, lines in peer.got] == [5, 5, 2]
        assert [text for _, lines in peer.got for text in lines] == [
            f"m,sensor=s{n % 7} v={float(n)} {NOW + n}" for n in range(12)
        ]
        go.release()


def test_a_request_is_at_most_about_4_mb():
    with Peer(in_turn(STORED)) as peer, writer(peer, "b") as w:
        assert w.wait(w.put(points(range(45), text="x" * 200_000)), 20)
        assert [len(lines) for _, lines in peer.got] == [19, 19, 7]


def test_small_puts_share_a_request():
    held = threading.Event()

    def stored(_lines):
        held.wait(10)
        return STORED

    with Peer(stored) as peer, writer(peer, "b", batch_lines=50) as w:
        w.put(points([0]))
        eventually(lambda: peer.got)
        for n in range(1, 11):
            w.put(points(range(n * 10, n * 10 + 10)))
        held.set()
        assert w.wait(11, 5)
        assert [len(lines) for _, lines in peer.got] == [1, 50, 50]


@at_once
def test_a_server_that_hangs_is_left_after_the_timeout():
    held = threading.Event()
    hangs = iter([True, True])

    def stored(_lines):
        if next(hangs, False):
            held.wait(10)
        return STORED

    with Peer(stored) as peer, writer(peer, "b", timeout_s=0.1) as w:
        assert w.wait(w.put(points([1])), 10)
        assert len(peer.got) == 3
        assert "Timeout" in w.stats.last_error
        held.set()


def test_closing_interrupts_a_pause_and_writes_the_rest():
    busy = (503, {"Retry-After": "50"}, "busy")
    with Peer(in_turn(busy, STORED)) as peer, writer(peer, "b") as w:
        w.put(points([1]))
        eventually(lambda: w.stats.failing_since is not None)
        began = time.monotonic()
        assert w.close(10)
        assert time.monotonic() - began < 2
        assert len(peer.got) == 2
        with pytest.raises(InfluxError, match="closed"):
            w.put([])


def test_closing_keeps_its_time_while_the_server_is_down():
    service = Peer(in_turn(STORED))
    service.server.server_close()
    with writer(service, "b") as w:
        w.put(points([1]))
        eventually(lambda: w.stats.failing_since is not None)
        began = time.monotonic()
        assert not w.close(0.3)
        assert 0.3 <= time.monotonic() - began < 1
        eventually(lambda: not w._thread.is_alive(), 1)
        assert w.stats.requests < 20
        assert not w.wait(1, 5)


def test_closing_keeps_its_time_while_the_server_hangs():
    held = threading.Event()
    busy = iter([(503, {"Retry-After": "50"}, "busy")])

    def hangs(_lines):
        if (answer := next(busy, None)) is not None:
            return answer
        held.wait(10)
        return STORED

    with Peer(hangs) as peer, writer(peer, "b") as w:
        w.put(points([1]))
        eventually(lambda: w.stats.failing_since is not None)
        assert not w.close(0.3)
        eventually(lambda: not w._thread.is_alive(), 1)
        held.set()


def test_a_writer_that_never_started_closes_too():
    made = InfluxWriter("http://127.0.0.1:1", TOKEN, "o", "b")
    made.put(points([1]))
    assert not made.close(0.1)


def test_what_is_wrong_in_our_own_code_reaches_the_caller(influx, caplog):
    def broken():
        raise ZeroDivisionError

    with writer(influx, influx.new_bucket("broken"), progress=broken) as w:
        with pytest.raises(InfluxError, match="ZeroDivisionError"):
            w.wait(w.put(points([1])) + 1, 5)
        with pytest.raises(InfluxError, match="has failed"):
            w.put([])
        assert not w.close(1)
    assert "has failed" in caplog.text


# What people see.


@at_once
def test_the_log_tells_changes_only_and_never_the_token(caplog):
    caplog.set_level(logging.DEBUG)
    answers = [(503, {}, "busy")] * 5 + [(401, {}, f'{{"code": "x", "message": "{TOKEN}"}}')] * 5
    with Peer(in_turn(*answers, STORED)) as peer, writer(peer, "b") as w:
        assert w.wait(w.put(points([1])), 10)
        assert TOKEN not in repr(w) + repr(vars(w)) + repr(w.stats)
        assert "***" in w.stats.last_error
    ours = [r for r in caplog.records if r.name == "connectors.influx"]
    assert [(r.levelname, r.getMessage().split(" at ")[0]) for r in ours] == [
        ("WARNING", "bucket 'b' of 'o'"), ("ERROR", "bucket 'b' of 'o'"),
        ("WARNING", "bucket 'b' of 'o'"),
    ]  # fmt: skip
    assert "results wait: 503" in ours[0].getMessage()
    assert "does not let us in" in ours[1].getMessage()
    assert "takes points again after" in ours[2].getMessage()
    assert TOKEN not in caplog.text


def test_a_token_that_no_header_can_carry_is_refused_without_being_shown():
    for token in ("", "two words", "line\nbreak", "schlüssel"):
        with pytest.raises(InfluxError, match="printable ASCII") as refusal:
            InfluxWriter("http://127.0.0.1:1", token, "o", "b")
        assert not token or token not in str(refusal.value)


@pytest.mark.parametrize(
    "url",
    ["", "influx", "ftp://localhost", "http://", "http://a:b@localhost", "http://localhost:x"],
)
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(InfluxError, match=r"influx\.url must be"):
        InfluxWriter(url, TOKEN, "o", "b")


def test_the_token_goes_out_unencrypted_only_where_allowed():
    for url in ("http://influx.example:8086", "http://10.0.0.1"):
        with pytest.raises(InfluxError, match="use https, or allow it"):
            InfluxWriter(url, TOKEN, "o", "b")
        InfluxWriter(url, TOKEN, "o", "b", allow_plaintext=True)
    for url in ("http://localhost:1", "http://127.0.0.7", "http://[::1]:1", "https://a.example"):
        InfluxWriter(url, TOKEN, "o", "b")


def test_the_server_must_chain_to_the_given_certificates(tmp_path):
    try:
        certificates(tmp_path)
    except MissingError as missing:
        pytest.skip(str(missing))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    with Peer(in_turn(STORED)) as peer:
        peer.server.socket = context.wrap_socket(peer.server.socket, server_side=True)
        peer.url = peer.url.replace("http:", "https:")
        with writer(peer, "b", ca_file=tmp_path / "ca.crt") as w:
            w.check()
            assert w.wait(w.put(points([1])), 10)
        with pytest.raises(InfluxError, match=r"not secure.*CERTIFICATE_VERIFY_FAILED"):
            asked(peer, bucket="b")
    for name in ("server.key", "nowhere"):
        with pytest.raises(InfluxError, match=r"ca_file.*PEM is expected"):
            InfluxWriter(peer.url, TOKEN, "o", "b", ca_file=tmp_path / name)
