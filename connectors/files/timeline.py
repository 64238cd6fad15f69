"""A column of times in; sample rate, start, and the places where time jumps out.

Rows of a table are one signal as long as their times advance by one period each. Timestamps that
are coarser than the rate (many rows per millisecond) count as regular within their resolution.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectors.files.recording import Block, Jump
from pipeline.messages import NS_PER_S

_TIME_NAME = re.compile(
    r"^(time|timestamp|datetime|date_?time|date|t|zeit|epoch|start_time|start)"
    r"(?:[ _]*[\[(]?(s|sec|seconds|ms|us|µs|ns)[\])]?)?$",
    re.IGNORECASE,
)
_STEPS_NS = {"s": NS_PER_S, "sec": NS_PER_S, "seconds": NS_PER_S, "ms": 1_000_000}
_STEPS_NS |= {"us": 1000, "µs": 1000, "ns": 1}
_YEAR_2000_S = 946_684_800
# A measured rate this close to a whole number of hertz (or seconds) is that number.
_SNAP = 1e-4


@dataclass(frozen=True, slots=True)
class Timeline:
    """What the times of a table say.

    Attributes:
        start_ns: None where they count from the start of the recording.
        tolerance_ns: Steps that differ from the period by more than this are jumps.
    """

    rate_hz: float
    start_ns: int | None
    tolerance_ns: int


def time_column(names: Iterable[str], columns: Mapping[str, str] | None) -> str | None:
    """The column of times: the one the options name, else one that is called so."""
    listed = list(names)
    for name in listed:
        if (columns or {}).get(name) == "time":
            return name
    free = [name for name in listed if name not in (columns or {})]
    return next((name for name in free if _TIME_NAME.match(name.strip())), None)


def times_ns(values: NDArray[Any], name: str) -> tuple[NDArray[np.int64], bool]:
    """(N,) datetimes, epochs or seconds as (N,) ns, and whether they are dates.

    Numbers past 2000-01-01 in s, ms, us or ns are epochs; smaller ones count from the start of
    the recording, in the unit that the column's name states, else seconds.
    """
    if values.dtype.kind == "M":
        moments: NDArray[np.int64] = values.astype("datetime64[ns]").astype(np.int64)
        return moments, True
    first = float(values[0]) if len(values) else 0.0
    for step_ns in (1, 1000, 1_000_000, NS_PER_S):
        if first >= _YEAR_2000_S * (NS_PER_S / step_ns):
            return _scaled(values, step_ns), True
    match = _TIME_NAME.match(name.strip())
    return _scaled(values, _STEPS_NS[((match and match[2]) or "s").lower()]), False


def _scaled(values: NDArray[Any], step_ns: int) -> NDArray[np.int64]:
    if values.dtype.kind in "iu":
        return np.asarray(values, np.int64) * step_ns
    whole = np.floor(values)
    fraction = np.rint((values - whole) * step_ns)
    scaled: NDArray[np.int64] = whole.astype(np.int64) * step_ns + fraction.astype(np.int64)
    return scaled


def timeline_of(
    times: NDArray[np.int64], *, dates: bool, stated_hz: float | None = None
) -> Timeline | None:
    """Rate and start from the first rows; None where they tell no rate.

    A stated rate within 1 % of the measured one is the exact one and wins; else the times do.
    """
    steps = np.diff(times)
    forward = steps[steps > 0]
    start_ns = int(times[0]) if dates and len(times) else None
    if not len(forward):
        return (
            Timeline(stated_hz, start_ns, round(0.5 * NS_PER_S / stated_hz)) if stated_hz else None
        )
    if (steps == 0).any():  # coarse clock: the slope from its first tick to its last, gaps left out
        resolution = float(np.median(forward))
        ticks = np.flatnonzero(steps > 0)
        steps = steps[ticks[0] + 1 : ticks[-1] + 1] if len(ticks) > 1 else steps
        regular = steps[np.abs(steps) <= 2 * resolution]
        rate = _settled(NS_PER_S / float(regular.mean()), stated_hz)
        return Timeline(rate, start_ns, round(1.5 * resolution))
    period = float(np.median(forward))
    regular = forward[np.abs(forward - period) < 0.5 * period]
    rate = _settled(NS_PER_S / float(regular.mean()), stated_hz)
    return Timeline(rate, start_ns, round(0.5 * NS_PER_S / rate))


def _settled(rate: float, stated_hz: float | None) -> float:
    if stated_hz is not None and abs(rate / stated_hz - 1.0) < 0.01:
        return stated_hz
    if rate >= 1.0:
        return float(round(rate)) if abs(rate / round(rate) - 1.0) < _SNAP else rate
    period = 1.0 / rate
    return 1.0 / round(period) if abs(period / round(period) - 1.0) < _SNAP else rate


def cut_at_jumps(
    blocks: Iterable[tuple[NDArray[np.int64], NDArray[Any]]], timeline: Timeline
) -> Iterator[Block]:
    """((N,) times, (N, C) values) as blocks with a `Jump` wherever time does not go on."""
    period_ns = NS_PER_S / timeline.rate_hz
    before: int | None = None
    for times, values in blocks:
        if not len(times):
            continue
        first = times[0] if before is None else before + round(period_ns)
        steps = np.diff(times, prepend=first - round(period_ns))
        cuts = np.flatnonzero(np.abs(steps - period_ns) > timeline.tolerance_ns + 1)
        begin = 0
        for cut in cuts.tolist():
            if cut > begin:
                yield values[begin:cut]
            ahead_ns = round(float(steps[cut]) - period_ns)
            yield Jump(
                int(times[cut]) if timeline.start_ns is not None else None, ahead_ns=ahead_ns
            )
            begin = cut
        yield values[begin:]
        before = int(times[-1])
