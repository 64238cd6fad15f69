import itertools
from collections import Counter

import pytest
import torch

from pipeline.assembly import build_monitor
from pipeline.encoders import load_engine
from pipeline.fleet import parse_fleet
from pipeline.messages import NS_PER_S
from pipeline.settings import load
from pipeline.simulation.fleet import fleet_yaml
from pipeline.simulation.life import Life
from pipeline.simulation.story import MACHINES, PLANT, QUIET, SAYINGS

START_NS = 1_763_700_000_123_000_000
# As in `board_plant`: the shortest history in which the story is told in full.
HISTORY_S, EVERY_S, LEARNT = 6 * 3600.0, 150.0, 45

ENDS = {
    "wet_end/pump3/de": "alarm",
    "machine_hall/press/drive1/in": "alarm",
    "machine_hall/dryer/fan2/de": "alert",
    "machine_hall/dryer/fan1/de": "advisory",
    "machine_hall/dryer/gearbox1/in": "ok",  # repaired and learnt anew
    "wet_end/pump4/de": "ok",  # it cavitated for a while
    "machine_hall/dryer/cylinder2/drive_side": "learning",
    "utilities/compressor2/de": "stopped",
    "wet_end/pump2/de": "unknown",  # flat line
    "machine_hall/press/pump5/de": "unknown",  # clipped
    "utilities/pump7/nde": "unknown",  # silent
    "machine_hall/dryer/cylinder1/tender_side": "ok",  # its radio link is bad from time to time
    "utilities/compressor1/de": "ok",  # runs and stands
    "wet_end/pump1/de": "ok",
    "wet_end/agitator1/de": "ok",
    "utilities/blower1/mic": "ok",
    "utilities/pump7/de": "ok",
}
SICK = ("pump3", "drive1", "fan1", "fan2", "gearbox1", "pump4")
SILENT = {"flatline": "pump2/de", "clipping": "pump5/de", "silent": "pump7/nde"}


def life(seed=0, start_ns=START_NS):
    return Life(seed, start_ns, HISTORY_S, EVERY_S)


def sketch(chunks):
    return [(c.sensor_id, c.seq, c.samples.tobytes()) for c in chunks]


@pytest.fixture(scope="module")
def lived():
    """Results and transitions of some sensors over the history, through the embedded core."""
    plant, fleet = life(), parse_fleet(fleet_yaml())
    chosen = [c for c in plant.channels if c.sensor.sensor_id.removeprefix(f"{PLANT}/") in ENDS]
    plant.__dict__["channels"] = tuple(chosen)
    given = {"learning": {"min_windows": LEARNT}, "windows": {"min_silence_s": 400}}
    settings = load({}, profile="accelerated", **given)
    torch.set_num_threads(1)
    monitor = build_monitor(settings, fleet, load_engine(settings))
    windows, changes, since_ns = [], [], START_NS
    for at, said in itertools.groupby(SAYINGS, key=lambda saying: saying.at):
        windows += play(monitor, plant, since_ns, plant.at_ns(at))
        since_ns = plant.at_ns(at)
        for saying, channel in itertools.product(said, chosen):
            ours = channel.sensor.asset == f"{PLANT}/{saying.machine}"
            if ours and saying.action != "maintenance":
                changes += monitor.obey(
                    channel.sensor.sensor_id, saying.action, saying.by, saying.why
                )
    windows += play(monitor, plant, since_ns, plant.at_ns(1))
    changes += [change for window in windows for change in window.transitions]
    return windows, sorted(changes, key=lambda change: change.at_ns)


def play(monitor, plant, since_ns, until_ns):
    stream, found = plant.chunks(since_ns, until_ns), []
    while batch := list(itertools.islice(stream, 64)):
        found += monitor.process(batch).windows
    return found


def test_the_plant_has_three_areas_twenty_machines_and_sixty_sensors():
    channels = life().channels
    assert len({machine.place[0] for machine in MACHINES}) == 3
    assert len({channel.sensor.asset for channel in channels}) == len(MACHINES) == 20
    assert len({channel.sensor.sensor_id for channel in channels}) == len(channels) == 60
    assert len({channel.sensor.rate_hz for channel in channels}) >= 5


def test_the_fleet_file_describes_what_is_sent():
    fleet = parse_fleet(fleet_yaml())
    sensors = {channel.sensor.sensor_id: channel.sensor for channel in life().channels}
    assert [info.sensor_id for info in fleet.sensors] != []
    assert {info.sensor_id for info in fleet.sensors} == set(sensors)
    for info in fleet.sensors:
        sensor = sensors[info.sensor_id]
        assert (info.expected_rate_hz, info.unit) == (sensor.rate_hz, sensor.unit)
        assert info.asset == sensor.asset
        assert info.full_scale == (None if sensor.encoding == "f32" else sensor.full_scale)


def test_a_capture_depends_on_seed_sensor_and_time_only():
    plant = life()
    middle_ns = plant.at_ns(0.6)
    whole = sketch(plant.chunks(plant.at_ns(0.59), middle_ns + 2 * plant.every_ns))
    later = sketch(plant.chunks(middle_ns, middle_ns + 2 * plant.every_ns))
    assert whole[-len(later) :] == later
    assert later != sketch(life(seed=1).chunks(middle_ns, middle_ns + 2 * plant.every_ns))


def test_the_story_is_the_same_whenever_it_begins():
    other_ns = START_NS + 12_345_678_901_000_000
    here = sketch(itertools.islice(life().chunks(START_NS), 60))
    assert here == sketch(itertools.islice(life(start_ns=other_ns).chunks(other_ns), 60))


def test_chunks_come_in_order_of_time_each_slot_once():
    plant = life()
    chunks = list(plant.chunks(plant.at_ns(0.9), plant.at_ns(0.9) + 3 * plant.every_ns))
    assert [c.start_ns for c in chunks] == sorted(c.start_ns for c in chunks)
    counts = Counter((c.sensor_id, c.seq) for c in chunks)
    assert set(counts.values()) == {1}
    starts = {(c.start_ns - START_NS) // plant.every_ns - c.seq for c in chunks}
    assert starts == {0}


def test_the_live_part_goes_on_after_the_history_without_end():
    plant = life()
    end_ns = plant.at_ns(1)
    chunks = list(itertools.islice(plant.chunks(end_ns), 120))
    assert chunks[0].start_ns >= end_ns
    assert chunks[-1].end_ns > end_ns + NS_PER_S * EVERY_S
    assert "mill/utilities/pump7/nde" not in {chunk.sensor_id for chunk in chunks}


def test_what_is_new_is_silent_before_it_is_installed():
    plant = life()
    names = {c.sensor_id for c in itertools.islice(plant.chunks(START_NS), 58)}
    assert not any("cylinder2" in name for name in names)


def test_a_worn_bearing_is_louder_and_full_scale_is_never_passed():
    plant = life()
    bearing = next(c for c in plant.channels if c.sensor.sensor_id.endswith("pump3/de"))
    early, late = (
        bearing.capture(slot, START_NS + slot * plant.every_ns).samples.astype(float).std()
        for slot in (10, 143)
    )
    assert late > 4 * early


@pytest.mark.parametrize(("history_s", "every_s"), [(0.0, 60.0), (-1.0, 60.0), (3600.0, 1.0)])
def test_numbers_that_make_no_plant_are_refused(history_s, every_s):
    with pytest.raises(ValueError, match=r"must"):
        Life(0, START_NS, history_s, every_s)


def test_every_machine_ends_as_its_story_says(lived):
    windows, _ = lived
    newest = {window.sensor_id.removeprefix(f"{PLANT}/"): window.status for window in windows}
    assert newest == ENDS


def test_only_sick_machines_raise_anything_and_not_before_the_quiet_is_over(lived):
    _, changes = lived
    raised = [change for change in changes if change.action in ("raise", "escalate")]
    assert {change.asset.rpartition("/")[2] for change in raised} == set(SICK)
    assert min(change.at_ns for change in raised) > life().at_ns(QUIET)


def test_people_are_heard_at_their_moments(lived):
    _, changes = lived
    said = [(c.action, c.by, c.after) for c in changes if c.by]
    assert ("ack", "eva", "alarm") in said
    assert ("learn", "jonas", "learning") in said
    anew = next(c for c in changes if c.by == "jonas")
    later = [c.action for c in changes if c.sensor_id == anew.sensor_id and c.at_ns > anew.at_ns]
    assert later == ["learnt"]


def test_broken_sensors_are_named_after_what_is_wrong_with_them(lived):
    windows, _ = lived
    for fault, place in SILENT.items():
        newest = [w for w in windows if w.sensor_id.endswith(place)][-1]
        assert fault in newest.health.faults


def test_a_machine_that_cycles_is_seen_running_and_standing(lived):
    _, changes = lived
    ours = [c.action for c in changes if "compressor1" in c.sensor_id]
    assert ours.count("stop") >= 3
    assert ours.count("start") >= 3
