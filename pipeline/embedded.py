"""A time-ordered stream of chunks in, a folder of committed results out; no service needed.

Chunks are grouped into micro-batches by the number of samples, results are committed together with
the state and the position in the stream every few seconds. A run that was interrupted goes on where
its last commit stood: the same results as a run that was not, none lost, none doubled.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.case_fold import Case
from pipeline.cases import CaseBook
from pipeline.messages import Processed, SensorChunk, State, Transition
from pipeline.monitor import Monitor
from pipeline.state import pack, unpack

# About 64 windows of 1 s at 16 kHz: full encoder calls, results within a second.
BATCH_SAMPLES = 1 << 20
BATCH_CHUNKS = 512
COMMIT_S = 10.0
# Results kept in memory between commits, about 1 kB each.
COMMIT_WINDOWS = 20_000


class RestoreError(ValueError):
    """A stored state of another version or model."""


class Store(Protocol):
    """Where an embedded run keeps what it found."""

    def facts(self) -> dict[str, Any]:
        """Named JSON values."""

    def states(self) -> dict[str, bytes]:
        """State records by name."""

    def commit(
        self,
        done: Sequence[Processed],
        *,
        cases: Sequence[Mapping[str, Any]] = (),
        states: Mapping[str, bytes] | None = None,
        facts: Mapping[str, Any] | None = None,
        transitions: Sequence[Transition] = (),
    ) -> None:
        """Write all of it, or nothing; `transitions` are those of commands."""


@dataclass(slots=True)
class Progress:
    """How far a run is.

    Attributes:
        chunks: Consumed so far, those before a resume included.
        windows: Judged in this process.
        event_ns: Start of the newest chunk.
        finished: Whether the stream has ended (not interrupted).
    """

    chunks: int = 0
    windows: int = 0
    event_ns: int = 0
    finished: bool = False


@dataclass(slots=True)
class _Pending:
    """What has happened since the last commit."""

    done: list[Processed] = field(default_factory=list)
    cases: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    windows: int = 0


class EmbeddedRun:
    """Drives one monitor and one case book from a stream of chunks.

    Args:
        monitor: Fresh; its state is restored from the store where there is one.
        cases: Fresh case book, likewise.
        store: Results, states and position.
        describe_case: Case -> JSON-able record with `case_id` for the store.
        commit_s: Seconds between commits; what a kill makes the next run do again.
        batch_samples: Samples per micro-batch.
    """

    def __init__(
        self,
        monitor: Monitor,
        cases: CaseBook,
        store: Store,
        *,
        describe_case: Callable[[Case], Mapping[str, Any]],
        commit_s: float = COMMIT_S,
        batch_samples: int = BATCH_SAMPLES,
    ) -> None:
        self._monitor = monitor
        self._cases = cases
        self._store = store
        self._describe_case = describe_case
        self._commit_s = commit_s
        self._batch_samples = batch_samples
        self._pending = _Pending()
        self.progress = Progress()
        try:
            self._restore()
        except (ValueError, KeyError) as error:
            raise RestoreError(f"the stored state cannot be used: {error}") from error

    def run(
        self,
        chunks: Iterable[SensorChunk],
        *,
        stop: Callable[[], bool] = lambda: False,
        advance: Callable[[Progress], None] = lambda _: None,
    ) -> Progress:
        """Process the stream from where the store stands.

        Args:
            chunks: From the beginning; what is already processed is skipped.
            stop: Asked after every batch; True ends the run with a commit.
            advance: Told after every batch.

        Returns:
            How far it came; `finished` is False where `stop` ended it.
        """
        stream = itertools.islice(chunks, self.progress.chunks, None)
        committed = time.monotonic()
        for batch in _batches(stream, self._batch_samples):
            self._take(self._monitor.process(batch))
            self._pending.touched.update(chunk.sensor_id for chunk in batch)
            self.progress.chunks += len(batch)
            self.progress.event_ns = batch[-1].start_ns
            advance(self.progress)
            stopping = stop()
            due = time.monotonic() - committed >= self._commit_s
            due = due or self._pending.windows > COMMIT_WINDOWS
            if stopping or due:
                self._commit(finished=False)
                committed = time.monotonic()
            if stopping:
                return self.progress
        self._take(self._monitor.flush())
        self._pending.touched.update(self._monitor.sensors)
        self.progress.finished = True
        self._commit(finished=True)
        advance(self.progress)
        return self.progress

    def _take(self, done: Processed) -> None:
        self._pending.done.append(done)
        self._pending.windows += len(done.windows)
        self.progress.windows += len(done.windows)
        for window in done.windows:
            for transition in window.transitions:
                self._pending.touched.add(transition.sensor_id)
                for case in self._cases.add(transition):
                    record = self._describe_case(case)
                    self._pending.cases[record["case_id"]] = record

    def _commit(self, *, finished: bool) -> None:
        states = {
            "monitor": pack(self._monitor.export_state()),
            "cases": pack(self._cases.export_state()),
        }
        for sensor_id in self._pending.touched:
            sensor = self._monitor.sensors[sensor_id]
            if sensor.baseline_changed:
                states[f"baseline {sensor_id}"] = pack(sensor.export_baseline())
            states[f"live {sensor_id}"] = pack(sensor.export_live())
        latest = [self._monitor.sensors[name].latest_spectrum() for name in self._pending.touched]
        spectra = tuple(picture for picture in latest if picture is not None)
        self._store.commit(
            [*self._pending.done, Processed((), (), spectra)],
            cases=list(self._pending.cases.values()),
            states=states,
            facts={
                "chunks": self.progress.chunks,
                "finished": finished,
                "sensors": {name: s.about() for name, s in self._monitor.sensors.items()},
            },
        )
        self._pending = _Pending()

    def _restore(self) -> None:
        states = self._store.states()
        if "monitor" not in states:
            return
        names = [name.removeprefix("live ") for name in states if name.startswith("live ")]
        self._monitor.import_state(
            unpack(states["monitor"]),
            {
                name: (unpack(states[f"live {name}"]), _unpacked(states.get(f"baseline {name}")))
                for name in names
            },
        )
        self._cases.import_state(unpack(states["cases"]))
        facts = self._store.facts()
        self.progress.chunks = facts["chunks"]
        self.progress.finished = facts["finished"]


def _unpacked(record: bytes | None) -> State | None:
    return None if record is None else unpack(record)


def _batches(chunks: Iterator[SensorChunk], most: int) -> Iterator[list[SensorChunk]]:
    """Consecutive chunks, as many as one encoder call is worth."""
    batch: list[SensorChunk] = []
    samples = 0
    for chunk in chunks:
        batch.append(chunk)
        samples += chunk.samples.size
        if samples >= most or len(batch) >= BATCH_CHUNKS:
            yield batch
            batch, samples = [], 0
    if batch:
        yield batch
