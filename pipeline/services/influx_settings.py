"""Settings of InfluxDB in, a writer out."""

from collections.abc import Callable

from connectors.influx import InfluxError, InfluxWriter
from pipeline.service_settings import Influx


def writer_of(
    influx: Influx, *, refused: Callable[[str, str], None], progress: Callable[[], None]
) -> InfluxWriter:
    """A writer that is not started yet.

    Raises:
        InfluxError: for an address or token that cannot be used, or no token.
        ValueError: for a token file that cannot be read or is empty.
    """
    token = influx.token_text()
    if not token:
        raise InfluxError(
            "no token for InfluxDB: set ECHOWATCH_INFLUX__TOKEN_FILE or ECHOWATCH_INFLUX__TOKEN"
        )
    return InfluxWriter(
        influx.url,
        token,
        influx.org,
        influx.bucket,
        batch_lines=influx.batch_lines,
        timeout_s=influx.timeout_s,
        ca_file=influx.ca_file,
        allow_plaintext=influx.allow_plaintext,
        refused=refused,
        progress=progress,
    )
