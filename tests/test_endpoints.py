import asyncio
import json
import logging
import socket
from contextlib import asynccontextmanager

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.streaming.endpoints import EndpointError, Endpoints, Verdict
from pipeline.streaming.metrics import Metrics


def fine():
    return Verdict(ok=True)


def endpoints(host="127.0.0.1", port=0, *, live=fine, ready=fine, metrics=()):
    return Endpoints(host, port, live=live, ready=ready, metrics=metrics)


@asynccontextmanager
async def served(**given):
    """A client of endpoints that are up."""
    up = endpoints(**given)
    port = await up.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
            yield client
    finally:
        await up.stop()


def asked(path, method="GET", **given):
    """Status, headers and text of one answer."""

    async def ask():
        async with served(**given) as client, client.request(method, path) as answer:
            return answer.status, answer.headers, await answer.text()

    return asyncio.run(ask())


@pytest.mark.parametrize("path", ["live", "ready"])
def test_a_verdict_is_a_status_with_reasons_and_facts(path):
    good = Verdict(ok=True, facts={"partitions": 4})
    bad = Verdict(ok=False, reasons=("InfluxDB is down",), facts={"partitions": 4})
    status, headers, text = asked(f"/{path}", **{path: lambda: good})
    assert (status, json.loads(text)) == (200, {"ok": True, "reasons": [], "partitions": 4})
    assert headers["Content-Type"].startswith("application/json")
    status, _, text = asked(f"/{path}", **{path: lambda: bad})
    assert status == 503
    assert json.loads(text) == {"ok": False, "reasons": ["InfluxDB is down"], "partitions": 4}


def test_each_request_is_judged_anew():
    said = iter([Verdict(ok=False, reasons=("recovers",)), Verdict(ok=True)])

    async def ask_twice():
        async with served(ready=lambda: next(said)) as client:
            return [(await client.get("/ready")).status for _ in range(2)]

    assert asyncio.run(ask_twice()) == [503, 200]


def test_facts_of_any_kind_are_valid_json():
    facts = {
        "age_s": float("nan"),
        "worst": float("inf"),
        "tps": {("t", 1): (2, None)},
        "e": OSError,
    }
    _, _, text = asked("/ready", ready=lambda: Verdict(ok=True, facts=facts))

    def refuse(name):
        raise AssertionError(name)

    answer = json.loads(text, parse_constant=refuse)
    assert answer["age_s"] is None
    assert answer["worst"] is None
    assert answer["tps"] == {"('t', 1)": [2, None]}


def test_facts_never_hide_the_verdict():
    bad = Verdict(ok=False, reasons=("stands",), facts={"ok": True, "reasons": []})
    answer = json.loads(asked("/live", live=lambda: bad)[2])
    assert (answer["ok"], answer["reasons"]) == (False, ["stands"])


def test_the_metrics_of_all_roles_are_on_one_page():
    roles = [Metrics("signals"), Metrics("cases")]
    roles[0].windows.inc(5)
    status, headers, text = asked("/metrics", metrics=roles)
    assert status == 200
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = {
        sample.labels["role"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "echowatch_windows_total"
    }
    assert found == {"signals": 5.0, "cases": 0.0}


def test_two_metrics_of_one_role_are_refused():
    with pytest.raises(ValueError, match="got signals, signals"):
        endpoints(metrics=[Metrics("signals"), Metrics("signals")])


def test_the_index_names_all_three():
    status, _, text = asked("/")
    assert status == 200
    assert all(f'href="/{path}"' in text for path in ("live", "ready", "metrics"))


@pytest.mark.parametrize("path", ["/nothing", "/live/x", "/../etc/passwd", "/metrics/"])
def test_all_else_is_not_found(path):
    assert asked(path)[0] == 404


@pytest.mark.parametrize("path", ["/", "/live", "/ready", "/metrics"])
def test_nothing_can_be_written(path):
    assert asked(path, "HEAD")[0] == 200
    assert {asked(path, method)[0] for method in ("POST", "PUT", "DELETE")} == {405}


def test_a_taken_port_is_explained_with_its_setting():
    async def start_on_taken():
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(EndpointError, match=rf"{port} is taken.*ECHOWATCH_WORKER__PORT"):
                await endpoints(port=port).start()

    asyncio.run(start_on_taken())


@pytest.mark.parametrize("host", ["192.0.2.7", "not a name"])
def test_an_address_of_another_machine_is_explained_with_its_setting(host):
    with pytest.raises(EndpointError, match="ECHOWATCH_WORKER__HOST"):
        asyncio.run(endpoints(host).start())


def test_the_port_is_free_again_after_the_stop():
    async def start_stop_start():
        first = endpoints()
        port = await first.start()
        await first.stop()
        await first.stop()
        second = endpoints(port=port)
        assert await second.start() == port
        await second.stop()

    asyncio.run(start_stop_start())


def test_a_stop_does_not_wait_for_idle_clients():
    async def stop_beside_client():
        up = endpoints()
        port = await up.start()
        async with aiohttp.ClientSession() as client:
            assert (await client.get(f"http://127.0.0.1:{port}/live")).status == 200
            async with asyncio.timeout(2.0):
                await up.stop()

    asyncio.run(stop_beside_client())


@pytest.mark.parametrize(("host", "warnings"), [("127.0.0.1", 0), ("localhost", 0), ("0.0.0.0", 1)])  # noqa: S104  (the test is about it)
def test_only_listening_beyond_this_machine_is_warned_of(host, warnings, caplog):
    async def start_stop():
        up = endpoints(host)
        await up.start()
        await up.stop()

    asyncio.run(start_stop())
    found = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(found) == warnings
    assert all("ECHOWATCH_WORKER__HOST" in record.getMessage() for record in found)


def test_a_judge_that_fails_is_an_error_without_inner_details_and_stops_nothing(caplog):
    def fail():
        raise KeyError("inner detail")

    async def ask_both():
        async with served(ready=fail) as client:
            failed = await client.get("/ready")
            return failed.status, await failed.text(), (await client.get("/live")).status

    status, text, live = asyncio.run(ask_both())
    assert (status, live) == (500, 200)
    assert "inner detail" not in text
    assert "inner detail" in caplog.text


def test_requests_leave_no_log_line(caplog):
    caplog.set_level(logging.DEBUG)
    asked("/live")
    asked("/nothing")
    assert not [r for r in caplog.records if r.name.startswith("aiohttp")]
