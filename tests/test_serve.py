"""The pages of `echowatch serve`, asked over HTTP."""

import asyncio
import json
import re
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.serve import server as serve
from pipeline.serve.login import Login, LoginError
from pipeline.serve.pages import MAX_SENSORS
from pipeline.serve.server import SnapshotServer
from pipeline.serve.store import SnapshotStore
from pipeline.service_settings import Serve
from pipeline.streaming.endpoints import EndpointError, Verdict
from serve_cases import (
    DE,
    NDE,
    PUMP,
    TOKEN,
    case_messages,
    change,
    fine,
    message,
    serving,
    sick_pump,
    signal,
)


def asked(path, method="GET", *, store=None, headers=None, health=fine, **given):
    """Status, headers and text of one answer."""

    async def ask():
        async with serving(store, health, **given) as client:
            request = client.request(method, path, headers=headers, allow_redirects=False)
            async with request as answer:
                return answer.status, answer.headers, await answer.text()

    return asyncio.run(ask())


def case_of(store):
    return store.cases()[0]


def curves(page, kind):
    return re.findall(rf'<path class="(?:line|body) {kind}" d="([^"]+)"', page)


def test_a_case_shows_both_signals_and_spectra_of_every_sensor_that_stands():
    store = sick_pump()
    case = case_of(store)
    by_id = asked(f"/case?id={quote(case['case_id'])}", store=store)
    status, headers, page = asked(f"/case?asset={PUMP}", store=store)
    assert (by_id[0], by_id[2]) == (status, page)
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert case["sentence"] in page
    assert page.index(">Drive end<") < page.index(">Fan end<")  # first out first
    # Spectrum, the whole window and a closer look, of two sensors.
    assert len(curves(page, "now")) == len(curves(page, "healthy")) == 6
    assert len(re.findall(r'<rect class="band"', page)) == 2
    for words in ("RMS", "peak", "crest factor", "kurtosis", "nano-1", "2023-11-14"):
        assert words in page


def test_both_signals_of_a_sensor_are_drawn_over_the_same_axes():
    _, _, page = asked(f"/sensor?id={DE}", store=sick_pump())
    plots = re.findall(r'<svg class="plot".*?</svg>.*?</svg>', page)
    marks = [re.findall(r'<text class="[xy][^>]*>[^<]*', plot) for plot in plots]
    assert len(marks) == 5
    assert marks[1] == marks[2]  # whole: now, healthy
    assert marks[3] == marks[4]  # closer
    assert marks[1] != marks[3]


def test_the_numbers_are_those_of_the_signals():
    store = sick_pump()
    status, headers, text = asked(f"/case.json?asset={PUMP}", store=store)
    assert status == 200
    assert headers["Content-Type"].startswith("application/json")
    found = json.loads(text)
    assert found["case"] == case_of(store)
    drive, fan = found["sensors"]
    assert (drive["sensor_id"], fan["sensor_id"]) == (DE, NDE)
    truth = signal(worn=True) * 0.0005
    wave = drive["now"]["waveform"]
    assert max(wave["high"]) == pytest.approx(truth.max(), rel=1e-4)
    assert min(wave["low"]) == pytest.approx(truth.min(), rel=1e-4)
    assert len(wave["low"]) * wave["step_s"] == pytest.approx(1.0)
    lines = drive["now"]["spectrum"]
    loud = max(zip(lines["amplitude"][5:], lines["freq_hz"][5:], strict=True))
    assert loud[1] == pytest.approx(4000, abs=100)
    assert max(drive["healthy"]["spectrum"]["amplitude"][50:]) < 0.1 * loud[0]
    assert drive["now"]["rms"] == pytest.approx(truth.std(), rel=1e-3)
    alone = json.loads(asked(f"/sensor.json?id={DE}", store=store)[2])
    assert alone["now"] == drive["now"]


def test_a_case_of_many_sensors_is_bounded_and_names_the_others():
    store, changes = SnapshotStore(50e6), []
    sensors = [f"{PUMP}/s{number:02}" for number in range(MAX_SENSORS + 3)]
    for number, sensor in enumerate(sensors):
        for pin, at_s in (("healthy|0", 0.0), ("now|1", 99.0 + number)):
            store.put_snapshot(*message(sensor_id=sensor, pin=pin, at_s=at_s))
        changes.append(change(sensor, "raise", 100.0 + number, "alarm"))
    for key, value in case_messages(changes):
        store.put_case(key, value)
    _, _, page = asked(f"/case?asset={PUMP}", store=store)
    assert page.count('<section class="sensor">') == MAX_SENSORS
    assert len(page) < 1_500_000
    assert quote(sensors[-1], safe="") in page
    _, _, text = asked(f"/case.json?asset={PUMP}", store=store)
    found = json.loads(text)
    assert len(found["sensors"]) == MAX_SENSORS
    assert found["left_out"] == sensors[-3:]
    assert len(text) < 1_500_000


def test_what_is_not_kept_is_said_in_words():
    store = SnapshotStore(1e6)
    for key, value in case_messages([change(DE, "raise", 100.0, "alarm")]):
        store.put_case(key, value)
    _, _, page = asked(f"/case?asset={PUMP}", store=store)
    assert "No picture of this sensor is kept" in page
    store.put_snapshot(*message(pin="healthy|0", at_s=0.0))
    _, _, page = asked(f"/case?asset={PUMP}", store=store)
    assert "only its health is shown" in page
    assert not curves(page, "now")
    assert len(curves(page, "healthy")) == 3


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/case?id=nobody", 404, "no case nobody"),
        ("/case?asset=nobody", 404, "machine nobody"),
        ("/sensor?id=nobody", 404, "sensor nobody"),
        ("/sensor?id=../../etc/passwd", 404, "etc/passwd"),
        ("/case", 400, "/case?id="),
        ("/case?id=", 400, "/case?id="),
        ("/case?id=a&id=b", 400, "/case?id="),
        ("/case?id=a&asset=b", 400, "/case?id="),
        ("/sensor?asset=a", 400, "/case?id="),
        (f"/case?id={'x' * 513}", 400, "/case?id="),
        ("/etc/passwd", 404, "no such page"),
        ("/%2e%2e/%2e%2e/etc/passwd", 404, "no such page"),
        ("/case?id=%3Cscript%3Ealert(1)%3C/script%3E", 404, "&lt;script&gt;"),
        ("/case.json?id=nobody", 404, "no case nobody"),
    ],
)
def test_what_is_not_known_is_a_plain_sentence(path, status, words):
    found, _, text = asked(path, store=sick_pump())
    assert found == status
    assert words in text
    assert "<script" not in text
    if ".json" in path:
        assert json.loads(text)["ok"] is False


@given(st.text(max_size=40), st.text(max_size=40))
@settings(max_examples=25, deadline=None)
def test_no_query_breaks_a_page(name, value):
    async def ask():
        async with serving(sick_pump()) as client:
            for path in ("/case", "/case.json", "/sensor", "/sensor.json", "/"):
                for query in ({name: value}, {"id": value}, {"asset": value}):
                    async with client.get(path, params=query) as answer:
                        assert answer.status in (200, 400, 404)
                        assert value not in ("<", ">") or value not in await answer.text()

    asyncio.run(ask())


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_pages_can_be_read_only(method):
    status, headers, text = asked(f"/case?asset={PUMP}", method, store=sick_pump())
    assert status == 405
    assert "GET" in headers["Allow"]
    assert "read only" in text


def test_a_head_has_the_headers_of_its_page_and_no_body():
    store = sick_pump()
    status, headers, text = asked(f"/case?asset={PUMP}", "HEAD", store=store)
    assert (status, text) == (200, "")
    assert headers["Content-Type"].startswith("text/html")


def test_a_huge_address_is_refused():
    assert asked(f"/case?id={'x' * 100_000}")[0] == 400


@pytest.mark.parametrize("path", ["/", "/case?asset=x", "/sensor.json?id=x", "/health", "/nothing"])
def test_every_answer_says_that_nothing_may_be_done_with_it(path):
    _, headers, _ = asked(path)
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert "Access-Control-Allow-Origin" not in headers
    assert headers["Server"] == "echowatch"


def test_a_page_needs_nothing_from_elsewhere():
    _, _, page = asked(f"/case?asset={PUMP}", store=sick_pump())
    assert not re.search(r"https?://|<script| on\w+=|url\(|@import| style=", page)


def test_health_tells_why_the_pages_may_be_old():
    away = Verdict(ok=False, reasons=("Kafka is away",), facts={"bytes": 7})
    status, _, text = asked("/health", health=lambda: away, token=TOKEN)
    assert status == 503
    assert json.loads(text) == {"ok": False, "reasons": ["Kafka is away"], "bytes": 7}
    assert asked("/health")[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_without_a_token_no_other_site_can_have_a_browser_ask(host):
    for path in ("/", "/health", f"/case.json?asset={PUMP}"):
        status, _, text = asked(path, store=sick_pump(), headers={"Host": host})
        assert status == 421
        assert "Fan pump" not in text


@pytest.mark.parametrize("host", ["localhost", "localhost:9", "127.0.0.1:80", "[::1]:80"])
def test_names_of_this_machine_are_answered_without_a_token(host):
    assert asked("/", headers={"Host": host})[0] == 200


def test_with_a_token_nothing_is_shown_to_who_does_not_know_it():
    store = sick_pump()
    wrong = (None, {"Authorization": f"Bearer {TOKEN}x"}, {"Cookie": f"echowatch={TOKEN}"})
    for path in ("/", f"/case?asset={PUMP}", f"/sensor.json?id={DE}", f"/?token={TOKEN}"):
        for headers in wrong:
            status, answered, text = asked(path, store=store, headers=headers, token=TOKEN)
            assert status == 401
            assert answered["WWW-Authenticate"].startswith("Bearer")
            assert "pump" not in text.replace("pump3", "").lower()
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert asked(f"/case?asset={PUMP}", store=store, headers=headers, token=TOKEN)[0] == 200


def test_a_person_logs_in_once_and_comes_to_the_page_of_the_link():
    async def visit():
        async with serving(sick_pump(), token=TOKEN) as client:
            path = f"/case?asset={PUMP}"
            async with client.get(path) as answer:
                form = await answer.text()
            onward = re.search(r'name="next" value="([^"]+)"', form).group(1)
            data = {"token": TOKEN, "next": onward}
            async with client.post("/login", data=data, allow_redirects=False) as answer:
                assert answer.status == 303
                assert answer.headers["Location"] == path
                cookie = answer.headers["Set-Cookie"]
            assert TOKEN not in cookie
            assert "HttpOnly" in cookie
            assert "SameSite=Lax" in cookie
            async with client.get(path) as answer:
                assert answer.status == 200
                assert "Fan pump 3" in await answer.text()
            data = {"token": TOKEN + "x", "next": onward}
            async with client.post("/login", data=data, allow_redirects=False) as answer:
                assert answer.status == 401
                assert "not the access token" in await answer.text()

    asyncio.run(visit())


@pytest.mark.parametrize(
    "target",
    ["//evil.example", "https://evil.example/case", "/\\evil", "/login", "case", "/case\r\n"],
)
def test_a_login_never_leads_to_another_site(target):
    async def visit():
        async with serving(token=TOKEN) as client:
            data = {"token": TOKEN, "next": target}
            async with client.post("/login", data=data, allow_redirects=False) as answer:
                return answer.headers["Location"]

    assert asyncio.run(visit()) == "/"


def test_a_session_ends_and_dies_with_its_token():
    now = [1000.0]

    class Asked:
        headers: dict = {}  # noqa: RUF012  (nothing is written to it)

        def __init__(self, cookie):
            self.cookies = {"echowatch": cookie}

    login = Login(TOKEN, clock=lambda: now[0])
    until = str(1000 + 60)
    cookie = f"{until}.{login._signed(until)}"
    assert login.knows(Asked(cookie))
    assert not login.knows(Asked(f"{until}0.{login._signed(until)}"))
    assert not Login(TOKEN + "x", clock=lambda: now[0]).knows(Asked(cookie))
    now[0] = 1061.0
    assert not login.knows(Asked(cookie))


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.0.2.1", "plant.example"])  # noqa: S104
def test_beyond_this_machine_a_token_is_needed(host):
    with pytest.raises(LoginError, match="TOKEN_FILE"):
        SnapshotServer(Serve(host=host), SnapshotStore(1e6), fine)


@pytest.mark.parametrize("token", ["", "short", "ä" * 20])
def test_a_token_that_protects_nothing_is_refused(token):
    with pytest.raises(LoginError, match="at least 16"):
        SnapshotServer(Serve(token=token), SnapshotStore(1e6), fine)


def test_an_address_that_is_taken_is_told_with_its_setting():
    async def twice():
        async with serving() as client:
            port = client._base_url.port
            await SnapshotServer(Serve(port=port), SnapshotStore(1e6), fine).start()

    with pytest.raises(EndpointError, match="ECHOWATCH_SERVE__PORT"):
        asyncio.run(twice())


def test_a_certificate_that_cannot_be_used_is_told(tmp_path):
    (tmp_path / "x.pem").write_text("none")
    files = {"cert_file": tmp_path / "x.pem", "key_file": tmp_path / "x.pem"}
    with pytest.raises(EndpointError, match="PEM"):
        asyncio.run(SnapshotServer(Serve(port=0, **files), SnapshotStore(1e6), fine).start())


def test_pages_and_pictures_that_were_shown_are_counted():
    async def ask():
        async with serving(sick_pump(), fine) as client:
            for path in (f"/case?asset={PUMP}", f"/sensor.json?id={DE}", "/sensor?id=none"):
                async with client.get(path) as answer:
                    await answer.text()
            async with client.get("/metrics") as answer:
                return answer.headers["Content-Type"], await answer.text()

    kind, text = asyncio.run(ask())
    assert kind.startswith("text/plain; version=0.0.4")
    assert 'echowatch_serve_pages_total{page="/case"} 1.0' in text
    assert 'echowatch_serve_pages_total{page="/sensor.json"} 1.0' in text
    assert 'page="/sensor"' not in text
    # Two sensors of the case and the one alone, each now and healthy.
    assert "echowatch_serve_snapshots_total 6.0" in text


def test_counts_are_told_to_who_knows_the_token_only():
    assert asked("/metrics", store=sick_pump(), token=TOKEN)[0] == 401
    known = {"Authorization": f"Bearer {TOKEN}"}
    assert asked("/metrics", store=sick_pump(), token=TOKEN, headers=known)[0] == 200


def test_too_many_visitors_hide_neither_health_nor_counts(monkeypatch):
    monkeypatch.setattr(serve, "MOST_WAITING", 0)
    found = {path: asked(path, store=sick_pump())[0] for path in ("/", "/health", "/metrics")}
    assert found == {"/": 503, "/health": 200, "/metrics": 200}
