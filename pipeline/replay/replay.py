"""Recordings in, live signals on a Kafka topic out: at the right times, once each.

Joins readers, producer and record; what may be asked for is `Job`.
"""

import logging
import math
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import yaml
from rich.console import Console

from connectors.files import Description, ReadOptions, describe, read
from connectors.files.times import format_time, parse_time
from connectors.kafka_access import Access, AccessError, KafkaTrouble
from connectors.kafka_producer import ChunkProducer, DeliveryError
from connectors.kafka_records import partition_of
from connectors.kafka_tail import TopicError, TopicView
from pipeline.extent import extent_of
from pipeline.messages import NS_PER_S, SensorChunk
from pipeline.replay.pace import LagGate, Pacer
from pipeline.replay.record import (
    Record,
    ReplayError,
    Sent,
    check_same,
    default_path,
    facts_of,
    load,
    save,
)
from pipeline.replay.sending import Identity, Sending, identity
from pipeline.replay.stream import ChunkStream, Lap, Selection, seconds_ns, shift_to
from pipeline.terminal import Advance, interruptible, meter
from pipeline.wire import EARLIEST_NS, BadChunk, encode

# Between two lines of progress where there is no terminal.
LINE_EVERY_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be replayed, where to and how.

    Attributes:
        options: How the recordings are read.
        topic: Must exist.
        group: Consumer group of the workers, for the lag.
        selection: Which chunks, under which names, how often.
        shift_ns: Added to all times; `now` puts the first chunk at the present.
        speed: Seconds of recording per second, inf = as fast as it goes.
        max_gap_s: Longer pauses of the recording last only so long.
        max_lag: Messages that may wait for the workers, 0 = any number.
        record: File of what was sent, None = `default_path`.
        again: Begin anew, whatever the record says.
        future_s: Workers refuse what lies further ahead of the clock than this.
    """

    paths: Sequence[Path]
    options: ReadOptions
    topic: str
    group: str
    selection: Selection = field(default_factory=Selection)
    shift_ns: int | Literal["now"] = 0
    speed: float = float("inf")
    max_gap_s: float = float("inf")
    max_lag: int = 20_000
    record: Path | None = None
    again: bool = False
    future_s: float = float("inf")


def replay(job: Job, access: Access, console: Console) -> dict[str, Any]:
    """Send the recordings; goes on where an earlier, interrupted run of the same job ended.

    Returns:
        The record, with its `path`.

    Raises:
        ReplayError: it cannot be done, or not to its end; the text says why.
        ReadError: recordings cannot be read.
    """
    with _in_words():
        found = _described(job)
        with closing(TopicView(access, job.topic)) as view:
            identified = _identity(job, view.cluster_id)
            path = job.record or default_path(identified)
            with _alone(path):
                record = _begun(job, view, identified, path)
                present = _present(view, record)
                _send(job, record, path, present, access, view, found, console)
    return {**record.to_json(), "path": str(path)}


def dry_run(job: Job, access: Access, partitions: int, console: Console) -> dict[str, Any]:
    """Read all, send nothing; what one pass would send, per sensor.

    `partitions` is how many the topic has where no broker says.

    Raises:
        ReplayError: see `replay`.
        ReadError: recordings cannot be read.
    """
    with _in_words():
        found = _described(job)
        try:
            with closing(TopicView(access, job.topic, patience_s=3.0)) as view:
                partitions = view.partitions
        except (KafkaTrouble, TopicError) as error:
            console.print(
                f"note: {error}; {partitions} partitions are assumed", markup=False, soft_wrap=True
            )
        one = replace(job.selection, laps=1)
        stream, sent = ChunkStream(_reader(job), one, shift_ns=_shift(job)), Sent({})
        with _progress(job, found, console) as show:
            for number, chunk in stream:
                show(chunk.start_ns - (stream.shift_ns or 0), f"{number} chunks")
                try:
                    payload = encode(chunk)
                except BadChunk as error:
                    _refusal(job)(error, chunk)
                    sent.leave_out(number, error.reason)
                    continue
                sent.add(number, chunk, payload)
                sent.stored(number, partition_of(chunk.sensor_id.encode(), partitions), number)
        _check_not_empty(sent.count)
    sensors = {name: asdict(tally) for name, tally in sorted(sent.tallies.items())}
    totals = {"chunks": sent.messages, "bytes": sent.size}
    return {"topic": job.topic, "partitions": partitions, "laps": job.selection.laps,
            "refused": dict(sent.refused), "totals": totals, "sensors": sensors}  # fmt: skip


def names_in(path: Path) -> dict[str, str]:
    """A sensor map: YAML, recorded sensor id -> sensor id.

    Raises:
        ReplayError: it cannot be read, or is no such mapping.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReplayError(f"sensor map {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise ReplayError(f"sensor map {path} is no YAML: {said}") from error
    if not isinstance(found, dict) or not all(
        isinstance(text, str) for item in found.items() for text in item
    ):
        raise ReplayError(
            f"sensor map {path}: must be lines of `recorded sensor: sensor`, both as text"
        )
    return found


def check_names(selection: Selection, recorded: Sequence[str]) -> None:
    """Refuse names that nothing is recorded under, that break the rules, or that would collide.

    Raises:
        ReplayError: says which.
    """
    unknown = sorted(set(selection.names) - set(recorded))
    if unknown:
        raise ReplayError(
            f"the sensor map names {', '.join(unknown[:5])}, which the recordings do not hold: "
            f"they hold {', '.join(recorded[:10])}{', ...' if len(recorded) > 10 else ''}"
        )
    taken: dict[str, str] = {}
    for name in recorded:
        sent_as = selection.name_of(name)
        if sent_as in taken:
            raise ReplayError(f"{taken[sent_as]} and {name} would both be sent as {sent_as}")
        taken[sent_as] = name
        try:
            encode(SensorChunk(sent_as, 1000.0, EARLIEST_NS, np.zeros(1, np.float32)))
        except BadChunk as error:
            raise ReplayError(f"{name} cannot be sent as {sent_as}: {error}; use --map") from error


def _described(job: Job) -> list[Description]:
    found = [describe(path, job.options) for path in job.paths]
    check_names(job.selection, list(dict.fromkeys(c.sensor_id for d in found for c in d.channels)))
    return found


def _identity(job: Job, cluster_id: str) -> dict[str, Any]:
    """What makes a replay the same as before; how fast it goes is not part of it."""
    options, selection = job.options, job.selection
    return {
        "topic": job.topic,
        "cluster": cluster_id,
        "paths": [str(path.resolve()) for path in job.paths],
        "rate": options.sample_rate_hz,
        "unit": options.unit,
        "scale": options.scale,
        "start": options.start,
        "period": options.period_s,
        "on_error": options.on_error,
        "from_ns": selection.from_ns,
        "until_ns": selection.until_ns,
        "laps": selection.laps,
        "names": dict(selection.names),
        "prefix": selection.prefix,
        "shift": job.shift_ns,
    }


def _begun(job: Job, view: TopicView, identified: dict[str, Any], path: Path) -> Record:
    """The record to go on with; what it needs for that is on disk before anything is sent."""
    files = facts_of(list(job.paths))
    record = None if job.again else load(path)
    if record is None:
        offsets = {partition: span.end for partition, span in view.spans().items()}
        shift_ns = None if isinstance(job.shift_ns, str) else job.shift_ns
        record = Record(identified, files, view.partitions, Sent(offsets), shift_ns=shift_ns)
        record.started = _now()
    else:
        check_same(record, identified, files, path)
        if record.partitions != view.partitions:
            raise ReplayError(
                f"{job.topic} had {record.partitions} partitions and has {view.partitions} now: "
                "the rest would go to other partitions; begin anew with --again"
            )
    record.sessions += 1
    record.status = "running"
    record.speed = "max" if math.isinf(job.speed) else f"{job.speed:g}"
    _save(path, record)
    return record


def _present(view: TopicView, record: Record) -> dict[Identity, tuple[int, int]]:
    """What the topic holds behind what the record knows: sent, but not recorded before a crash."""
    if record.sessions == 1:
        return {}
    spans = view.settled()
    for partition, offset in record.sent.offsets.items():
        span = spans[partition]
        if span.end < offset or span.begin > max(offset, 0) != span.end:
            what = "was made anew" if span.end < offset else "has let go of messages"
            raise ReplayError(
                f"{view.topic} {what} since this replay was interrupted (partition {partition} "
                f"holds {span.begin} .. {span.end}, recorded is {offset}): begin with --again"
            )
    ends = {partition: span.end for partition, span in spans.items()}
    return {
        identity(chunk): (partition, offset)
        for partition, offset, chunk in view.chunks(record.sent.offsets, ends)
    }


def _send(
    job: Job,
    record: Record,
    path: Path,
    present: Mapping[Identity, tuple[int, int]],
    access: Access,
    view: TopicView,
    found: Sequence[Description],
    console: Console,
) -> None:
    sent = record.sent
    stream = ChunkStream(
        _reader(job),
        job.selection,
        shift_ns=_shift(job) if record.shift_ns is None else record.shift_ns,
        done=sent.count,
        lap=None if record.lap is None else Lap(**record.lap),
    )
    receipts: deque[tuple[int, int, int]] = deque()  # filled on the client's thread
    producer = ChunkProducer(access, job.topic, acked=lambda *stored: receipts.append(stored))
    with _progress(job, found, console) as show, interruptible() as stop:
        sending = Sending(
            record, lambda: _save(path, record), producer, receipts,
            pacer=Pacer(job.speed, max_gap_s=job.max_gap_s),
            gate=LagGate(job.max_lag, lambda: _lag(view, job.group)),
            stop=stop, show=show, refuse=_refusal(job), present=present, future_s=job.future_s,
        )  # fmt: skip
        ended = "interrupted"
        try:
            if sending.run(stream):
                _check_not_empty(sent.count)
                ended = "finished"
        finally:
            sending.settle()
            record.status = ended
            _save(path, record)
            producer.close()


def _lag(view: TopicView, group: str) -> int | None:
    try:
        return view.lag(group)
    except TopicError as error:
        if error.passing:
            return None
        raise ReplayError(f"{error}; --max-lag 0 sends without asking") from error


def _reader(job: Job) -> Callable[[], Iterator[SensorChunk]]:
    return lambda: read(job.paths, options=job.options)


def _shift(job: Job) -> int | Callable[[int], int]:
    return job.shift_ns if isinstance(job.shift_ns, int) else shift_to(time.time_ns())


def _refusal(job: Job) -> Callable[[BadChunk, SensorChunk], None]:
    def refuse(error: BadChunk, chunk: SensorChunk) -> None:
        said = f"{chunk.sensor_id} at {format_time(chunk.start_ns)} cannot be sent: {error}"
        if job.options.on_error == "stop":
            raise ReplayError(f"{said}; --on-error skip leaves such chunks out")
        job.options.on_problem(said)

    return refuse


def _check_not_empty(chunks: int) -> None:
    if not chunks:
        raise ReplayError("no chunk of the recordings lies within --from and --until")


def _progress(
    job: Job, found: Sequence[Description], console: Console
) -> AbstractContextManager[Advance]:
    start_ns = None if job.options.start is None else parse_time(job.options.start)
    extent = extent_of(found, start_ns=start_ns, period_s=job.options.period_s)
    first_ns, selection = extent.first_ns, job.selection
    length_s = extent.length_s
    if length_s is not None:
        last_ns = first_ns + seconds_ns(length_s)
        first_ns = max(first_ns, selection.from_ns or first_ns)
        length_s = (min(last_ns, selection.until_ns or last_ns) - first_ns) / NS_PER_S
        length_s = None if selection.laps is None else max(length_s, 0.0) * selection.laps
    return meter(console, first_ns, length_s, line_every_s=LINE_EVERY_S)


def _save(path: Path, record: Record) -> None:
    record.updated = _now()
    save(path, record)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextmanager
def _in_words() -> Iterator[None]:
    """What Kafka's connectors raise, as our one kind of error; their client's log keeps quiet."""
    log, silent = logging.getLogger("kafka"), logging.NullHandler()
    log.addHandler(silent)
    log.propagate = False  # an outage is 35 lines a second; the progress says it once
    try:
        yield
    except (AccessError, KafkaTrouble, DeliveryError, TopicError) as error:
        raise ReplayError(str(error)) from error
    finally:
        log.propagate = True
        log.removeHandler(silent)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Two replays of one job would send all twice; the lock ends with the process."""
    try:
        lock = sqlite3.connect(
            path.with_name(f".{path.name}.lock"), timeout=0, isolation_level=None
        )
    except sqlite3.OperationalError as error:
        raise ReplayError(f"record {path} cannot be made: {error}") from error
    with closing(lock):
        try:
            lock.execute("begin exclusive")
        except sqlite3.OperationalError as error:
            raise ReplayError(f"record {path} is in use by another replay ({error})") from error
        yield
