"""The writer and what a peer may do that InfluxDB does on a bad day only."""

import logging
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from connectors import influx as writing
from connectors import influx_bucket
from connectors.influx import InfluxError, InfluxWriter
from influx_cases import NOW, STORED, TOKEN, Peer, asked, eventually, in_turn, points, writer
from pipeline.messages import Point
from service_kafka_secure import certificates
from service_process import MissingError


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(writing, "FIRST_DELAY_S", 0.01)
    monkeypatch.setattr(writing, "LONGEST_DELAY_S", 0.02)


at_once = pytest.mark.usefixtures("quick")


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
