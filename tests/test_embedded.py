import sqlite3

import numpy as np
import pytest
import torch

from connectors.local import FILE_NAME, LocalStore, StoreError
from echo_model.echo import Echo
from echo_model.engine import EchoEngine
from pipeline.assembly import build_monitor
from pipeline.cases import CaseBook
from pipeline.embedded import EmbeddedRun, RestoreError
from pipeline.fleet import parse_fleet
from pipeline.report.page import render
from pipeline.report.run import collect, describe_case
from pipeline.settings import load
from pipeline.simulation import simulate
from pipeline.state import pack, unpack

SETTINGS = load({}, profile="accelerated", learning={"min_windows": 32})
PLANT = simulate.demo_plant(1, hours=0.75, every_s=30.0)
FLEET = parse_fleet(PLANT.fleet_yaml, "fleet.yaml")


class CrashError(Exception):
    pass


@pytest.fixture(scope="module")
def engine():
    torch.set_num_threads(1)
    return EchoEngine(Echo.from_pretrained("nano"))


def job(folder, engine, **numbers):
    store = LocalStore(folder, create=True)
    store.set_facts(
        {
            "title": "plant", "model_id": engine.model_id, "trained": engine.trained,
            "profile": "accelerated", "settings": SETTINGS.model_dump(mode="json"),
        }
    )  # fmt: skip
    run = EmbeddedRun(
        build_monitor(SETTINGS, FLEET, engine),
        CaseBook(),
        store,
        describe_case=lambda case: describe_case(case, FLEET),
        **{"batch_samples": 200_000, "commit_s": 0.0, **numbers},
    )
    return store, run


def same_content(a, b):
    """Everything a person can see of two runs; floats up to what batch composition moves."""
    (words, numbers), (other_words, other_numbers) = content(a), content(b)
    assert words == other_words
    np.testing.assert_allclose(numbers, other_numbers, rtol=1e-3, atol=1e-3)


def content(folder):
    with sqlite3.connect(folder / FILE_NAME) as db:
        words = [
            db.execute(f"select {what} order by 1, 2").fetchall()
            for what in (
                "sensor_id, end_ns, status, running, faults from windows",
                "transition_id, at_ns from transitions",
                "case_id, 0 from cases",
                "sensor_id, at_ns, kind from events",
                "sensor_id, kind, at_ns from spectra",
            )
        ]
        columns = 'rms, score, "limit", learning_pct'
        rows = db.execute(f"select {columns} from windows order by sensor_id, end_ns")  # noqa: S608
        return words, np.array(rows.fetchall(), np.float64)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, engine):
    folder = tmp_path_factory.mktemp("undisturbed")
    store, run = job(folder, engine)
    assert run.run(PLANT.chunks()).finished
    store.close()
    return folder


def test_a_run_crashed_at_any_moment_goes_on_without_loss_or_doubling(
    tmp_path, engine, undisturbed
):
    for crashes in (1, 3, 2, 4):
        store, run = job(tmp_path, engine, commit_s=0.0 if crashes % 2 else 1e9)
        left = [crashes]

        def crash(_, left=left):
            left[0] -= 1
            if left[0] == 0:
                raise CrashError

        with pytest.raises(CrashError):
            run.run(PLANT.chunks(), advance=crash)
        store.close()
    store, run = job(tmp_path, engine)
    assert run.progress.chunks > 0
    assert run.run(PLANT.chunks()).finished
    store.close()
    same_content(tmp_path, undisturbed)


def test_a_stopped_run_commits_and_goes_on(tmp_path, engine, undisturbed):
    store, run = job(tmp_path, engine, commit_s=1e9)
    progress = run.run(PLANT.chunks(), stop=lambda: True)
    assert not progress.finished
    assert store.summary()["windows"] == progress.windows > 0
    store.close()
    store, run = job(tmp_path, engine)
    assert run.run(PLANT.chunks()).finished
    store.close()
    same_content(tmp_path, undisturbed)


def test_the_report_of_a_run_names_its_sensors_and_its_encoder(undisturbed, engine):
    with LocalStore(undisturbed) as store:
        page = render(collect(store, created="now"))
    assert engine.model_id in page
    assert "untrained" not in page.lower()
    for sensor_id in PLANT.sensor_ids:
        assert FLEET.sensor(sensor_id).name in page


def test_a_trend_comes_back_in_time_order_with_its_bands(undisturbed):
    with LocalStore(undisturbed) as store:
        for sensor_id in PLANT.sensor_ids:
            trend = store.trend(sensor_id)
            assert (trend.end_ns[1:] > trend.end_ns[:-1]).all()
            assert trend.band_shares.shape == (trend.end_ns.size, len(trend.band_edges_hz))
            assert trend.octaves_db.shape == (trend.end_ns.size, trend.octaves_hz.size)
            assert {"healthy", "latest"} <= set(store.spectra(sensor_id))


def test_a_folder_without_a_store_is_refused_by_name(tmp_path):
    with pytest.raises(StoreError, match=r"holds no echowatch\.sqlite"):
        LocalStore(tmp_path)
    (tmp_path / FILE_NAME).write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match="not a usable store"):
        LocalStore(tmp_path)


def test_a_state_of_another_version_is_refused_by_name(tmp_path, engine):
    store, run = job(tmp_path, engine)
    run.run(PLANT.chunks(), stop=lambda: True)
    old = {**unpack(store.states()["monitor"]), "version": 0}
    store.commit([], states={"monitor": pack(old)})
    store.close()
    with pytest.raises(RestoreError, match="state version must be"):
        job(tmp_path, engine)
