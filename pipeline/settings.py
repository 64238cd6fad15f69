"""Environment, command line and defaults in; one frozen `Settings` out.

Numbers that belong together come as a named profile: thresholds are the same in all of them, only
time constants and window lengths differ. Every number can be overridden one by one:
`ECHOWATCH_PROFILE=accelerated ECHOWATCH_LEARNING__MIN_WINDOWS=300`.
"""

import difflib
import os
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from pipeline.drift import DETECTORS
from pipeline.service_settings import Group, Influx, Kafka, Serve, WorkerSettings

PREFIX = "ECHOWATCH_"
DAY_S = 86_400.0

ProfileName = Literal["plant", "accelerated", "short"]


class Windows(Group):
    """How a signal is cut."""

    patches: int = Field(6, ge=1, description="16-frame patches per window; 6 = 0.975 s")
    stride_s: float | None = Field(None, gt=0, description="distance of window starts, s")
    duty_cycle_s: float | None = Field(None, gt=0, description="one window every N seconds")
    jitter_s: float = Field(
        0.0, ge=0, description="timestamp jitter that is no gap, s; 0.001 for stamps in ms"
    )
    drift_ppm: float = Field(100.0, ge=0, description="clock drift that is no gap, ppm")
    reorder_chunks: int = Field(2, ge=0, description="chunks that may overtake each other")
    min_silence_s: float = Field(300.0, gt=0, description="shortest silence that is a fault")
    first_silence_s: float = Field(
        86_400.0,
        ge=0,
        description="silence that is a fault while the rhythm of a new sensor is not known",
    )


class Learning(Group):
    """When a baseline is known."""

    min_windows: int = Field(200, ge=16, description="windows a baseline needs")
    min_span_s: float = Field(DAY_S, ge=0, description="running time a baseline needs, s")
    patience: float = Field(2.0, ge=1, description="multiple of both after which it ends anyhow")
    bank_size: int = Field(256, ge=32, description="embeddings kept per sensor")
    budget_windows: float = Field(
        1e4, ge=10, description="one healthy window in this many may cross the drift limit"
    )


class Detection(Group):
    """What counts as evidence."""

    detectors: tuple[str, ...] = Field(
        ("adwin",), description=f"online detectors, of {', '.join(DETECTORS)}"
    )

    @field_validator("detectors")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in DETECTORS:
                raise ValueError(f"must be of {', '.join(DETECTORS)}")
        return names

    alert_factor: float = Field(1.5, ge=1, description="alert at this multiple of the drift limit")
    alarm_factor: float = Field(2.0, ge=1, description="alarm at this multiple of the drift limit")
    level_alarm: float = Field(2.0, gt=1, description="alarm at this multiple of the baseline RMS")


class Delays(Group):
    """How long evidence must last before people hear of it."""

    on_windows: int = Field(5, ge=1, description="this many windows over the limit ...")
    of_windows: int = Field(6, ge=1, description="... of the last so many")
    on_delay_s: float = Field(600.0, ge=0, description="and for this running time")
    off_windows: int = Field(12, ge=1, description="windows below before it returns")
    off_delay_s: float = Field(1200.0, ge=0, description="and for this running time")
    deadband: float = Field(0.10, ge=0, lt=1, description="share of the limit to fall below")
    latch: bool = Field(default=True, description="an alarm stays until it is acknowledged")
    reopen_s: float = Field(DAY_S, ge=0, description="a case reopens within this time")


PROFILES: dict[str, dict[str, dict[str, Any]]] = {
    "plant": {},
    "accelerated": {
        "windows": {"min_silence_s": 120.0, "first_silence_s": 1800.0},
        "learning": {"min_windows": 150, "min_span_s": 0.0},
        "delays": {"on_delay_s": 0.0, "off_delay_s": 60.0, "reopen_s": 3600.0},
    },
    "short": {
        "windows": {"patches": 2, "stride_s": 0.05, "min_silence_s": 5.0, "first_silence_s": 60.0},
        "learning": {"min_windows": 48, "min_span_s": 0.0},
        "delays": {"on_delay_s": 0.0, "off_delay_s": 1.0, "reopen_s": 60.0},
    },
}
"""`plant` for machines that live for years; `accelerated` for life tests and logs of hours, with a
capture every few seconds; `short` for recordings of seconds to minutes."""


class Settings(BaseSettings):
    """Everything that can be set, validated at the start."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    profile: ProfileName = Field("plant", description="named set of time constants")
    model: str = Field("nano", description="shipped name, published id or local checkpoint file")
    model_sha256: str | None = Field(None, description="refuse a checkpoint with another SHA-256")
    device: str = Field("cpu", description="cpu or cuda[:N]")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="number format of the encoder")
    threads: int = Field(1, ge=0, description="CPU threads of the encoder; 0 = all cores")
    windows: Windows = Windows()
    learning: Learning = Learning()
    detection: Detection = Detection()
    delays: Delays = Delays()
    kafka: Kafka = Kafka()
    influx: Influx = Influx()
    worker: WorkerSettings = WorkerSettings()
    serve: Serve = Serve()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  (pydantic's signature)
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """`load` reads the environment: pydantic would want lists of names as JSON there."""
        return (init_settings,)

    def of_results(self) -> dict[str, Any]:
        """All that results depend on, JSON-able: no service, no secret."""
        services = {"kafka", "influx", "worker", "serve", "threads"}
        return self.model_dump(mode="json", exclude=services)


class SettingsError(ValueError):
    """A setting that cannot be used, in words."""


def load(environment: Mapping[str, str] | None = None, **given: Any) -> Settings:
    """Settings from profile, environment and arguments, the later ones winning.

    Args:
        environment: To look for unknown names in; None means the process's own.
        given: Arguments by name, None = not given; groups as dicts.

    Raises:
        SettingsError: for an unknown `ECHOWATCH_` variable or a value outside its range.
    """
    environment = os.environ if environment is None else environment
    _refuse_unknown(environment)
    given = {name: value for name, value in given.items() if value is not None}
    profile = given.get("profile") or environment.get(f"{PREFIX}PROFILE") or "plant"
    if profile not in PROFILES:
        raise SettingsError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
    merged: dict[str, Any] = {name: dict(group) for name, group in PROFILES[profile].items()}
    try:
        _merge(merged, _from_environment(environment))
        _merge(merged, given)
        return Settings(**{**merged, "profile": profile})
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}"
            # A whole group may hold a secret.
            + ("" if isinstance(e["input"], Mapping) else f", got {e['input']!r}")
            for e in error.errors()
        ]
        raise SettingsError("settings: " + "; ".join(lines)) from error


def names() -> dict[str, tuple[str, Any, str]]:
    """Environment variable -> (type, default, description) of every setting."""
    found: dict[str, tuple[str, Any, str]] = {}
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, Group):
            for inner, inner_field in type(field.default).model_fields.items():
                found[f"{PREFIX}{name}__{inner}".upper()] = _row(inner_field)
        else:
            found[f"{PREFIX}{name}".upper()] = _row(field)
    return found


def _row(field: Any) -> tuple[str, Any, str]:
    kind = getattr(field.annotation, "__name__", str(field.annotation))
    return kind, field.default, field.description or ""


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in names():
        if name in environment:
            *groups, leaf = name.removeprefix(PREFIX).lower().split("__")
            target = found
            for group in groups:
                target = target.setdefault(group, {})
            value: Any = environment[name]
            target[leaf] = tuple(filter(None, value.split(","))) if leaf == "detectors" else value
    return found


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    for name, value in other.items():
        if isinstance(value, Mapping):
            _merge(into.setdefault(name, {}), value)
        else:
            into[name] = value


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    """Pydantic ignores a mistyped variable; a plant must not."""
    known = names()
    for name in environment:
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f": did you mean {near[0]}?" if near else ""
            raise SettingsError(f"unknown environment variable {name}{hint}")
