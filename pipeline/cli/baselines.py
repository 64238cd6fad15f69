"""`echowatch baselines ...`: what sensors have learnt, kept in a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from connectors.kafka_access import Access
    from pipeline.service_settings import Kafka

app = typer.Typer(help="Keep what the live plant has learnt in a file.", no_args_is_help=True)


@app.command("export")
def write(
    file: Annotated[Path, typer.Argument(help="File to write; an old one is replaced.")],
) -> None:
    """Write the baselines of all sensors to a file; workers may run meanwhile."""
    from pipeline.services import baselines

    count = baselines.export(*_kafka(), file)
    typer.echo(f"{count} sensors in {file}", err=True)


@app.command("import")
def read(
    file: Annotated[Path, typer.Argument(help="Made by `echowatch baselines export`.")],
    sensors: Annotated[
        list[str] | None, typer.Option("--sensor", help="Only this one; may be repeated.")
    ] = None,
) -> None:
    """Give sensors their baselines back; workers must be stopped.

    Works in another Kafka, and with another number of partitions, too. Alarms begin anew.
    """
    from pipeline.services import baselines

    found = baselines.read(file)
    if sensors:
        unknown = set(sensors) - {one.sensor_id for one in found}
        if unknown:
            raise typer.BadParameter(f"{file} has no {', '.join(sorted(unknown))}")
        found = [one for one in found if one.sensor_id in sensors]
    baselines.restore(*_kafka(), found)
    typer.echo(f"{len(found)} sensors restored: start the workers", err=True)


def _kafka() -> "tuple[Access, Kafka]":
    from pipeline.services.kafka_settings import access_of
    from pipeline.settings import load

    kafka = load().kafka
    return access_of(kafka), kafka
