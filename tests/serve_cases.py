"""A few numbers in; snapshots and cases as they lie on their topics, and a server of them, out."""

from contextlib import asynccontextmanager

import aiohttp
import numpy as np

from pipeline.alarm_messages import case_to_json
from pipeline.cases import CaseBook
from pipeline.fleet import Fleet, SensorInfo
from pipeline.indicators import features
from pipeline.messages import NS_PER_S, DriftScore, SensorHealth, Transition, Window, WindowResult
from pipeline.serve.server import SnapshotServer
from pipeline.serve.store import SnapshotStore
from pipeline.service_settings import Serve
from pipeline.snapshots import key_of, snapshot_to_bytes
from pipeline.streaming.endpoints import Verdict

T0 = 1_700_000_000 * NS_PER_S
RATE = 12_800.0
PUMP = "mill/wet_end/pump3"
DE, NDE = f"{PUMP}/de/h", f"{PUMP}/nde/v"
FLEET = Fleet(
    (
        SensorInfo(DE, PUMP, "mill", "wet_end", "", "de", "h", "Drive end", "Fan pump 3"),
        SensorInfo(NDE, PUMP, "mill", "wet_end", "", "nde", "v", "Fan end", "Fan pump 3"),
    )
)
TOKEN = 2 * "0123456789"  # of no server that is real


def signal(*, worn, seconds=1.0, rate=RATE, seed=0):
    """A turning machine, in g; a worn bearing rings at 4 kHz, 87 times a second."""
    t = np.arange(round(seconds * rate)) / rate
    x = 0.3 * np.sin(2 * np.pi * 24.7 * t) + 0.1 * np.sin(2 * np.pi * 49.4 * t + 1)
    x += 0.05 * np.random.default_rng(seed).normal(size=t.size)
    if worn:
        since = np.mod(t, 1 / 87.3)
        x += 1.1 * np.exp(-since * 700) * np.sin(2 * np.pi * 4000 * since)
    return np.rint(x / 0.0005).astype(np.int16)


def pinned(sensor_id=DE, *, pin="now|1", at_s=100.0, status="alarm", asset=PUMP, **given):
    """A window that is to be kept."""
    samples = given.pop("samples", None)
    if samples is None:
        samples = signal(worn=pin.startswith("now"))
    start_ns = T0 + round(at_s * NS_PER_S)
    facts = {"scale": 0.0005, "unit": "g", "encoding": "i16", **given}
    window = Window(sensor_id, RATE, start_ns, 0, samples, **facts)
    drift = DriftScore(
        sensor_id, window.end_ns, "nano-1", 0.4, 9.0, 3.0, 2.5, {"advisory": 3.0}, "drift"
    )
    return WindowResult(
        sensor_id, asset, start_ns, window.end_ns, status, running=True, drift=drift,
        health=SensorHealth(sensor_id, window.end_ns), features=features(window), pin=pin,
        window=window,
    )  # fmt: skip


def message(**given):
    """Key and value of a snapshot."""
    result = pinned(**given)
    return key_of(result), snapshot_to_bytes(result)


def change(sensor_id, action, at_s, after, before="ok", asset=PUMP):
    at_ns = T0 + round(at_s * NS_PER_S)
    return Transition(
        f"{sensor_id}|{at_ns}|{after}|{action}", sensor_id, asset, at_ns, at_ns, before, after,
        action, reason="drift", value=9.0, limit=3.0, band_hz=(3200.0, 4480.0), band_share=0.42,
    )  # fmt: skip


def case_messages(changes, fleet=FLEET):
    """(key, value) of every case that transitions make, as a worker writes them."""
    book = CaseBook()
    found = []
    for one in changes:
        found += book.add(one)
    return [(case.case_id.encode(), case_to_json(case, fleet)) for case in found]


def sick_pump():
    """The store of a pump whose drive end departed and whose fan end confirms."""
    store = SnapshotStore(50e6)
    for key, value in (
        message(pin="healthy|0", at_s=0.0, status="ok"),
        message(pin="now|1", at_s=99.0),
        message(sensor_id=NDE, pin="healthy|0", at_s=0.0, status="ok"),
        message(sensor_id=NDE, pin="now|1", at_s=159.0, samples=signal(worn=True, seed=1) // 3),
    ):
        store.put_snapshot(key, value)
    raises = [change(DE, "raise", 100.0, "alarm"), change(NDE, "raise", 160.0, "advisory")]
    for key, value in case_messages(raises):
        store.put_case(key, value)
    return store


def fine():
    return Verdict(ok=True)


@asynccontextmanager
async def serving(store=None, health=fine, **settings):
    """A client of a server that is up."""
    up = SnapshotServer(Serve(port=0, **settings), store or SnapshotStore(1e6), health)
    port = await up.start()
    try:
        jar = aiohttp.CookieJar(unsafe=True)  # cookies of an address without a name
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", cookie_jar=jar) as client:
            yield client
    finally:
        await up.stop()
