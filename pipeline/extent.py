"""Descriptions of recordings in; what they span and the profile that suits them out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from connectors.files import ChannelInfo, Description
from connectors.files.times import DEFAULT_START_NS
from pipeline.messages import NS_PER_S

# Logs up to these lengths get the time constants of short recordings or of accelerated tests.
SHORT_S = 600.0
ACCELERATED_S = 4 * 86_400.0


@dataclass(frozen=True, slots=True)
class Extent:
    """What recordings span.

    Attributes:
        first_ns: Time of the first sample; where files hold no time, what reading will assume.
        length_s: First sample to last, pauses included; None where only reading tells.
        timed: Whether the times mean something.
        channels, captures: As described; a recording that is exchanged changes one of them.
    """

    first_ns: int
    length_s: float | None
    timed: bool
    channels: int
    captures: int

    @property
    def facts(self) -> Mapping[str, object]:
        """JSON-able, to tell whether recordings are the same as before."""
        return asdict(self)

    def profile(self) -> tuple[str, str]:
        """Name of the profile that suits this length, and why, in words."""
        if self.length_s is None:
            return "accelerated", "the length of the recordings is not known before reading"
        said = f"the recordings span {duration(self.length_s)}"
        if self.length_s <= SHORT_S:
            return "short", f"{said}, at most {duration(SHORT_S)}"
        if self.length_s <= ACCELERATED_S:
            return "accelerated", f"{said}, at most {duration(ACCELERATED_S)}"
        return "plant", f"{said}, more than {duration(ACCELERATED_S)}"


def extent_of(
    found: Sequence[Description], *, start_ns: int | None = None, period_s: float | None = None
) -> Extent:
    """What all of them together span.

    Args:
        found: One per path that was given.
        start_ns: Of the first file without a time, None = the readers' default.
        period_s: Between files without a time, None = one follows the other.
    """
    channels = [channel for description in found for channel in description.channels]
    captures = sum(description.n_captures for description in found)
    timed = [c for c in channels if c.start_ns is not None]
    synthetic = all("synthetic" in c.time_source for c in timed)
    if timed:
        first_ns = min(c.start_ns or 0 for c in timed)
        ends = list(_ends_ns(found))
        length_s = None if None in ends else (max(e or 0 for e in ends) - first_ns) / NS_PER_S
        return Extent(first_ns, length_s, not synthetic, len(channels), captures)
    lengths = [d.duration_s for d in found]
    total = None if None in lengths else sum(length or 0.0 for length in lengths)
    if period_s is not None:
        total = captures * period_s
    first_ns = DEFAULT_START_NS if start_ns is None else start_ns
    return Extent(first_ns, total, start_ns is not None, len(channels), captures)


def _ends_ns(found: Sequence[Description]) -> Iterator[int | None]:
    """Ends of what has a start; None where only reading tells."""
    for description in found:
        timed = [c for c in description.channels if c.start_ns is not None]
        if description.kind == "folder":  # its duration is the sum over files
            yield from (_end_ns(channel) for channel in timed)
        elif timed:
            first_ns, length_s = min(c.start_ns or 0 for c in timed), description.duration_s
            yield None if length_s is None else first_ns + round(length_s * NS_PER_S)


def _end_ns(channel: ChannelInfo) -> int | None:
    if channel.start_ns is None or channel.n_samples is None or not channel.sample_rate_hz:
        return None
    return channel.start_ns + round(channel.n_samples * NS_PER_S / channel.sample_rate_hz)


def duration(seconds: float) -> str:
    """A length of time in the unit a person would use.

    >>> duration(42), duration(7200 * 3), duration(86400 * 30)
    ('42 s', '6 h', '30 days')
    """
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h" if seconds < 2 * 86_400 else f"{seconds / 86_400:.3g} days"
