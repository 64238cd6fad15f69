import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alarm_cases import one, quick
from pipeline.fleet import Fleet, SensorInfo
from pipeline.iso import Iso
from pipeline.messages import Processed, SensorHealth, StreamEvent, WindowResult
from pipeline.orders import new_order
from pipeline.point_schema import OCTAVES, QUARANTINE, SCHEMA, STATUS_CODES, series_per_sensor
from pipeline.point_tags import MOST_BANDS, band_names, model_tag
from pipeline.points import PointMaker, octave_levels
from pipeline.streaming.metrics import Metrics
from point_cases import (
    FLEET,
    SENSORS,
    T0,
    THIRDS,
    assert_conforms,
    case,
    change,
    edges_of,
    identity,
    results,
    scored,
    stream_events,
    transitions,
)

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "influx.md").read_text(encoding="utf-8")
# Of the InfluxQL specification: names that a query would have to quote.
KEYWORDS = frozenset(
    re.findall(
        r"\w+",
        """all alter analyze any as asc begin by cardinality create continuous database databases
    default delete desc destinations diagnostics distinct drop duration end every exact explain
    field for from grant grants group groups in inf insert into key keys kill limit show
    measurement measurements name offset on order password policy policies privileges queries
    query read replication resample retention revoke select series set shard shards slimit
    soffset stats subscription subscriptions tag to user users values where with write""",
    )
)


def processed(windows=(), events=()):
    return Processed(tuple(windows), tuple(events), ())


def points_of(*windows, events=(), **more):
    return PointMaker(FLEET).points(processed(windows, events), **more)


def by_measurement(points):
    return {point.measurement: point for point in points}


@given(st.lists(results(), max_size=4), st.lists(stream_events(), max_size=2), st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_point_of_any_result_is_of_the_schema(windows, events, hidden):
    for point in points_of(*windows, events=events, quarantined=lambda _: hidden):
        assert_conforms(point)
        assert point.measurement.startswith(QUARANTINE) == hidden


@given(transitions())
@settings(max_examples=40, deadline=None)
def test_every_point_of_any_transition_is_of_the_schema(transition):
    maker = PointMaker(FLEET)
    for hidden in (False, True):
        made = maker.transition_points([transition], quarantined=lambda _, h=hidden: h)
        for point in made:
            assert_conforms(point)


@given(st.lists(results(), max_size=5), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_points_do_not_depend_on_where_a_batch_ends(windows, cut):
    maker = PointMaker(FLEET)
    parts = [*maker.points(processed(windows[:cut])), *maker.points(processed(windows[cut:]))]
    assert parts == points_of(*windows)


def test_points_of_cases_orders_and_workers_are_of_the_schema():
    maker = PointMaker(FLEET)
    order = new_order(SENSORS[0], "maintenance", by="eva", why="greased", at_ns=T0)
    numbers = {"lag": 3, "windows": 7.0, "embed_s_p99": 0.2, "unheard_of": 1.0, "bytes": math.inf}
    made = [
        *maker.case_points(case()),
        *maker.case_points(case(closed_ns=T0 + 20)),
        maker.order_point(order),
        maker.order_point(order, refused="not shelved"),
        maker.event_point(SENSORS[1], "model", "nano", author="ops", at_ns=T0),
        *maker.pipeline_points("h1", "signals", numbers, at_ns=T0, lags={("sensors", 3): 5}),
    ]
    for point in made:
        assert_conforms(point)
    assert set(made[-2].fields) == {"lag", "windows", "embed_s_p99"}
    assert dict(made[-1].tags) == {
        "host": "h1", "partition": "3", "role": "signals", "topic": "sensors"
    }  # fmt: skip


def test_a_worker_without_a_number_yet_gives_no_point():
    assert PointMaker(FLEET).pipeline_points("h1", "cases", {}, at_ns=T0) == []


def test_the_schema_has_every_number_of_a_worker_but_the_split_counts():
    known = {n for n, of in SCHEMA["pipeline"].fields.items() if of.kind == "float"}
    now = [100.0]
    metrics = Metrics("signals", clock=lambda: now[0], wall=lambda: now[0])
    for timing in ("batch_messages", "batch_windows", "embed_s", "sample_to_score_s"):
        getattr(metrics, timing).observe(1.0)
    metrics.received_to_stored_s.observe(1.0)
    metrics.last_event_ns.set(T0)
    metrics.checkpoint_age_s.set(1.0)
    now[0] += 1.0
    told = set(metrics.snapshot())
    split = {name for name in told if re.match(r"(dead_letters|stream_events)_", name)}
    assert told - split == known


def test_a_worker_says_which_program_and_model_it_is():
    maker = PointMaker(FLEET)
    who = {"version": "0.1.0", "model_id": "echo-nano-1a2b3c4d"}
    (told,) = maker.pipeline_points("h1", "signals", {"windows": 1.0}, at_ns=T0, **who)
    assert_conforms(told)
    assert told.fields == {"windows": 1.0, **who}
    (dumb,) = maker.pipeline_points("h1", "cases", {"windows": 1.0}, at_ns=T0)
    assert set(dumb.fields) == {"windows"}


@pytest.mark.parametrize(("velocity", "zone"), [(0.0, 0), (2.0, 1), (2.81, 2), (9.0, 3)])
def test_a_running_machine_of_a_known_kind_has_an_iso_zone(velocity, zone):
    kind = SensorInfo(SENSORS[0], "mill/wet/pump3", iso=Iso("10816-3", 2, "rigid"))
    window = scored()
    window = replace(window, features=replace(window.features, velocity_mm_s=velocity))

    def told(fleet, **changed):
        points = PointMaker(fleet).points(processed([replace(window, **changed)]))
        return by_measurement(points)["vib_features"].fields.get("iso_zone")

    assert told(Fleet((kind,))) == zone
    assert told(FLEET) is None  # nobody said which limits hold
    assert told(Fleet((kind,)), running=False) is None
    for none in (None, math.nan, math.inf):
        features = replace(window.features, velocity_mm_s=none)
        assert told(Fleet((kind,)), features=features) is None


def test_no_name_needs_quotes_in_a_query():
    names = {n for m, of in SCHEMA.items() for n in (m, *of.tags, *of.fields)}
    assert not names & KEYWORDS
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)


def test_tags_are_in_order_and_never_fields_too():
    for of in SCHEMA.values():
        assert list(of.tags) == sorted(of.tags)
        assert not set(of.tags) & set(of.fields)


def test_a_sensor_level_tag_is_its_place_in_the_plant():
    tags = dict(by_measurement(points_of(scored()))["vib_features"].tags)
    assert tags == {
        "plant": "mill", "area": "wet", "line": "", "asset": "mill/wet/pump3", "point": "de",
        "sensor": SENSORS[0], "axis": "h",
    }  # fmt: skip


def test_no_hash_and_no_id_of_a_case_is_a_tag():
    maker = PointMaker(FLEET)
    points = [*maker.points(processed([scored(changes=(change(),))])), *maker.case_points(case())]
    values = {value for point in points for _, value in point.tags}
    assert not any("1a2b3c4d" in value or "|" in value for value in values)
    assert by_measurement(points)["drift"].fields["model_id"] == "echo-nano-1a2b3c4d"


def test_a_model_keeps_its_kind_when_its_weights_change():
    known = {
        "echo-nano-1a2b3c4d": "echo-nano",
        "echo-nano-1a2b3c4d-bf16": "echo-nano-bf16",
        "echo-small-h6-eps1e-06-parity-00000000": "echo-small-h6-eps1e-06-parity",
        "echo-nano-untrained-s12-bf16": "echo-nano-untrained-bf16",
        "somebodys-own": "somebodys-own",
    }
    assert {name: model_tag(name) for name in known} == known


def test_another_model_or_rate_gets_tags_of_its_own():
    maker, window = PointMaker(FLEET), scored()

    def made(**changed):
        drift = replace(window.drift, **changed)
        return maker.points(processed([replace(window, drift=drift)]))

    made()
    assert dict(by_measurement(made(model_id="other"))["drift"].tags)["model"] == "other"
    fewer = made(band_edges_hz=window.drift.band_edges_hz[:2], band_shares=(0.5, 0.5))
    assert [dict(p.tags)["band"] for p in fewer if p.measurement == "drift_band"] == [
        "000000", "001280"
    ]  # fmt: skip


def test_a_window_is_stamped_with_its_end_and_a_silence_with_its_deadline():
    silent = SensorHealth(SENSORS[0], T0 + 99, ("silent",), gap_s=300.0, detail="no data")
    quiet = WindowResult(SENSORS[0], "a", T0 + 99, T0 + 99, "unknown", running=False, health=silent)
    (told,) = points_of(quiet)
    assert (told.measurement, told.at_ns) == ("sensor_health", T0 + 99)
    assert (told.fields["state"], told.fields["ok"], told.fields["faults"]) == (-3, 0, "silent")
    assert {point.at_ns for point in points_of(scored(at_ns=T0 + 5))} == {T0 + 5}


def test_a_learning_window_has_no_score_and_no_bands():
    window = scored()
    learning = window.drift.__class__(
        SENSORS[0], T0, "m", *[math.nan] * 4, learning_pct=40.0, baseline_n=8,
        band_edges_hz=window.drift.band_edges_hz,
    )  # fmt: skip
    points = points_of(
        WindowResult(
            SENSORS[0], "a", T0, T0, "learning", running=True, health=window.health, drift=learning
        )
    )
    fields = by_measurement(points)["drift"].fields
    assert not {"score", "threshold", "top_share", "reason"} & set(fields)
    assert (fields["learning_pct"], fields["baseline_n"]) == (40.0, 8)
    assert "drift_band" not in by_measurement(points)


def test_transitions_of_one_sensor_never_overwrite_each_other():
    logic = one(quick(latch=True))
    made = []
    for i in range(1, 40):
        made += logic.update(1000, "scored", {"alarm": 2.0 if i % 10 < 6 else 0.1})
        if logic.severity and not logic.acked:
            made += logic.acknowledge(1000, "eva")
        made += logic.shelve(1000, 1000 + i, "eva", "noise")
        made += logic.update(1000, "unknown" if i % 3 else "stopped")
    points = PointMaker(FLEET).transition_points(made)
    assert len(made) > 60
    assert len({identity(point) for point in points}) == len(made)


@given(edges_of(most=400))
@settings(max_examples=60, deadline=None)
def test_bands_have_few_names_and_lose_no_share(edges):
    names = band_names(edges)
    assert len(set(names)) <= MOST_BANDS
    assert list(names) == sorted(names)
    assert all(re.fullmatch(r"\d{6}", name) and int(name) % 1280 == 0 for name in names)
    points = points_of(scored(bands=len(edges)))
    shares = [p.fields["share"] for p in points if p.measurement == "drift_band"]
    assert math.isclose(sum(shares), 1.0, rel_tol=1e-9)


def test_a_band_keeps_its_name_at_rates_that_nearly_agree():
    exact = tuple(((32 * k - 0.5) * 40.0 if k else 0.0, 0.0) for k in range(11))
    nearly = tuple(((32 * k - 0.5) * 40.2 if k else 0.0, 0.0) for k in range(11))
    assert band_names(exact) == band_names(nearly)


def test_octaves_are_sums_of_the_power_of_their_thirds():
    levels = np.linspace(-60.0, 10.0, len(THIRDS))
    power = dict(zip(THIRDS, 10.0 ** (levels / 10.0), strict=True))
    found = octave_levels(list(zip(THIRDS, levels, strict=True)))
    assert set(found) == set(OCTAVES)
    for name, parts in OCTAVES.items():
        assert math.isclose(found[name], 10.0 * np.log10(sum(power[p] for p in parts)))


def test_every_third_that_is_measured_belongs_to_one_octave():
    parts = [part for thirds in OCTAVES.values() for part in thirds]
    assert tuple(parts) == THIRDS


def test_an_octave_that_is_not_measured_whole_is_left_out():
    assert set(octave_levels([(hz, 0.0) for hz in THIRDS if 200.0 <= hz <= 10_000.0])) == {
        "oct_250", "oct_500", "oct_1k", "oct_2k", "oct_4k", "oct_8k"
    }  # fmt: skip


def test_strangers_share_one_series_and_do_not_overwrite_each_other():
    names = [f"stranger/{i}" for i in range(50)]
    seen = set()
    for name in names:
        event = StreamEvent(name, T0, "gap", 1.0)
        points = points_of(
            scored(name, changes=(change(name), change(name, T0 + 1, "ok", "return"))),
            events=[event], quarantined=lambda _: True,
        )  # fmt: skip
        assert {point.tags for point in points} == {
            (("plant", "quarantine"), ("sensor", "unknown"))
        }
        assert all(point.fields["sensor_id"] == name for point in points)
        assert all(T0 <= point.at_ns <= T0 + 1_000_001 for point in points)
        seen |= {identity(point) for point in points}
    assert len(seen) == 50 * 6  # health, features, drift, two changes, one event


def test_a_stranger_makes_no_machine_a_tag():
    maker, hidden = PointMaker(FLEET), lambda name: name not in FLEET
    order = new_order("gw9/typo", "ack", by="eva", at_ns=T0)
    told = maker.order_point(order, quarantined=hidden)
    assert dict(told.tags) == {
        "plant": "quarantine", "area": "", "line": "", "asset": "", "type": "ack"
    }  # fmt: skip
    assert maker.case_points(case(), quarantined=lambda _: True) == []


def test_a_case_is_stamped_with_its_newest_change_and_says_how_it_stands():
    (told,) = PointMaker(FLEET).case_points(case())
    assert told.at_ns == T0 + 7
    assert dict(told.tags)["asset"] == "mill/wet/pump3"
    fields = told.fields
    assert fields["opened_s"] == fields["opened_ns"] / 1e9
    assert (fields["open"], fields["severity"], fields["current"], fields["sensors"]) == (
        True, 3, 3, 2
    )  # fmt: skip
    assert fields["top_band"] == "6.4-7.7 kHz"
    assert fields["sentence"].startswith("Fan pump / Drive end: since")
    (closed,) = PointMaker(FLEET).case_points(case(closed_ns=T0 + 20))
    assert (closed.fields["open"], closed.fields["closed_ns"]) == (False, T0 + 20)


def test_a_withdrawn_case_leaves_its_machine_to_its_heir():
    assert PointMaker(FLEET).case_points(case(superseded_by="mill/wet/pump3|1")) == []


def test_the_cost_of_a_sensor_is_what_its_points_show():
    events = [StreamEvent(SENSORS[0], T0, kind) for kind in ("gap", "late", "duplicate")]
    points = points_of(scored(changes=(change(),)), events=events)
    cost = series_per_sensor(bands=8, stream_kinds=3)
    assert len({(point.measurement, point.tags) for point in points}) == cost.series
    assert len(points_of(scored())) == cost.points
    assert len(points_of(scored(bands=11))) == series_per_sensor(bands=11).points


def test_ten_thousand_sensors_stay_far_below_a_million_series():
    most = series_per_sensor(bands=8).times(10_000)
    usual = series_per_sensor(bands=8, stream_kinds=1).times(10_000)
    assert most.series <= 250_000
    assert usual.series <= 150_000
    assert usual.keys <= 1_000_000
    for number in (most.series, usual.series, usual.keys):
        assert f"{number:,}" in PAGE


def test_the_page_lists_every_measurement_tag_and_field():
    sections = re.split(r"^### `(\w+)`\n", PAGE, flags=re.MULTILINE)
    texts = dict(zip(sections[1::2], sections[2::2], strict=True))
    assert list(texts) == [name for name in SCHEMA if not name.startswith(QUARANTINE)]
    for name, text in texts.items():
        of = SCHEMA[name]
        assert re.search(r"^Tags: (.*)$", text, re.MULTILINE).group(1) == ", ".join(
            f"`{tag}`" for tag in of.tags
        )
        rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", text, re.MULTILINE)
        assert rows == [(n, f.kind, f.unit, f.about) for n, f in of.fields.items()]
        assert of.about in text


def test_the_page_gives_the_number_of_every_status():
    rows = re.findall(r"^\| (-?\d) \| (\w+) \|", PAGE, re.MULTILINE)
    assert {word: int(code) for code, word in rows} == STATUS_CODES
