"""`echowatch worker`: one process of as many as you like that share the sensors of a plant."""

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from pipeline.cli.options import Role

if TYPE_CHECKING:
    from pipeline.fleet import Fleet
    from pipeline.settings import Settings
    from pipeline.streaming.encoder_process import EncoderProcess

console = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)

EXIT_TROUBLE = 1
# A stage that is told to end does so between two micro-batches, a client between two requests.
STUCK_S = 1.0
EPILOG = (
    "Addresses, secrets and everything else are settings: docs/settings.md. Exit codes: 0 stopped "
    "by a signal, 1 could not go on (start it again: nothing is lost), 2 wrong usage."
)


def worker(
    role: Annotated[
        Role | None, typer.Option(help="What to work on.", envvar="ECHOWATCH_WORKER__ROLE")
    ] = None,
    fleet: Annotated[
        Path | None, typer.Option(help="Fleet file (YAML).", envvar="ECHOWATCH_WORKER__FLEET")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Time constants: plant, accelerated or short.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Shipped name, published id or checkpoint file.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda[:N].")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port of /live, /ready and /metrics; 0 = none.", min=0)
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Monitor live signals: Kafka in, InfluxDB and alarms out; run as many as there are cores.

    Kill it, freeze it, start another one: no window is lost and none counts twice.
    """
    from pipeline.fleet import Fleet, load_fleet
    from pipeline.memory import keep_memory
    from pipeline.settings import load
    from pipeline.streaming import quiet_logs
    from pipeline.streaming.encoder_process import EncoderProcess

    given = {"role": None if role is None else role.value, "fleet": fleet, "port": port}
    chosen = {name: value for name, value in given.items() if value is not None}
    settings = load(profile=profile, model=model, device=device, worker=chosen or None)
    secrets = [settings.kafka.password_text() or "", settings.influx.token_text() or ""]
    quiet_logs.configure("DEBUG" if verbose else "INFO", console, secrets=secrets)
    quiet_logs.tell_of_threads()
    keep_memory()
    plant = Fleet() if settings.worker.fleet is None else load_fleet(settings.worker.fleet)
    encoder = None if settings.worker.role == "cases" else EncoderProcess(settings)
    _work(settings, plant, encoder)


def _work(settings: "Settings", plant: "Fleet", encoder: "EncoderProcess | None") -> None:
    """Work until a signal ends it; the encoder loads while this process makes itself ready.

    Raises:
        RunError: where the worker cannot go on.
    """
    from pipeline.careful import EncoderGoneError
    from pipeline.streaming.endpoints import EndpointError
    from pipeline.streaming.role_runner import WorkerFailure
    from pipeline.streaming.worker import Worker

    try:
        if encoder is not None:
            encoder.wait_ready()
        pid = None if encoder is None else encoder.pid
        asyncio.run(Worker(settings, plant, encoder, encoder_pid=pid).run())
    except (WorkerFailure, EndpointError, EncoderGoneError) as error:
        from pipeline.commands import RunError

        _leave_the_stuck(error)
        raise RunError(str(error)) from error
    finally:
        if encoder is not None:
            encoder.close()
    _leave_the_stuck(None)


def _leave_the_stuck(error: Exception | None) -> None:
    """End at once where a thread of a stage or of Faust never comes back.

    Python would wait for it for ever.
    """
    until_s = time.monotonic() + STUCK_S
    others = [t for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()]
    for thread in others:
        thread.join(max(0.0, until_s - time.monotonic()))
    if any(thread.is_alive() for thread in others):
        if error is not None:
            console.print(f"error: {error}", markup=False, style="bold red")
        os._exit(0 if error is None else EXIT_TROUBLE)
