"""The address of a Kafka in; the topics that exist, with their partitions, out."""

import logging
import ssl
from collections.abc import Mapping

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
    """

    def __init__(self, access: Access) -> None:
        self._access = access
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
