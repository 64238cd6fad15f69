"""Settings of Kafka in, the access that every client of Kafka is opened with out."""

from connectors.kafka_access import Access
from pipeline.service_settings import Kafka


def access_of(kafka: Kafka) -> Access:
    """Address and identity for worker and tools alike.

    Raises:
        AccessError: for an unencrypted connection beyond this machine.
        ValueError: for a password file that cannot be read or is empty.
    """
    return Access(
        bootstrap=kafka.bootstrap,
        security=kafka.security,
        mechanism=kafka.mechanism,
        username=kafka.username,
        password=kafka.password_text(),
        ca_file=kafka.ca_file,
        cert_file=kafka.cert_file,
        key_file=kafka.key_file,
        allow_plaintext=kafka.allow_plaintext,
    )
