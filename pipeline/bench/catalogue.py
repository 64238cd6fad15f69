"""Names of test sets in, what each of them needs and how it is run out."""

from typing import Final

from pipeline.bench.sets import BenchSet
from pipeline.bench.sets_recorded import CWRU, GEARBOX, Steps, anomaly, cwru, esc10, gearbox
from pipeline.bench.sets_simulated import simulated, steps
from pipeline.bench.sets_stream import StreamSteps, femto, naming, speed

SETS: Final[dict[str, BenchSet]] = {
    "cwru": BenchSet("Bearing, ten states, other load (CWRU)", ("cwru_12k",), cwru, Steps((CWRU,))),
    "gearbox": BenchSet(
        "Gearbox, broken tooth, other load", ("gearbox_gfd",), gearbox, Steps((GEARBOX,))
    ),
    "esc10": BenchSet("Everyday sounds (ESC-10)", ("esc10",), esc10, Steps(())),
    "anomaly": BenchSet(
        "Anomaly score, bank of normal windows",
        ("cwru_12k", "gearbox_gfd"),
        anomaly,
        Steps((CWRU, GEARBOX)),
    ),
    "simulated": BenchSet("Simulated faults, two loads", (), simulated, steps),
    "femto": BenchSet(
        "Bearings to their end (FEMTO)",
        ("femto_bearing1_2",),
        femto,
        StreamSteps(recorded=True),
    ),
    "speed": BenchSet("Other speed and load, simulated", (), speed, StreamSteps()),
    "naming": BenchSet("Band of a simulated fault", (), naming, StreamSteps(simple=False)),
}
