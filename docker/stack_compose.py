"""compose.yaml in, the environment that each of its services has on this machine out.

Folders of containers become folders here, names of containers become 127.0.0.1 with ports of this
machine; every other variable is compose's own. Not the whole of compose: what our file uses.
"""
# ruff: noqa: INP001  (part of a script)

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

HERE: Final = Path(__file__).resolve().parent
COMPOSE: Final = HERE / "compose.yaml"
VARIABLE: Final = re.compile(r"\$(?:(\$)|\{(\w+)(?:(:?[-?])([^}]*))?\})")
# What the entry script of Grafana's image does: a variable from a file.
FILE: Final = "__FILE"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the things of the containers are on this machine.

    Attributes:
        data: Folder whose folders are the volumes.
        secrets: Folder of the secrets.
        ports: Name of a service -> its port on 127.0.0.1.
        given: Variables that compose.yaml asks for (STACK_...).
    """

    data: Path
    secrets: Path
    ports: Mapping[str, int]
    given: Mapping[str, str]

    def variables(self) -> dict[str, str]:
        """All that compose.yaml may ask for."""
        own = {"STACK_SECRETS": str(self.secrets), "STACK_DATA": str(self.data)}
        return {"STACK_UID": "none", "STACK_GID": "none", **self.given, **own}


def environment(service: str, place: Place, compose: Path = COMPOSE) -> dict[str, str]:
    """Variables of a service, as if it ran in its container.

    Raises:
        ValueError: for a service that compose.yaml does not have, or a variable that it demands.
    """
    services: dict[str, Any] = yaml.safe_load(compose.read_text(encoding="utf-8"))["services"]
    if service not in services:
        raise ValueError(f"{compose.name} has no service {service}; it has {', '.join(services)}")
    folders = _folders(services[service], service, place)
    found: dict[str, str] = {}
    for name, value in services[service].get("environment", {}).items():
        here = _here(interpolated(str(value), place.variables()), folders, service, place)
        if name.endswith(FILE):
            found[name.removesuffix(FILE)] = f"$__file{{{here}}}"
        else:
            found[name] = here
    return found


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """A text of compose.yaml with its variables replaced.

    Raises:
        ValueError: for one that it demands and that is not there.

    >>> interpolated("${A}:${B:-2}:$${C}", {"A": "1"})
    '1:2:${C}'
    """

    def value(found: re.Match[str]) -> str:
        dollar, name, how, rest = found.groups()
        if dollar:
            return "$"
        given = variables.get(name, "")
        if given or not (how or "").endswith(("-", "?")):
            return given
        if how.endswith("?"):
            raise ValueError(f"compose.yaml needs {name}: {rest}")
        return str(rest)

    return VARIABLE.sub(value, text)


def _folders(service: Mapping[str, Any], name: str, place: Place) -> list[tuple[str, str]]:
    """(path in the container, path here), the longest first."""
    folders = {"/run/secrets": str(place.secrets), "/tmp": str(place.data / "tmp" / name)}  # noqa: S108
    for volume in service.get("volumes", ()):
        source = interpolated(volume["source"], place.variables())
        inside = volume["type"] == "volume"
        folders[volume["target"]] = str(
            place.data / source if inside else (HERE / source).resolve()
        )
    return sorted(folders.items(), key=lambda pair: -len(pair[0]))


def _here(value: str, folders: list[tuple[str, str]], service: str, place: Place) -> str:
    """A value of a container's variable with folders and addresses of this machine."""
    if value.startswith(":") and value[1:].isdigit():  # every address, one port
        return f"127.0.0.1:{place.ports[service]}"
    if value == "0.0.0.0":  # noqa: S104  (compose binds inside of its network)
        return "127.0.0.1"
    for inside, outside in folders:
        if re.search(rf"(?<![\w/.-]){re.escape(inside)}(?=$|[/}}])", value):
            return value.replace(inside, outside, 1)
    for name in ("kafka", "influxdb"):
        value = re.sub(rf"\b{name}:\d+", f"127.0.0.1:{place.ports[name]}", value)
    for name, port in (("grafana", 3000), ("serve", 8630)):
        value = re.sub(rf"\blocalhost:{port}\b", f"localhost:{place.ports[name]}", value)
    return value
