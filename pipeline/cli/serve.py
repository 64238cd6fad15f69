"""`echowatch serve`: pictures of cases for people, linked from the boards."""

import asyncio
import signal
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from pipeline.settings import Settings

console = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)

EPILOG = (
    "Addresses, the access token and everything else are settings: docs/settings.md. Exit codes: "
    "0 stopped by a signal, 1 could not begin, 2 wrong usage."
)


def serve(
    host: Annotated[
        str | None, typer.Option(help="Address of the pages; beyond this machine with a token.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port of the pages; 0 = any.", min=0)] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Show waveform and spectrum of a case, now over healthy; reads Kafka, writes nothing."""
    from pipeline.serve.login import LoginError
    from pipeline.settings import SettingsError, load
    from pipeline.streaming import quiet_logs
    from pipeline.streaming.endpoints import EndpointError

    chosen = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = load(serve=chosen or None)
    secrets = [settings.kafka.password_text() or "", settings.serve.token_text() or ""]
    quiet_logs.configure("DEBUG" if verbose else "INFO", console, secrets=secrets)
    try:
        asyncio.run(_serve(settings))
    except (EndpointError, LoginError) as error:
        raise SettingsError(str(error)) from error


async def _serve(settings: "Settings") -> None:
    """Serve until a signal ends it."""
    from pipeline.serve.feed import Feed
    from pipeline.serve.server import SnapshotServer
    from pipeline.serve.store import SnapshotStore
    from pipeline.services.kafka_settings import access_of

    given, store = settings.serve, SnapshotStore(settings.serve.store_mb * 1e6)
    feed = Feed(access_of(settings.kafka), settings.kafka, store)
    server = SnapshotServer(given, store, feed.verdict)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    port = await server.start()
    name = f"[{given.host}]" if ":" in given.host else given.host
    console.print(f"cases: {'https' if given.cert_file else 'http'}://{name}:{port}/", markup=False)
    feed.start()
    try:
        await stopping.wait()
    finally:
        await server.stop()
        feed.stop()
