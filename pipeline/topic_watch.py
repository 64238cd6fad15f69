"""Names and a pattern in; the topics that exist, with their partitions, out."""

import logging
import re
import ssl
from collections.abc import Collection, Mapping

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    AuthenticationFailedError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from connectors.kafka_access import Access, AccessError

log = logging.getLogger(__name__)


# What waiting does not mend.
FINAL = (
    AuthenticationFailedError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
    ssl.SSLCertVerificationError,
)


class _Refusal(logging.Handler):
    """Remembers why a broker was not reached: the client only says that to its log."""

    error: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        given = record.args if isinstance(record.args, tuple) else ()
        for argument in given:
            if isinstance(argument, FINAL):
                self.error = argument


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

        self._refusal = _Refusal()

    async def look(self) -> Mapping[str, int] | None:
        """Topic -> number of partitions of those that exist; None where no broker answers.

        Raises:
            AccessError: where the broker refuses us.
        """
        access, self._refusal.error = self._access, None
        client = AIOKafkaClient(
            bootstrap_servers=list(access.bootstrap),
            security_protocol=access.security,
            ssl_context=access.tls(),
            sasl_mechanism=access.mechanism if access.authenticated else "PLAIN",
            sasl_plain_username=access.username,
            sasl_plain_password=access.password,
            request_timeout_ms=5000,
        )
        logging.getLogger("aiokafka").addHandler(self._refusal)
        try:
            await client.bootstrap()
            cluster = await client.fetch_all_metadata()
            return {
                name: len(cluster.partitions_for_topic(name) or ())
                for name in cluster.topics(exclude_internal_topics=True)
                if self._wanted(name)
            }
        except (KafkaError, OSError) as error:
            refused = error if isinstance(error, FINAL) else self._refusal.error
            if refused is not None:
                who = f"user {access.username!r}" if access.authenticated else "us"
                at = ", ".join(access.bootstrap)
                raise AccessError(f"no way in to Kafka at {at} for {who}: {refused}") from error
            log.debug("no broker answers: %r", error)
            return None
        finally:
            logging.getLogger("aiokafka").removeHandler(self._refusal)
            await client.close()

    def _wanted(self, name: str) -> bool:
        if name in self._names:
            return True
        if self._pattern is None or name in self._never or name.endswith("-changelog"):
            return False
        return self._pattern.fullmatch(name) is not None
