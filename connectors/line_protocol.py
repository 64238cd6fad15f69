"""One point in, its line of InfluxDB's line protocol out, times in ns.

Deviations from the point: a tag without text and a number that is not finite have no place in the
protocol and are left out; a tab or line break in a name or tag becomes backslash-t, -n or -r; a
backslash at the end of a name or tag, which the protocol cannot say, becomes a space (as in
influxdb-client).
"""

from functools import lru_cache
from math import isfinite
from numbers import Integral, Real

from pipeline.messages import Point

# Series (tag sets) whose text is kept: about 0.5 kB each.
SERIES_KEPT = 65_536

_KEY = str.maketrans(
    {",": r"\,", "=": r"\=", " ": r"\ ", "\n": r"\n", "\t": r"\t", "\r": r"\r"},
)
_MEASUREMENT = {code: text for code, text in _KEY.items() if code != ord("=")}
_TEXT = str.maketrans({'"': r"\"", "\\": r"\\"})


def line(point: Point) -> str | None:
    r"""Line of a point, or None where no field is left.

    Raises:
        TypeError: for a field that is neither number, text nor bool.
        ValueError: for a measurement that is empty or begins with `#` (a comment to the server).

    >>> line(Point("drift", (("sensor", "P 1"),), {"score": 1.5, "n": 3, "ok": True}, 7))
    'drift,sensor=P\\ 1 score=1.5,n=3i,ok=true 7'
    """
    values = point.fields
    fields = []
    for key, value in zip(_keys(tuple(values)), values.values(), strict=True):
        if type(value) is float:
            if isfinite(value):
                fields.append(f"{key}={value!r}")
        elif (text := _value(key, value)) is not None:
            fields.append(f"{key}={text}")
    if not fields:
        return None
    return f"{_series(point.measurement, point.tags)} {','.join(fields)} {point.at_ns}"


def _value(key: str, value: object) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value.translate(_TEXT)}"'
    if isinstance(value, Integral):
        return f"{int(value)}i"
    if isinstance(value, Real):
        number = float(value)
        return repr(number) if isfinite(number) else None
    raise TypeError(f"field {key} must be a number, text or bool, got {type(value).__name__}")


@lru_cache(maxsize=1024)
def _keys(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_closed(name.translate(_KEY)) for name in names)


@lru_cache(maxsize=SERIES_KEPT)
def _series(measurement: str, tags: tuple[tuple[str, str], ...]) -> str:
    if not measurement or measurement.startswith("#"):
        raise ValueError(f"a measurement must begin with a letter, got {measurement!r}")
    texts = [
        f",{key}={_closed(text.translate(_KEY))}"
        for key, (_, text) in zip(_keys(tuple(name for name, _ in tags)), tags, strict=True)
        if text
    ]
    return _closed(measurement.translate(_MEASUREMENT)) + "".join(texts)


def _closed(text: str) -> str:
    return f"{text} " if text.endswith("\\") else text
