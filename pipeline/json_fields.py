"""A JSON message in, its fields out, each of the type that was asked for; or the reason why not."""

import json
import math
from collections.abc import Callable, Collection
from typing import Any, Final

NO_DEFAULT: Final = object()
INT64: Final = range(-(2**63), 2**63)

Refuse = Callable[[str, str], Exception]
"""(reason, detail) -> the error to raise; reasons are `not_json`, `bad_version`, `bad_field`."""


class Record:
    """The fields of one JSON object. Fields that nobody asks for are ignored.

    Args:
        data: The message.
        version: Its field `version` must be this.
        max_bytes: A longer message is refused before it is parsed.
        refuse: Makes the error.
    """

    def __init__(self, data: bytes, *, version: int, max_bytes: int, refuse: Refuse) -> None:
        self._refuse = refuse
        if len(data) > max_bytes:
            raise refuse("not_json", f"at most {max_bytes} bytes, got {len(data)}")
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as error:  # bad UTF-8 is a ValueError too
            raise refuse("not_json", "the message is no JSON") from error
        if not isinstance(found, dict):
            raise refuse("not_json", f"a message is an object, got {type(found).__name__}")
        self._fields: dict[str, Any] = found
        got = found.get("version")
        if type(got) is not int or got != version:
            raise refuse("bad_version", f"version must be {version}, got {_shown(got)}")

    def text(self, name: str, default: object = NO_DEFAULT, *, empty: bool = True) -> str:
        """Text that has a place in UTF-8."""
        value = self._take(name, default)
        if not isinstance(value, str) or (not value and not empty):
            raise self._wrong(name, "text" if empty else "text that is not empty", value)
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise self._wrong(name, "text of whole characters", value) from error
        return value

    def choice(self, name: str, known: Collection[str]) -> str:
        """One of a few words."""
        value = self.text(name)
        if value not in known:
            raise self._wrong(name, f"one of {', '.join(known)}", value)
        return value

    def integer(self, name: str, default: object = NO_DEFAULT) -> int:
        """A 64 bit integer, not negative."""
        value = self._take(name, default)
        if type(value) is not int or value not in INT64 or value < 0:
            raise self._wrong(name, "an integer of 0 to 2^63 - 1", value)
        return value

    def number(
        self, name: str, default: object = NO_DEFAULT, *, missing: float | None = None
    ) -> float:
        """A finite number; null is read as `missing`, where that is given."""
        value = self._take(name, default)
        if value is None and missing is not None:
            return missing
        return self._finite(name, value)

    def flag(self, name: str, default: object = NO_DEFAULT) -> bool:
        """True or false."""
        value = self._take(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false", value)
        return value

    def pair(self, name: str, default: object = NO_DEFAULT) -> tuple[float, float]:
        """Two finite numbers."""
        value = self._take(name, default)
        if not isinstance(value, list) or len(value) != 2:
            raise self._wrong(name, "a list of two numbers", value)
        return self._finite(name, value[0]), self._finite(name, value[1])

    def _take(self, name: str, default: object) -> Any:
        value = self._fields.get(name, default)
        if value is NO_DEFAULT:
            raise self._refuse("bad_field", f"{name} is missing")
        return value

    def _finite(self, name: str, value: object) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:
                number = math.inf
            if math.isfinite(number):
                return number
        raise self._wrong(name, "a finite number", value)

    def _wrong(self, name: str, wanted: str, got: object) -> Exception:
        return self._refuse("bad_field", f"{name} must be {wanted}, got {_shown(got)}")


def _shown(value: object) -> str:
    """A value short enough for a log line and free of what a terminal would obey."""
    return ascii(value)[:80]
