"""Recordings in, a Parquet file of embeddings out: the monitor's windows, gains and order."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from connectors.embeddings import EmbeddingsFile
from connectors.files import ReadOptions, describe, read
from echo_model.engine import EchoEngine
from pipeline.assembly import build_sensor
from pipeline.commands import chosen_settings, recorded_extent
from pipeline.encoders import load_engine
from pipeline.fleet import Fleet
from pipeline.messages import SensorChunk
from pipeline.monitor import Item, measure_all
from pipeline.ready import Ready
from pipeline.settings import Settings
from pipeline.terminal import meter

if TYPE_CHECKING:
    from pipeline.sensor import SensorMonitor


def embed(
    paths: Sequence[Path],
    options: ReadOptions,
    out: Path,
    *,
    profile: str,
    overrides: Mapping[str, Any],
    console: Console,
) -> tuple[int, int]:
    """Write the embeddings of all believable windows, cut and scaled as the monitor does.

    Returns:
        How many windows were written, and how many left out because their sensor lied.
    """
    extent = recorded_extent([describe(path, options) for path in paths], options)
    chunks = read(paths, options=options)
    settings = chosen_settings(extent, profile, overrides, console)
    engine = load_engine(settings)
    written = left_out = 0
    with (
        EmbeddingsFile(out, engine.model_id, trained=engine.trained) as file,
        meter(console, extent.first_ns, extent.length_s) as show,
    ):
        for batch in _batches(_items(chunks, settings, engine)):
            found = [ready for _, ready in measure_all(batch).found if isinstance(ready, Ready)]
            good = [ready for ready in found if ready.gain != 0.0]
            windows = [ready.window for ready in good]
            vectors = engine.embed(
                [window.samples for window in windows],
                [window.sample_rate_hz for window in windows],
                [ready.gain for ready in good],
            )
            # The factor of the samples holds their scale to the unit; the sensor's gain does not.
            gains = [ready.gain / ready.window.scale for ready in good]
            file.write(windows, vectors, gains)
            written, left_out = written + len(good), left_out + len(found) - len(good)
            if found:
                show(found[-1].window.start_ns, f"{written} windows")
    return written, left_out


def _items(chunks: Iterable[SensorChunk], settings: Settings, engine: EchoEngine) -> Iterator[Item]:
    """The monitor's own first half, so that windows and gains are those of the monitor."""
    sensors: dict[str, SensorMonitor] = {}
    for chunk in chunks:
        if chunk.sensor_id not in sensors:
            info = Fleet().sensor(chunk.sensor_id)
            sensors[chunk.sensor_id] = build_sensor(info, settings, engine)
        sensor = sensors[chunk.sensor_id]
        yield from ((sensor, item) for item in sensor.cut(chunk))
    for sensor in sensors.values():
        yield from ((sensor, item) for item in sensor.flush())


def _batches(items: Iterable[Item], size: int = 64) -> Iterator[list[Item]]:
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
