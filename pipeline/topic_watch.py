"""Names and a pattern in; the topics that exist, with their partitions, out."""

import logging
import re
from collections.abc import Collection, Mapping

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    AuthenticationFailedError,
    KafkaConnectionError,
    KafkaError,
    NoBrokersAvailable,
    SaslAuthenticationFailed,
)

from connectors.kafka_access import Access, AccessError

log = logging.getLogger(__name__)


class TopicWatch:
    """Looks for topics; the brokers may be away.

    Args:
        access: How to reach Kafka.
        names: Topics to find.
        pattern: Regular expression of more topics; all of a name must match.
        never: Topics that the pattern does not mean, such as our own.
    """

    def __init__(
        self,
        access: Access,
        names: Collection[str],
        *,
        pattern: str | None = None,
        never: Collection[str] = (),
    ) -> None:
        self._access = access
        self._names = frozenset(names)
        self._never = frozenset(never)
        try:
            self._pattern = None if pattern is None else re.compile(pattern)
        except re.error as error:
            raise AccessError(f"signals_pattern {pattern!r} is no expression: {error}") from error

    async def look(self) -> Mapping[str, int] | None:
        """Topic -> number of partitions of those that exist; None where no broker answers.

        Raises:
            AccessError: where the broker refuses us.
        """
        access = self._access
        client = AIOKafkaClient(
            bootstrap_servers=list(access.bootstrap),
            security_protocol=access.security,
            ssl_context=access.tls(),
            sasl_mechanism=access.mechanism if access.authenticated else "PLAIN",
            sasl_plain_username=access.username,
            sasl_plain_password=access.password,
            request_timeout_ms=5000,
        )
        try:
            await client.bootstrap()
            cluster = await client.fetch_all_metadata()
            return {
                name: len(cluster.partitions_for_topic(name) or ())
                for name in cluster.topics(exclude_internal_topics=True)
                if self._wanted(name)
            }
        except (AuthenticationFailedError, SaslAuthenticationFailed) as error:
            raise AccessError(
                f"Kafka at {', '.join(access.bootstrap)} refuses user {access.username!r}: {error}"
            ) from error
        except (KafkaConnectionError, NoBrokersAvailable, KafkaError, OSError) as error:
            log.debug("no broker answers: %r", error)
            return None
        finally:
            await client.close()

    def _wanted(self, name: str) -> bool:
        if name in self._names:
            return True
        if self._pattern is None or name in self._never or name.endswith("-changelog"):
            return False
        return self._pattern.fullmatch(name) is not None
