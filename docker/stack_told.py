"""A running stack in, what its owner should know out: addresses, logins, next commands."""
# ruff: noqa: INP001  (part of a script)

import contextlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from stack_compose import Place, environment
from stack_services import ECHOWATCH, Service

EXAMPLES: Final = {
    "operator": ("echowatch alarms list kafka", "echowatch lag"),
    "ingest": ("echowatch replay RECORDINGS --to kafka",),
    "admin": ("echowatch topics check", "echowatch influx status"),
}
ROLES: Final = {"operator": "operator", "ingest": "replay", "admin": "bootstrap"}


def told(place: Place, grafana: str, workers: Sequence[Service], took_s: float) -> str:
    """Where everything is, who may log in, and what to do next."""
    secrets = _short(place.secrets)
    ports = place.ports
    rows = [
        ("boards", f"{grafana}/d/echowatch-fleet", f"admin, {secrets}/grafana_admin_password"),
        ("pictures", f"http://localhost:{ports['serve']}", "open on this machine only"),
        ("Kafka", f"127.0.0.1:{ports['kafka']}, SASL_SSL", f"{secrets}/kafka_<who>_password"),
        ("InfluxDB", f"https://127.0.0.1:{ports['influxdb']}", f"{secrets}/influx_reader_token"),
    ]
    rows += [(w.name, f"http://127.0.0.1:{w.port}/metrics", "no secret") for w in workers]
    data, logs = _short(place.data), _short(place.data / "log")
    lines = [f"\nechowatch is up ({took_s:.0f} s). Ctrl-C ends it; its data stay in {data}.\n"]
    lines += [f"  {what:<9} {where:<42} {login}" for what, where, login in rows]
    lines += ["\nIn another terminal:\n"]
    for who, commands in EXAMPLES.items():
        file = _short(_logins(who, place))
        lines += [f"  ( . {file}; {command} )" for command in commands]
    lines += [f"\nCertificates are signed by {secrets}/ca.pem; logs are in {logs}."]
    return "\n".join(lines)


def _logins(who: str, place: Place) -> Path:
    """A file for a shell that makes its commands those of a principal; it holds no secret."""
    file = place.data / f"{who}.env"
    variables = environment(ROLES[who], place)
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    lines += [f"PATH={shlex.quote(str(ECHOWATCH.parent))}:$PATH\n"]
    file.write_text("".join(lines), encoding="utf-8")
    return file


def _short(path: Path) -> str:
    """A path as a person in this folder would type it."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)
