"""Settings of the services around the core: Kafka, InfluxDB and the worker.

Secrets are given as a variable or, better, as a file that holds nothing else; they are never shown.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

Security = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"]
Role = Literal["signals", "cases", "all"]
MIB = 1 << 20


def _names(value: object) -> object:
    """A list of names may come as one comma separated string."""
    if not isinstance(value, str):
        return value
    return tuple(part for part in (name.strip() for name in value.split(",")) if part)


def _given(value: object) -> object:
    """An empty variable, as compose passes on what is not set, names no file."""
    return None if value == "" else value


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
File = Annotated[Path | None, BeforeValidator(_given)]


class Group(BaseModel):
    """Settings that belong together."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SecretError(ValueError):
    """A secret that cannot be had, in words."""


def secret(given: SecretStr | None, file: Path | None, name: str) -> str | None:
    """A secret from its variable or its file.

    Raises:
        SecretError: for a file that cannot be read or is empty.
    """
    if file is None:
        return None if given is None else given.get_secret_value()
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SecretError(f"{name}_file {file} cannot be read: {error}") from error
    if not text:
        raise SecretError(f"{name}_file {file} is empty")
    return text


class Kafka(Group):
    """Where the messages are."""

    bootstrap: Names = Field(("127.0.0.1:9092",), description="brokers, comma separated")
    security: Security = Field(
        "PLAINTEXT", description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"
    )
    allow_plaintext: bool = Field(
        default=False, description="allow unencrypted connections beyond this machine"
    )
    mechanism: Mechanism = Field(
        "SCRAM-SHA-512", description="SCRAM-SHA-256, SCRAM-SHA-512, or PLAIN over TLS"
    )
    username: str | None = Field(None, description="SASL user")
    password: SecretStr | None = Field(None, description="SASL password")
    password_file: File = Field(None, description="file with the SASL password")
    ca_file: File = Field(None, description="certificates (PEM) that brokers must chain to")
    cert_file: File = Field(None, description="client certificate (PEM)")
    key_file: File = Field(None, description="key of the client certificate (PEM)")
    group: str = Field("echowatch", description="prefix of consumer groups and changelog topics")
    signals: Names = Field(("sensors.signals",), description="topics of signals, comma separated")
    signals_pattern: str | None = Field(
        None, description="regular expression; topics that match are read as well"
    )
    transitions: str = Field("sensor.transitions", description="topic of alarm state changes")
    alarms: str = Field("machine.alarms", description="topic of cases, compacted")
    commands: str = Field("machine.commands", description="topic of what people say, compacted")
    snapshots: str = Field("sensor.snapshots", description="topic of waveforms, compacted")
    dead_letters: str = Field("sensors.dead-letters", description="topic of refused messages")
    partitions: int = Field(12, ge=1, description="partitions of every topic; most workers useful")
    replication: int = Field(1, ge=1, description="copies of every topic; 3 in a plant")
    retention_h: float = Field(168.0, gt=0, description="hours that signals are kept")
    retention_gb: float | None = Field(
        None, gt=0, description="GB that a partition of signals may take"
    )

    @model_validator(mode="after")
    def _complete(self) -> "Kafka":
        if self.security.startswith("SASL") and not (self.username and self.password_given):
            raise ValueError(f"{self.security} needs username and password (or password_file)")
        if self.security == "SASL_PLAINTEXT" and self.mechanism == "PLAIN":
            raise ValueError("PLAIN sends the password itself: use it with SASL_SSL only")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together")
        try:
            re.compile(self.signals_pattern or "")
        except re.error as error:
            raise ValueError(f"signals_pattern is no regular expression: {error}") from error
        if not self.bootstrap:
            raise ValueError("bootstrap needs at least one host:port")
        return self

    @property
    def password_given(self) -> bool:
        """Whether a password was given in either way."""
        return self.password is not None or self.password_file is not None

    def password_text(self) -> str | None:
        """The password.

        Raises:
            SecretError: for a file that cannot be read or is empty.
        """
        return secret(self.password, self.password_file, "kafka.password")


class Influx(Group):
    """Where the results go."""

    url: str = Field("http://127.0.0.1:8086", description="address of InfluxDB 2")
    org: str = Field("echowatch", description="organisation")
    bucket: str = Field("echowatch", description="bucket of results")
    token: SecretStr | None = Field(None, description="token that may write the bucket")
    token_file: File = Field(None, description="file with the token")
    batch_lines: int = Field(5000, ge=1, le=50_000, description="most points of one request")
    timeout_s: float = Field(10.0, gt=0, description="patience with one request, s")
    ca_file: File = Field(None, description="certificates (PEM) the server must chain to")
    allow_plaintext: bool = Field(
        default=False, description="allow http to other machines: the token is readable then"
    )
    admin_token: SecretStr | None = Field(
        None, description="operator's token, of `echowatch influx` only; no worker needs it"
    )
    admin_token_file: File = Field(None, description="file with the operator's token")
    admin_password: SecretStr | None = Field(
        None, description="password of the user `admin` of a server that was never set up"
    )
    admin_password_file: File = Field(None, description="file with that password")
    keep_raw_d: int = Field(
        30, ge=1, description="days that single windows are kept, and up to a week more"
    )
    keep_1m_d: int = Field(365, ge=0, description="days that minutes are kept; 0 = for ever")
    keep_1h_d: int = Field(3650, ge=0, description="days that hours are kept; 0 = for ever")
    keep_alarms_d: int = Field(
        0, ge=0, description="days that alarms, cases and events are kept; 0 = for ever"
    )
    late_h: int = Field(
        192, ge=6, description="hours for which windows may be late and still reach the roll-ups"
    )
    own_url: str | None = Field(
        None, description="address at which InfluxDB reaches itself, if not influx.url"
    )

    @model_validator(mode="after")
    def _rolled_up_before_removed(self) -> "Influx":
        if self.late_h > 24 * self.keep_raw_d:
            raise ValueError("late_h must end before keep_raw_d: what is removed cannot be late")
        if 0 < self.keep_alarms_d < self.keep_raw_d + 7:
            raise ValueError("keep_alarms_d must be at least keep_raw_d + 7: they share a bucket")
        return self

    def token_text(self) -> str | None:
        """The token.

        Raises:
            SecretError: for a file that cannot be read or is empty.
        """
        return secret(self.token, self.token_file, "influx.token")

    def admin_token_text(self) -> str | None:
        """The operator's token.

        Raises:
            SecretError: for a file that cannot be read or is empty.
        """
        return secret(self.admin_token, self.admin_token_file, "influx.admin_token")

    def admin_password_text(self) -> str | None:
        """Password for the first set-up.

        Raises:
            SecretError: for a file that cannot be read or is empty.
        """
        return secret(self.admin_password, self.admin_password_file, "influx.admin_password")


class Serve(Group):
    """How pictures of cases are shown."""

    host: str = Field(
        "127.0.0.1", description="address of the pages; beyond this machine it needs a token"
    )
    port: int = Field(8630, ge=0, le=65_535, description="port of the pages; 0 = any free one")
    token: SecretStr | None = Field(None, description="what a visitor must know")
    token_file: File = Field(None, description="file with the token")
    cert_file: File = Field(None, description="certificate and chain (PEM): serve by https")
    key_file: File = Field(None, description="key of the certificate (PEM)")
    store_mb: float = Field(256.0, ge=1, description="pictures and cases held in memory, MB")

    @model_validator(mode="after")
    def _complete(self) -> "Serve":
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together")
        return self

    def token_text(self) -> str | None:
        """The token.

        Raises:
            SecretError: for a file that cannot be read or is empty.
        """
        return secret(self.token, self.token_file, "serve.token")


class WorkerSettings(Group):
    """How a worker works."""

    role: Role = Field("all", description="signals, cases or all")
    fleet: File = Field(None, description="fleet file (YAML)")
    checkpoint_s: float = Field(5.0, gt=0, description="seconds between checkpoints")
    session_timeout_s: float = Field(
        10.0, ge=2, description="silence after which Kafka gives a worker's partitions away, s"
    )
    instance_id: str | None = Field(
        None,
        description="fixed name in the group, one per worker: restarting under it disturbs nobody, "
        "but at its end its share waits for session_timeout_s",
    )
    drain_s: float = Field(6.0, gt=0, le=60, description="longest wait for results at the end, s")
    pending_mb: float = Field(256.0, ge=1, description="signals read but not yet checkpointed, MB")
    pending_messages: int = Field(
        50_000, ge=64, description="messages read but not yet checkpointed"
    )
    batch_samples: int = Field(MIB, ge=1024, description="samples of one micro-batch")
    unknown_sensors: Literal["accept", "refuse", "quarantine"] = Field(
        "refuse",
        description="sensors that a given fleet file does not name: accept, refuse (dead letter) "
        "or quarantine (watched, but written to the measurements of quarantine only)",
    )
    max_sensors: int = Field(20_000, ge=1, description="more sensors than these are refused")
    future_s: float = Field(
        3600.0, ge=0, description="stamps further ahead of this machine's clock are refused, s"
    )
    live_s: float = Field(
        60.0,
        ge=0,
        description="signals that arrive within this time are live: silence is then "
        "noticed by the clock, too; 0 = never",
    )
    watchdog_s: float = Field(
        120.0, gt=0, description="a worker that stands this long beside waiting messages exits, s"
    )
    host: str = Field("127.0.0.1", description="address of /live, /ready and /metrics")
    port: int = Field(8620, ge=0, le=65_535, description="port of these; 0 = none")
