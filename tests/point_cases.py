"""Results of one sensor's window -> the points that must come of it, for the tests of points."""

from hypothesis import strategies as st

from pipeline.case_fold import Case, SensorEvidence
from pipeline.fleet import Fleet, SensorInfo
from pipeline.messages import (
    DriftScore,
    Features,
    SensorHealth,
    Severity,
    StreamEvent,
    Transition,
    WindowResult,
)
from pipeline.point_schema import SCHEMA, STATUS_CODES

T0 = 1_700_000_000_000_000_000
PYTHON_TYPE = {"float": float, "int": int, "bool": bool, "str": str}
SENSORS = ("mill/wet/pump3/de/h", "gw7/ch2", "loner")
FLEET = Fleet(
    (
        SensorInfo(
            SENSORS[0], "mill/wet/pump3", "mill", "wet", "", "de", "h", "Drive end", "Fan pump"
        ),
        SensorInfo(SENSORS[1], "mill/air/fan1", "mill", "air", "dry", "nde", "v"),
    )
)
THIRDS = tuple(
    factor * 10.0**power
    for power in (1, 2, 3, 4)
    for factor in (1.0, 1.25, 1.6, 2.0, 2.5, 3.15, 4.0, 5.0, 6.3, 8.0)
    if 31.0 < factor * 10.0**power < 21_000.0
)

sensor_ids = st.sampled_from(SENSORS)
floats = st.floats()  # nan and infinity included: they are what must not get out
times = st.integers(T0, T0 + 10**6)
texts = st.text(max_size=12)
statuses = st.sampled_from(list(STATUS_CODES))
model_ids = st.sampled_from(
    ["echo-nano-1a2b3c4d", "echo-nano-deadbeef-bf16", "echo-small-h6-eps1e-06-untrained-s0", "x"]
)


@st.composite
def edges_of(draw, most=40):
    count = draw(st.integers(1, most))
    step = draw(st.sampled_from([40.0, 40.0016, 20.0]))
    return tuple(
        ((32 * k - 0.5) * step if k else 0.0, (32 * k + 31.5) * step) for k in range(count)
    )


@st.composite
def drifts(draw, sensor_id, at_ns):
    edges = draw(edges_of())
    learning = draw(st.booleans())
    shares = () if learning else tuple(draw(floats) for _ in edges)
    ratios = {} if learning else {"advisory": draw(floats), "alarm": draw(floats)}
    return DriftScore(
        sensor_id, at_ns, draw(model_ids), draw(floats), draw(floats), draw(floats), draw(floats),
        ratios, draw(texts), draw(floats), draw(st.integers(0, 256)), edges, shares,
        draw(times), draw(st.booleans()),
    )  # fmt: skip


@st.composite
def transitions(draw, sensor_id=None, at_ns=None):
    name = sensor_id or draw(sensor_ids)
    at = draw(times) if at_ns is None else at_ns
    return Transition(
        f"{name}|{at}", name, FLEET.asset_of(name), at, draw(times), draw(statuses),
        draw(statuses), "raise", draw(st.booleans()), draw(st.booleans()), draw(times),
        draw(texts), draw(floats), draw(floats), (draw(floats), draw(floats)), draw(floats),
        draw(texts), draw(texts),
    )  # fmt: skip


@st.composite
def results(draw):
    name, at = draw(sensor_ids), draw(times)
    health = SensorHealth(
        name, at, draw(st.sampled_from([(), ("silent",), ("clipping", "bias_shift")])),
        draw(floats), draw(floats), draw(floats), draw(floats), draw(texts),
    )  # fmt: skip
    thirds = draw(st.integers(0, len(THIRDS)))
    features = Features(
        name, at - 1, at, 25_600.0, draw(floats), draw(floats), draw(floats), draw(floats),
        draw(st.none() | floats), tuple((hz, draw(st.floats(-200, 200))) for hz in THIRDS[:thirds]),
    )  # fmt: skip
    return WindowResult(
        name, FLEET.asset_of(name), at - 1, at, draw(statuses), draw(st.booleans()), health,
        draw(st.none() | st.just(features)), draw(st.none() | drifts(name, at)),
        tuple(draw(st.lists(transitions(name, at), max_size=1))),
    )  # fmt: skip


@st.composite
def stream_events(draw):
    kind = draw(st.sampled_from(["gap", "duplicate", "clock_step"]))
    return StreamEvent(draw(sensor_ids), draw(times), kind, draw(floats), draw(texts))


def scored(sensor_id=SENSORS[0], at_ns=T0, *, bands=8, status="ok", changes=()):
    """A window of a running machine, of which everything is known."""
    edges = tuple(
        ((32 * k - 0.5) * 40.0 if k else 0.0, (32 * k + 31.5) * 40.0) for k in range(bands)
    )
    return WindowResult(
        sensor_id, FLEET.asset_of(sensor_id), at_ns - 975_000_000, at_ns, status,
        running=True,
        health=SensorHealth(sensor_id, at_ns, bias=0.01),
        features=Features(
            sensor_id, at_ns - 975_000_000, at_ns, 25_600.0, 0.1, 0.5, 5.0, 3.1, 1.2,
            tuple((hz, -30.0) for hz in THIRDS),
        ),
        drift=DriftScore(
            sensor_id, at_ns, "echo-nano-1a2b3c4d", 0.02, 1.5, 4.0, 1.1,
            {"advisory": 0.4, "alert": 0.3, "alarm": 0.2}, "drift", 100.0, 256, edges,
            tuple((k + 1) / sum(range(bands + 1)) for k in range(bands)), at_ns - 1000,
            trained=True,
        ),
        transitions=changes,
    )  # fmt: skip


def change(sensor_id=SENSORS[0], at_ns=T0, after="alarm", action="raise", **more):
    values = {"before": "ok", "reason": "drift", "value": 9.0, "limit": 4.0, **more}
    return Transition(
        f"{sensor_id}|{at_ns}|{after}|{action}", sensor_id, FLEET.asset_of(sensor_id), at_ns,
        at_ns - 10, after=after, action=action, band_hz=(6380.0, 7660.0), band_share=0.4, **values,
    )  # fmt: skip


def case(*, closed_ns=None, superseded_by=""):
    """Two sensors of one machine, the second of which confirms."""
    evidence = [
        SensorEvidence(
            name, T0 + i, T0 + 5 + i, Severity.ALARM, Severity(0 if closed_ns else 3), "alarm",
            reason="drift", value=9.0, limit=4.0, band_hz=(6380.0, 7660.0), band_share=0.4,
        )
        for i, name in enumerate((SENSORS[0], "mill/wet/pump3/nde"))
    ]  # fmt: skip
    events = (change(), change("mill/wet/pump3/nde", T0 + 7))
    return Case(
        f"mill/wet/pump3|{T0}", "mill/wet/pump3", T0, closed_ns, tuple(evidence),
        ("mill/wet/pump3/nde",), events, superseded_by=superseded_by,
    )  # fmt: skip


def assert_conforms(point):
    """A point is what the schema says of its measurement."""
    of = SCHEMA[point.measurement]
    assert tuple(name for name, _ in point.tags) == of.tags, point.measurement
    assert all(type(value) is str for _, value in point.tags), point
    assert point.fields, point
    assert type(point.at_ns) is int, point
    for name, value in point.fields.items():
        assert type(value) is PYTHON_TYPE[of.fields[name].kind], (point.measurement, name, value)
        assert value == value, (point.measurement, name)  # noqa: PLR0124  (nan)
        assert value not in (float("inf"), float("-inf")), (point.measurement, name)


def identity(point):
    return point.measurement, point.tags, point.at_ns
