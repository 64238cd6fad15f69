"""Who we are to Kafka and how the wire is secured in; client options and a TLS context out."""

import ssl
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

MAX_PORT = 65_535


class AccessError(ValueError):
    """Kafka cannot be reached as configured, in words."""


class KafkaTrouble(RuntimeError):  # noqa: N818  (what a person is told, not how it came about)
    """Kafka is away, refuses, or does not answer in time, in words."""


@dataclass(frozen=True)
class Access:
    """Address and identity; plain values, so that every tool is secured alike.

    Attributes:
        bootstrap: `host:port` of some brokers.
        security: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.
        mechanism: SCRAM-SHA-256, SCRAM-SHA-512 or PLAIN, where `security` begins with SASL.
        ca_file, cert_file, key_file: PEM files; the system's certificates where `ca_file` is None.
        allow_plaintext: Permit unencrypted connections to other machines.

    Raises:
        AccessError: for what is no address, an unencrypted connection beyond this machine, or a
            file that cannot be used.
    """

    bootstrap: tuple[str, ...]
    security: str = "PLAINTEXT"
    mechanism: str = "SCRAM-SHA-512"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    allow_plaintext: bool = False

    def __post_init__(self) -> None:
        for address in self.bootstrap:
            _check(address)
        self.tls()  # a file that cannot be used is told before anything connects
        if self.encrypted or self.allow_plaintext:
            return
        outside = [address for address in self.bootstrap if not _on_this_machine(address)]
        if outside:
            raise AccessError(
                f"{self.security} to {', '.join(outside)} would be readable on the network: use "
                "SSL or SASL_SSL, or allow it with ECHOWATCH_KAFKA__ALLOW_PLAINTEXT=true"
            )

    @property
    def encrypted(self) -> bool:
        """Whether the wire is TLS."""
        return self.security in ("SSL", "SASL_SSL")

    @property
    def authenticated(self) -> bool:
        """Whether a user logs in."""
        return self.security.startswith("SASL")

    def tls(self) -> ssl.SSLContext | None:
        """TLS context that checks the broker and shows our certificate where there is one.

        Raises:
            AccessError: for a file that cannot be used.
        """
        if not self.encrypted:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file)
        except (OSError, ssl.SSLError) as error:
            files = [str(f) for f in (self.ca_file, self.cert_file, self.key_file) if f]
            raise AccessError(
                f"TLS files {', '.join(files)} cannot be used: {error}: PEM is expected"
            ) from error
        return context

    def options(self) -> dict[str, Any]:
        """Keyword arguments for every client of kafka-python."""
        found: dict[str, Any] = {
            "bootstrap_servers": list(self.bootstrap),
            "security_protocol": self.security,
            # The default back-off costs 20 s after an outage.
            "reconnect_backoff_max_ms": 1000,
        }
        if self.encrypted:
            found["ssl_context"] = self.tls()
        if self.authenticated:
            found |= {
                "sasl_mechanism": self.mechanism,
                "sasl_plain_username": self.username,
                "sasl_plain_password": self.password,
            }
        return found


def _check(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) <= MAX_PORT:
        raise AccessError(f"address of a broker must be host:port, got {address!r}")


def _on_this_machine(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
