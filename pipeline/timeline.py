"""Device timestamps in, sample indices on one fixed grid out.

Index i of a rate is the time i / rate since the Unix epoch, so that an index means the same to
whoever joins the stream, and whenever. Rates are taken as the exact fractions that doubles are
(97656.25 Hz is 390625 / 4), indices are integers: nothing is rounded twice and nothing adds up.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from pipeline.messages import NS_PER_S, State


@dataclass(frozen=True)
class Timebase:
    """Conversion between nanoseconds and sample indices at one rate.

    Attributes:
        sample_rate_hz: > 0, taken exactly.

    >>> Timebase(97656.25).index_at(1_000_000_000_000)
    97656250
    """

    sample_rate_hz: float

    @cached_property
    def _ratio(self) -> tuple[int, int]:
        """Samples per nanosecond as (numerator, denominator)."""
        ratio = Fraction(self.sample_rate_hz) / NS_PER_S
        return ratio.numerator, ratio.denominator

    def index_at(self, ns: int) -> int:
        """Index nearest to a time, halves up."""
        num, den = self._ratio
        return (2 * ns * num + den) // (2 * den)

    def ns_at(self, index: int) -> int:
        """Time of an index, nearest nanosecond, halves up."""
        num, den = self._ratio
        return (2 * index * den + num) // (2 * num)

    def samples_between(self, index: int, ns: int) -> float:
        """Samples from an index to a time, negative where the time is earlier."""
        num, den = self._ratio
        return (ns * num - index * den) / den


class Grid:
    """Where windows may start: multiples of the stride, counted from the Unix epoch.

    Args:
        sample_rate_hz: Rate of the signal.
        stride: Distance of starts in samples, >= 1.
        duty_cycle_s: Keep only the first start at or after each multiple of this time.

    >>> Grid(1000.0, 300).next_start(301)
    600
    >>> Grid(1000.0, 300, duty_cycle_s=1.0).next_start(301)
    1200
    """

    def __init__(
        self, sample_rate_hz: float, stride: int, *, duty_cycle_s: float | None = None
    ) -> None:
        self.stride = stride
        self._cycle = (
            None if duty_cycle_s is None else Fraction(duty_cycle_s) * Fraction(sample_rate_hz)
        )

    def next_start(self, index: int) -> int:
        """First start at or after an index."""
        start = -(-index // self.stride) * self.stride
        if self._cycle is None:
            return start
        turn = start // self._cycle
        if turn != (start - self.stride) // self._cycle:
            return start
        return math.ceil((turn + 1) * self._cycle / self.stride) * self.stride


class Clock:
    """Follows a device's timestamps along its own sample count.

    Contiguous samples get consecutive indices, however the stamps wander. A tracked offset holds
    how far the stamps have left the count; it moves only by what leaves half the tolerance, and
    never faster than the allowed drift, so that jitter does not shift it and a step shows.

    Args:
        sample_rate_hz: Rate of the signal.
        start_ns: Stamp of the first sample, which sets the first index.
        tolerance: Deviation of a stamp that is still jitter, in samples.
        drift_ppm: Deviation of the device's clock that is still no gap.

    Attributes:
        next_index: Index of the sample that is expected next.
        offset: Stamps minus count, in samples.
        last_n: Samples since the last stamp.
    """

    def __init__(
        self, sample_rate_hz: float, start_ns: int, *, tolerance: float, drift_ppm: float
    ) -> None:
        self.timebase = Timebase(sample_rate_hz)
        self.next_index = self.timebase.index_at(start_ns)
        self.offset = self.timebase.samples_between(self.next_index, start_ns)
        self.last_n = 0
        self._jitter = tolerance
        self._drift = drift_ppm * 1e-6

    @property
    def tolerance(self) -> float:
        """Deviation of the next stamp that is neither gap nor overlap, in samples."""
        return self._jitter + self._drift * self.last_n

    @property
    def expected_ns(self) -> int:
        """Stamp that the next chunk should carry."""
        period_ns = NS_PER_S / self.timebase.sample_rate_hz
        return self.timebase.ns_at(self.next_index) + round(self.offset * period_ns)

    @property
    def margin(self) -> int:
        """Samples that `slip` may have to reach back."""
        return math.ceil(max(1.0, self._jitter) + self._drift * self.last_n) + 1

    def lead(self, start_ns: int) -> float:
        """How much later than expected a stamp is, in samples; negative means earlier."""
        return self.timebase.samples_between(self.next_index, start_ns) - self.offset

    def advance(self, n: int, lead: float = 0.0) -> None:
        """Count n samples whose stamp led by `lead` samples."""
        beyond = math.copysign(max(0.0, abs(lead) - self._jitter / 2), lead)
        bound = self._drift * self.last_n
        self.offset += min(max(beyond, -bound), bound)
        self.next_index += n
        self.last_n = n

    def slip(self, most: int) -> int:
        """Re-pin the count to the stamps by whole samples, once they differ by one or more.

        Args:
            most: Largest forward slip that the caller can follow now.

        Returns:
            Samples by which all indices that are not yet cut into a window move.
        """
        if abs(self.offset) < max(1.0, self._jitter):
            return 0
        step = min(math.trunc(self.offset), most)
        self.next_index += step
        self.offset -= step
        return step

    def export_state(self) -> State:
        """Where the count and the stamps are."""
        return {"next_index": self.next_index, "offset": self.offset, "last_n": self.last_n}

    def import_state(self, state: State) -> None:
        """Go on from an exported state."""
        self.next_index = state["next_index"]
        self.offset = state["offset"]
        self.last_n = state["last_n"]
