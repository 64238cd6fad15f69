import re
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import iso as iso_module
from pipeline.fleet import _FACTS as FACTS
from pipeline.fleet import (
    Fleet,
    FleetError,
    Iso,
    SensorInfo,
    iso_limits,
    iso_zone,
    load_fleet,
    parse_fleet,
)
from pipeline.simulation.simulate import demo_plant

DOCS = Path(__file__).resolve().parents[1] / "docs" / "fleet.md"
RIGID = Iso("10816-3", 2, "rigid")


def documented() -> Fleet:
    example = re.search(r"```yaml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    return parse_fleet(example[1], "docs/fleet.md")


def small(sensor: str = "{axis: h}", **asset: str) -> str:
    facts = "".join(f"\n            {key}: {value}" for key, value in asset.items())
    return f"""\
version: 1
plants:
  - id: mill
    areas:
      - id: wet
        assets:
          - id: pump3{facts}
            points:
              - id: de
                sensors:
                  - {sensor}
"""


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(FleetError) as caught:
        parse_fleet(text, "fleet.yaml")
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def test_the_documented_example_parses_to_what_its_comments_say() -> None:
    fleet = documented()
    first, second, third, fourth = fleet.sensors
    assert first == SensorInfo(
        sensor_id="mill/wet_end/pump3/de/h",
        asset="mill/wet_end/pump3",
        plant="mill",
        area="wet_end",
        point="de",
        axis="h",
        name="Drive end, horizontal",
        asset_name="Fan pump 3",
        unit="g",
        expected_rate_hz=25600.0,
        scale=0.00152587890625,
        full_scale=50.0,
        speed_hz=24.8,
        running="auto",
        iso=RIGID,
    )
    assert (second.sensor_id, second.asset) == ("gw7/ch2", "mill/wet_end/pump3")
    assert second.scale == pytest.approx(5000 / 2**23 / 100)
    assert second.full_scale == 50.0
    assert (third.sensor_id, third.line, third.unit) == (
        "mill/air/drying/blower1/nde/h", "drying", "m/s2",
    )  # fmt: skip
    assert (fourth.expected_rate_hz, fourth.running) == (12800.0, 0.4)
    assert fourth.iso == Iso("10816-3", 1, "flexible")
    assert fleet.assets == ("mill/wet_end/pump3", "mill/air/drying/blower1")
    assert [s.axis for s in fleet.sensors_of("mill/wet_end/pump3")] == ["h", "v"]


def test_every_fact_of_the_format_is_documented() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert [fact for fact in FACTS if f"`{fact}`" not in text] == []


def test_a_sensor_in_no_file_gets_its_asset_from_its_id() -> None:
    fleet = documented()
    assert "femto/bearing1_1/horizontal_acc" not in fleet
    info = fleet.sensor("femto/bearing1_1/horizontal_acc")
    assert (info.asset, info.plant, info.point) == ("femto/bearing1_1", "femto", "horizontal_acc")
    assert (info.unit, info.running, info.iso) == (None, "auto", None)
    assert Fleet().asset_of("mic") == "mic"
    deep = SensorInfo.default("mill/wet/pm1/pump3/de")
    assert (deep.plant, deep.area, deep.line) == ("mill", "wet", "pm1")


def test_known_sensors_are_found_by_id() -> None:
    fleet = documented()
    assert "gw7/ch2" in fleet
    assert fleet.asset_of("gw7/ch2") == "mill/wet_end/pump3"


def test_all_problems_come_together_each_with_its_line() -> None:
    text = """\
version: 2
plants:
  - id: mill
    areas:
      - id: wet end
        aset: []
        assets:
          - id: p1
            speed_hz: -3
            points:
              - {id: de, sensors: [{id: a, expected_rate_hz: fast}, {id: a}]}
          - id: p2
"""
    found = problems(text)
    assert [int(text.split(":")[1]) for text in found] == [1, 5, 6, 9, 11, 11, 12]
    assert all(text.startswith("fleet.yaml:") for text in found)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (small("{axis: h, expeted_rate_hz: 5}"), 11, "did you mean 'expected_rate_hz'?"),
        (small("{axis: h, zzz: 5}"), 11, "allowed: id, name, axis"),
        (small("{axis: h, axis: v}"), 11, "'axis' is given twice, first on line 11"),
        (small("{axis: h, expected_rate_hz: nan}"), 11, "must be a number > 0 Hz, got 'nan'"),
        (small("{axis: h, expected_rate_hz: [1]}"), 11, "must be a number > 0 Hz, got a list"),
        (small("{axis: h, unit: {a: b}}"), 11, "must be one line of text, got a mapping"),
        (small("{id: a//b}"), 11, "joined by /, at most 200 characters, got 'a//b'"),
        (small("{id: " + "x" * 201 + "}"), 11, "at most 200 characters"),
        (small("{axis: h, sensitivity: 100}"), 11, "sensitivity needs adc"),
        (small("{axis: h, scale: 1, sensitivity: 2}"), 11, "scale or sensitivity, not both"),
        (small("{axis: h, adc: {bits: 16}}"), 11, "range_mv must be given"),
        (small("{axis: h, adc: {range_mv: 5, bits: 17}}"), 11, "got '17'"),
        (small("text"), 11, "must be a mapping with id, name"),
        (small(running="sometimes"), 8, "auto, always or {above: RMS}, got 'sometimes'"),
        (small(running="{over: 3}"), 8, "unknown key 'over'"),
        (small(iso="{standard: 10816-3, group: 3, mounting: rigid}"), 8, "group 2 flexible; got"),
        (small(iso="{}"), 8, "got no standard group ? no mounting"),
        (small("{<<: 5}"), 11, "<< must name another mapping"),
        ("[" * 5000, 1, "nested too deeply"),
        ("", 1, "fleet is empty"),
        ("version: 1", 1, "plants must list at least one plant"),
        ("plants: [", 1, "not YAML"),
        ("version: 1\nplants: 3", 2, "plants must be a list"),
        ("- 1", 1, "must be a mapping with version, plants"),
        ("version: 1\nplants:\n  - {id: a}", 3, "must list areas"),
        ("a: \x00", 1, "not YAML"),
    ],
)  # fmt: skip
def test_an_error_names_line_what_and_what_was_got(text: str, line: int, said: str) -> None:
    found = problems(text)
    assert any(p.startswith(f"fleet.yaml:{line}: ") and said in p for p in found), found


def test_the_same_sensor_twice_is_refused_with_both_lines() -> None:
    text = small("{id: a}\n                  - {id: a}")
    assert problems(text) == (
        "fleet.yaml:12: sensor 'a': sensor id 'a' is given twice, first on line 11",
    )
    same_line = small("{id: a}").replace("- {id: a}", "[{id: a}, {id: a}]").replace(
        "sensors:\n                  [", "sensors: ["
    )  # fmt: skip
    assert len(problems(same_line)) == 1


def test_the_innermost_fact_counts() -> None:
    text = small("{axis: h, expected_rate_hz: 100}", expected_rate_hz="50", unit="g", scale="0.5")
    info = parse_fleet(text).sensors[0]
    assert (info.expected_rate_hz, info.unit, info.scale) == (100.0, "g", 0.5)
    sensitive = small("{axis: h, sensitivity: 10, adc: {range_mv: 100, bits: 16}}", scale="0.5")
    assert parse_fleet(sensitive).sensors[0].scale == 100 / 2**15 / 10


def test_merge_keys_share_facts_and_own_keys_win() -> None:
    text = small("&a {axis: h, unit: g}\n                  - {<<: *a, axis: v}")
    first, second = parse_fleet(text).sensors
    assert (first.unit, second.unit, second.axis) == ("g", "g", "v")


def test_tags_never_make_objects() -> None:
    text = small("{axis: h, name: !!python/object/apply:os.getcwd []}")
    assert "must be one line of text" in problems(text)[0]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60) | st.recursive(
    st.none() | st.text(max_size=5) | st.integers(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["plants", "areas", "id", "iso", "<<", "x"]), inner),
    max_leaves=12,
).map(yaml.safe_dump))  # fmt: skip
def test_any_text_gives_a_fleet_or_a_fleet_error(text: str) -> None:
    try:
        parse_fleet(text)
    except FleetError as error:
        assert error.problems  # noqa: PT017  (both outcomes are lawful)


def test_a_file_is_read_under_its_own_name(tmp_path: Path) -> None:
    path = tmp_path / "plant.yaml"
    path.write_text(small(), encoding="utf-8")
    assert load_fleet(path).sensors[0].sensor_id == "mill/wet/pump3/de/h"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FleetError, match=r"plant\.yaml:1: must be UTF-8"):
        load_fleet(path)


def test_zones_follow_the_limits_of_the_edition() -> None:
    assert [iso_zone(v, RIGID) for v in (0.0, 1.4, 1.41, 2.8, 2.81, 4.5, 4.51, 99.0)] == list(
        "AABBCCDD"
    )
    assert iso_limits(Iso("10816-3", 1, "rigid")) == (2.3, 4.5, 7.1)


def test_every_zone_row_rises_and_says_how_it_was_checked() -> None:
    path = Path(iso_module.__file__).with_name("iso_zones.yaml")
    table = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert table["version"] == 1
    for edition in table["editions"]:
        assert edition["edition"] == "ISO 10816-3:2009"
        for row in edition["rows"]:
            assert row["limits"] == sorted(row["limits"])
            unsure = row["checked"] == "to be checked against a licensed copy"
            assert unsure == (row["mounting"] == "flexible")


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_a_velocity_that_is_none_has_no_zone(value: float) -> None:
    with pytest.raises(ValueError, match="finite and >= 0"):
        iso_zone(value, RIGID)


def test_an_unknown_machine_group_is_refused() -> None:
    with pytest.raises(ValueError, match="iso must be one of"):
        iso_zone(1.0, Iso("20816-3", 1, "rigid"))


def test_a_simulated_plant_brings_its_own_fleet_file() -> None:
    plant = demo_plant()
    fleet = parse_fleet(plant.fleet_yaml)
    assert tuple(info.sensor_id for info in fleet.sensors) == plant.sensor_ids
    for sensor in plant.sensors:
        info = asdict(fleet.sensor(sensor.sensor_id))
        assert (info["asset"], info["unit"], info["expected_rate_hz"]) == (
            sensor.asset, sensor.unit, sensor.rate_hz,
        )  # fmt: skip
