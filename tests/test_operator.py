from pathlib import Path

import numpy as np
import pytest

from connectors.local import LocalStore
from pipeline.assembly import build_monitor
from pipeline.cases import CaseBook
from pipeline.embedded import EmbeddedRun
from pipeline.fleet import Fleet
from pipeline.messages import NS_PER_S, Flags, SensorChunk
from pipeline.operator import OperatorError, command
from pipeline.report.run import describe_case
from pipeline.settings import load

SETTINGS = load({}, profile="accelerated", learning={"min_windows": 16})


class Spectra:
    """A tiny second encoder: log energies of eight bands; enough to learn a level from."""

    model_id, trained = "bands", True

    def embed(self, samples, sample_rates_hz, gains=None):
        del sample_rates_hz
        gains = gains or [1.0] * len(samples)
        return [
            np.log([[np.mean(part**2), 1.0] for part in np.array_split(g * x, 8)]).astype(
                np.float32
            )
            for x, g in zip(samples, gains, strict=True)
        ]

    def band_edges_hz(self, sample_rate_hz):
        edges = np.linspace(0, sample_rate_hz / 2, 9)
        return tuple(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def chunks(n=60, loud=range(30, 40)):
    rng = np.random.default_rng(0)
    for i in range(n):
        for sensor in ("p/pump/de", "p/pump/nde", "p/fan/de"):
            level = 4.0 if i in loud and "pump" in sensor else 1.0
            yield SensorChunk(
                sensor, 2000.0, (1_700_000_000 + 10 * i) * NS_PER_S,
                (level * rng.normal(size=2000)).astype(np.float32), seq=i,
                flags=Flags.END_OF_CAPTURE,
            )  # fmt: skip


def finished_run(folder: Path, until: int | None = None) -> LocalStore:
    store = LocalStore(folder, create=True)
    store.set_facts({"settings": SETTINGS.model_dump(mode="json")})
    job = EmbeddedRun(
        build_monitor(SETTINGS, Fleet(), Spectra()),
        CaseBook(),
        store,
        describe_case=lambda case: describe_case(case, Fleet()),
        batch_samples=1,
    )
    stop = (lambda: job.progress.chunks >= until) if until else (lambda: False)
    job.run(chunks(), stop=stop)
    return store


def obey(store, target, action, **words):
    words = {"by": "Kim", "why": "seen on site", **words}
    return command(
        store, target, action, asset_of=Fleet().asset_of,
        describe_case=lambda case: describe_case(case, Fleet()), **words,
    )  # fmt: skip


def test_an_alarm_that_has_gone_stays_until_somebody_acknowledges_it(tmp_path):
    store = finished_run(tmp_path)
    (case,) = store.cases()
    assert (case["asset"], case["closed_ns"], case["acked"]) == ("p/pump", None, False)
    done = obey(store, case["case_id"], "ack")
    assert {(t.sensor_id, t.action, t.after) for t in done} == {
        ("p/pump/de", "ack", "ok"),
        ("p/pump/nde", "ack", "ok"),
    }
    (case,) = store.cases()
    assert case["closed_ns"] is not None
    assert case["acked"]
    kept = [t for t in store.transitions() if t.action == "ack"]
    assert {(t.by, t.why) for t in kept} == {("Kim", "seen on site")}
    assert obey(store, "p/pump", "ack") == []


def test_what_was_acknowledged_stays_so_when_an_interrupted_run_goes_on(tmp_path):
    store = finished_run(tmp_path, until=3 * 36)
    assert [t.after for t in obey(store, "p/pump/de", "ack")] == ["alarm"]
    store.close()
    store = finished_run(tmp_path)
    states = {t.sensor_id: t for t in store.transitions() if "pump" in t.sensor_id}
    assert (states["p/pump/de"].after, states["p/pump/de"].latched) == ("ok", False)
    assert (states["p/pump/nde"].after, states["p/pump/nde"].latched) == ("alarm", True)


def test_shelving_needs_words_and_an_end_within_a_week(tmp_path):
    store = finished_run(tmp_path)
    with pytest.raises(OperatorError, match="why"):
        obey(store, "p/pump", "shelve", why="", shelve_s=3600.0)
    with pytest.raises(OperatorError, match="shelving must last"):
        obey(store, "p/pump", "shelve", shelve_s=8 * 86_400.0)
    shelved = obey(store, "p/pump", "shelve", shelve_s=3600.0)
    assert all(t.shelved_until_ns > t.at_ns for t in shelved)
    assert {t.action for t in obey(store, "p/pump", "unshelve")} == {"unshelve"}


def test_an_unknown_target_names_what_there_is(tmp_path):
    with pytest.raises(OperatorError, match="p/pump/de"):
        obey(finished_run(tmp_path), "p/motor", "ack")
