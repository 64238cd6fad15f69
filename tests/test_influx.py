"""The writer on a real InfluxDB."""

import random
from dataclasses import replace

import pytest

from connectors.influx import InfluxError, InfluxWriter
from influx_cases import NOW, TOKEN, asked, count, eventually, points, writer
from pipeline.messages import Point
from service_process import free_port


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
