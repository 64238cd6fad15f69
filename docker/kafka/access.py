# ruff: noqa: INP001  (a script, no package)
"""Secrets and acls.yaml in; principals that can log in to Kafka and may do just that, out.

Run as `admin` by the bootstrap job, as often as one likes: passwords are set to what the files
hold now, rights that are missing are given, and those that a principal has beyond acls.yaml are
taken away.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from connectors.kafka_access import Access, AccessError, KafkaTrouble
from connectors.kafka_client import ask
from pipeline.service_settings import Kafka, SecretError, secret
from pipeline.services.kafka_settings import access_of
from pipeline.services.topics import specs
from pipeline.settings import SettingsError, load

HERE: Final = Path(__file__).parent
ADMIN: Final = "admin"
# Passwords are 256 random bits: more rounds would only slow logging in (RFC 7677 asks for 4096).
ROUNDS: Final = 4096
AGAIN_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Right:
    """What a principal may do.

    Attributes:
        principal: Name, as it logs in.
        resource: topic or group.
        name: Of the topic or group; its first letters where `prefixed`.
        prefixed: Everything that begins with `name` is meant.
        operation: read, write, create, describe or describe_configs.
    """

    principal: str
    resource: str
    name: str
    prefixed: bool
    operation: str

    def as_acl(self) -> ACL:
        """The same for Kafka, from every address."""
        kinds = ACLResourcePatternType
        pattern = ResourcePattern(
            ResourceType[self.resource.upper()],
            self.name,
            kinds.PREFIXED if self.prefixed else kinds.LITERAL,
        )
        operation = ACLOperation[self.operation.upper()]
        return ACL(f"User:{self.principal}", "*", operation, ACLPermissionType.ALLOW, pattern)


def rights(table: Mapping[str, Mapping[str, Sequence[str]]], kafka: Kafka) -> list[Right]:
    """Every right of a table like acls.yaml.

    Raises:
        ValueError: for a kind of topic that there is not.
    """
    names: dict[str, list[str]] = {}
    for spec in specs(kafka):
        names.setdefault(spec.kind, []).append(spec.name)
    return [right for who, given in table.items() for right in _of(who, given, names, kafka)]


def _of(
    who: str, given: Mapping[str, Sequence[str]], names: Mapping[str, list[str]], kafka: Kafka
) -> Iterator[Right]:
    prefix = f"{kafka.group}-"
    for kind, operations in given.items():
        for operation in operations:
            if kind in ("groups", "state"):
                resource = "group" if kind == "groups" else "topic"
                yield Right(who, resource, prefix, prefixed=True, operation=operation)
            elif kind in names:
                for name in names[kind]:
                    yield Right(who, "topic", name, prefixed=False, operation=operation)
            else:
                known = ", ".join([*names, "groups"])
                raise ValueError(f"acls.yaml: {who} has {kind!r}, which must be one of {known}")


def passwords(folder: Path, principals: Sequence[str]) -> dict[str, str]:
    """Principal -> password, from kafka_<principal>_password.

    Raises:
        SecretError: for a file that is missing or empty.
    """
    files = {who: folder / f"kafka_{who}_password" for who in principals}
    return {who: secret(None, file, f"kafka.{who}") or "" for who, file in files.items()}


def log_in(access: Access, given: Mapping[str, str]) -> None:
    """Let principals log in with these passwords from now on.

    Raises:
        KafkaTrouble: Kafka refuses one.
    """
    wanted = [
        UserScramCredentialUpsertion(who, ScramMechanism.SCRAM_SHA_512, text, iterations=ROUNDS)
        for who, text in given.items()
    ]
    done = ask(access, lambda admin: admin.alter_user_scram_credentials(wanted))
    if refused := [f"{who}: {said}" for who, said in done.items() if said]:
        raise KafkaTrouble(f"passwords were not set: {'; '.join(refused)}")


def allow(access: Access, wanted: Sequence[ACL], principals: Sequence[str]) -> tuple[int, int]:
    """Give these rights to these principals, and no others.

    Returns:
        Rights given and rights taken away.

    Raises:
        KafkaTrouble: Kafka refuses one.
    """

    def change(admin: Any) -> tuple[int, int]:
        found, _ = admin.describe_acls(_any())
        ours = {acl for acl in found if acl.principal in {f"User:{who}" for who in principals}}
        missing, extra = set(wanted) - ours, ours - set(wanted)
        if missing and (failed := admin.create_acls(sorted(missing, key=repr))["failed"]):
            raise KafkaTrouble(f"{len(failed)} rights were not given: {failed[0].__name__}")
        if extra:
            admin.delete_acls([_just(acl) for acl in extra])
        return len(missing), len(extra)

    return ask(access, change)


def _any() -> ACLFilter:
    pattern = ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY)
    return ACLFilter(None, None, ACLOperation.ANY, ACLPermissionType.ANY, pattern)


def _just(acl: ACL) -> ACLFilter:
    return ACLFilter(
        acl.principal, acl.host, acl.operation, acl.permission_type, acl.resource_pattern
    )


def wait_for(access: Access, seconds: float) -> None:
    """Return once Kafka answers; a wrong password or certificate is told at once.

    Raises:
        AccessError, KafkaTrouble: it does not let us in, or not in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            ask(access, lambda admin: admin.describe_cluster())
        except KafkaTrouble:
            if time.monotonic() > deadline:
                raise
            time.sleep(AGAIN_S)
        else:
            return


def main() -> None:
    """Apply acls.yaml."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--secrets", type=Path, required=True, help="folder of the passwords")
    parser.add_argument("--acls", type=Path, default=HERE / "acls.yaml", help="who may do what")
    parser.add_argument("--wait", type=float, default=60.0, help="seconds for Kafka to answer")
    asked = parser.parse_args()
    try:
        kafka = load().kafka
        access = access_of(kafka)
        table = yaml.safe_load(asked.acls.read_text(encoding="utf-8"))
        wanted = [right.as_acl() for right in rights(table, kafka)]
        given = passwords(asked.secrets, [ADMIN, *table])
        wait_for(access, asked.wait)
        log_in(access, given)
        new, old = allow(access, wanted, list(table))
    except (OSError, SettingsError, SecretError, AccessError, KafkaTrouble, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"{len(given)} principals can log in; {new} rights given, {old} taken away")  # noqa: T201


if __name__ == "__main__":
    main()
