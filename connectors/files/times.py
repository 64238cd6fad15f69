"""Text, file names and numbers in, nanoseconds since the Unix epoch out.

A time without a zone is taken as UTC: recordings seldom say, and guessing the reader's zone would
make the same file give other times on another machine.
"""

import re
from datetime import UTC, datetime, timedelta

from pipeline.messages import NS_PER_S

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DEFAULT_START_NS = 946_684_800 * NS_PER_S  # 2000-01-01T00:00:00Z, visibly no real date
# Epoch numbers outside 2000-2100 are serial numbers, not times.
_PLAUSIBLE_S = range(946_684_800, 4_102_444_800)

_ISO_LIKE = re.compile(
    r"(?<!\d)((?:19|20)\d\d)([-_.]?)(\d\d)\2(\d\d)[T_ .-]?"
    r"(\d\d)([-:_.h]?)(\d\d)[-:_.m]?(\d\d)(?:[.,](\d{1,9}))?s?(Z|[+-]\d\d:?\d\d)?(?!\d)"
)
_EPOCH_LIKE = re.compile(r"(?<!\d)(\d{10}|\d{13}|\d{16}|\d{19})(?!\d)")
_DIRECTIVES = {"%Y": r"\d{4}", "%j": r"\d{3}", "%f": r"\d{1,6}", "%b": r"[A-Za-z]{3}"}


def to_ns(moment: datetime, extra_ns: int = 0) -> int:
    """A datetime (naive = UTC) as exact nanoseconds."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - EPOCH) // timedelta(microseconds=1) * 1000 + extra_ns


def format_time(ns: int) -> str:
    """Nanoseconds as ISO-8601 text with microseconds, UTC.

    >>> format_time(946684800000001000)
    '2000-01-01T00:00:00.000001'
    """
    return (EPOCH + timedelta(microseconds=ns // 1000)).isoformat(timespec="microseconds")[:26]


def parse_time(text: str | int) -> int:
    """ISO-8601 text or nanoseconds as nanoseconds; digits past the microsecond are kept.

    Raises:
        ValueError: neither.

    >>> parse_time("2000-01-01T00:00:00.000000001")
    946684800000000001
    """
    if isinstance(text, int):
        return text
    if re.fullmatch(r"\d{18,19}", text):
        return int(text)
    fraction = re.search(r"[.,](\d{7,9})", text)
    extra_ns = int(fraction[1][6:].ljust(3, "0")) if fraction else 0
    try:
        return to_ns(datetime.fromisoformat(text.strip()), extra_ns)
    except ValueError:
        raise ValueError(
            f"time must be ISO-8601 (2024-05-01T12:00:00Z) or nanoseconds, got {text!r}"
        ) from None


def epoch_ns(number: str) -> int | None:
    """An epoch in s, ms, us or ns, told apart by its digits; None where no plausible date."""
    step = {10: NS_PER_S, 13: 1_000_000, 16: 1000, 19: 1}.get(len(number))
    if step is None:
        return None
    ns = int(number) * step
    return ns if ns // NS_PER_S in _PLAUSIBLE_S else None


def time_in_name(name: str, pattern: str | None = None) -> tuple[int, str] | None:
    """Time in a file name and the name without it, or None.

    Known without a pattern: `2003.10.22.12.06.24`, `2024-05-01T12-00-00`, `20240501_120000.5`,
    and epochs in s, ms, us, ns.

    >>> time_in_name("pump1_20000101_000001")
    (946684801000000000, 'pump1')
    """
    if pattern is not None:
        found = re.search(_regex(pattern), name)
        if found is None:
            return None
        return to_ns(datetime.strptime(found[0], pattern)), _without(name, found)  # noqa: DTZ007  (naive means UTC here)
    for match in _ISO_LIKE.finditer(name):
        ns = _iso_ns(match)
        if ns is not None:
            return ns, _without(name, match)
    for match in _EPOCH_LIKE.finditer(name):
        ns = epoch_ns(match[1])
        if ns is not None:
            return ns, _without(name, match)
    return None


def _iso_ns(match: re.Match[str]) -> int | None:
    year, _, month, day, hour, _, minute, second, fraction, zone = match.groups()
    text = f"{year}-{month}-{day}T{hour}:{minute}:{second}{zone or ''}"
    try:
        return to_ns(datetime.fromisoformat(text), int((fraction or "0").ljust(9, "0")))
    except ValueError:
        return None


def _without(name: str, match: re.Match[str]) -> str:
    left, right = name[: match.start()].rstrip("_-. "), name[match.end() :].lstrip("_-. ")
    return f"{left}_{right}" if left and right else left + right


def _regex(pattern: str) -> str:
    parts = re.split(r"(%[A-Za-z%])", pattern)
    return "".join(
        _DIRECTIVES.get(part, r"\d{1,2}") if part.startswith("%") else re.escape(part)
        for part in parts
    )
