"""What boards say of silent sensors, and of machines that only learn, on a real Grafana."""

import time

import pytest

import services
from board_cases import board, panel
from board_questions import Asked, post
from pipeline.point_schema import SCHEMA

pytestmark = pytest.mark.stack

S, HOUR_S = 1_000_000_000, 3600
EVERY_S = 600
RAW = ("echowatch-influx", "echowatch-influx-1h")


def said(sensor, at_ns, ok, faults=""):
    asset = f"mill/hall/{sensor}"
    tags = f"plant=mill,area=hall,asset={asset},sensor={asset}/de"
    fields = (
        f'ok={ok}i,state={-1 if ok else -3}i,running=1i,faults="{faults}",detail="",gap_s=0,bias=0'
    )
    return f"sensor_health,{tags} {fields},clip=0,flat=0 {at_ns}"


def fine(sensor, begin_ns, end_ns):
    return [said(sensor, at_ns, 1) for at_ns in range(begin_ns, end_ns, EVERY_S * S)]


def learnt(asset, at_ns):
    """What a worker writes of a window beside its health while it learns."""
    tags = f"plant=mill,area=hall,asset={asset},sensor={asset}/de,point=de"
    octaves = ",".join(f"{name}=1" for name in SCHEMA["vib_features"].fields if "oct" in name)
    measured = f"rms=1,peak=3,crest=3,kurtosis=3,velocity_mm_s=1,iso_zone=0i,{octaves}"
    learns = 'learning_pct=40,baseline_n=60i,model_id="nano",trained=1i'
    return [
        f"vib_features,{tags} {measured} {at_ns}",
        f"drift,{tags},model=nano {learns} {at_ns}",
    ]


def spoken(begin_ns, end_ns):
    """Eight sensors and a day: heard all along, silent from its middle on, silent since before it,
    silent until its last quarter, installed then, and faulty in every other window; faulty before
    it and heard in its last quarter only, and well before it and not heard at all."""
    hour = HOUR_S * S
    middle, last = begin_ns + 12 * hour, begin_ns + 18 * hour
    return [
        *fine("heard", begin_ns - hour, end_ns),
        *fine("half", begin_ns - hour, middle), said("half", middle, 0, "silent"),
        *fine("gone", begin_ns - 2 * hour, begin_ns - hour),
        said("gone", begin_ns - hour, 0, "silent"),
        *fine("back", begin_ns - 2 * hour, begin_ns - hour),
        said("back", begin_ns - hour, 0, "silent"), *fine("back", last, end_ns),
        *fine("new", last, end_ns),
        said("rare", begin_ns - hour, 0, "clipping"), said("rare", last, 1),
        said("lost", begin_ns - hour, 1),
        *(said("faulty", begin_ns + n * EVERY_S * S, n % 2, "clipping") for n in range(144)),
    ]  # fmt: skip


SHARES = {"heard": 1.0, "half": 0.5, "gone": 0.0, "back": 0.25, "new": 1.0, "faulty": 0.5,
          "rare": 0.25}  # fmt: skip


@pytest.fixture(scope="module")
def asked(influx):
    """Boards over a day of them, which learn as long as they are heard."""
    bucket = influx.new_bucket("states")
    end_ns = time.time_ns() // (HOUR_S * S) * HOUR_S * S
    begin_ns = end_ns - 24 * HOUR_S * S
    learns = learnt("mill/hall/heard", end_ns - EVERY_S * S)
    body = "\n".join([*spoken(begin_ns, end_ns), *learns])
    post(influx, f"/api/v2/write?org={influx.org}&bucket={bucket}", body, "text/plain")
    with services.grafana(influx, bucket) as grafana:
        times = (begin_ns // 10**6, end_ns // 10**6)
        yield Asked(grafana, RAW, times, "mill/hall/heard", "mill/hall/heard/de")


@pytest.mark.parametrize("title", ["Availability", "Available, worst first"])
def test_a_silence_that_lasts_costs_availability_until_it_ends(asked, title):
    one = panel(board("sensor_health"), title)
    frames = asked.frames("sensor_health", one, one["targets"][0])
    found = {
        frame["schema"]["fields"][1]["labels"]["sensor"].split("/")[-2]: frame["data"]["values"][1]
        for frame in frames
    }
    assert found == {name: [pytest.approx(share, abs=0.01)] for name, share in SHARES.items()}


@pytest.mark.parametrize("name", ["fleet", "asset", "alarm_kpi", "sensor_health"])
def test_while_all_machines_learn_no_panel_seems_to_lack_data(asked, name, tmp_path):
    begin, end = asked.times
    machine = f"&var-asset={asked.asset}" if name == "asset" else ""
    address = f"/d/{board(name)['uid']}?kiosk&from={begin}&to={end}{machine}"
    seen = asked.grafana.screenshot(address, 1600, 0, tmp_path / "board.png")
    assert seen["panels"] > 5
    # Heat maps have no words of their own; the panel beside this one says that it learns.
    assert [one for one in seen["broken"] if one[0] != "Where the drift lies"] == []


def test_a_machine_that_learns_has_a_row_of_its_own_among_the_distances(asked):
    one = panel(board("fleet"), "How far from the alarm limit")
    (frame,) = asked.frames("fleet", one, one["targets"][0])
    assert frame["schema"]["fields"][1]["labels"]["asset"] == "mill/hall/heard"
    assert set(frame["data"]["values"][1]) == {0}


def test_a_distance_that_no_sensor_has_yet_is_explained_by_learning(asked):
    one = panel(board("asset"), "How far from the alarm limit")
    assert not asked.values("asset", one, one["targets"][0])
    assert "learnt" in one["fieldConfig"]["defaults"]["noValue"]
