"""Results of an embedded run in, one SQLite file out, and back for the report.

Results, state and source position of a stretch are one transaction: after a kill at any moment the
file holds either all of it or nothing, so a resumed run neither loses nor doubles a window. Every
row has a natural key and is replaced when written again.
"""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.messages import (
    BandEdges,
    DriftScore,
    Processed,
    Spectrum,
    SpectrumKind,
    Transition,
    Trend,
    WindowResult,
)

SCHEMA_VERSION = 1
FILE_NAME = "echowatch.sqlite"

SCHEMA = """
create table if not exists facts (name text primary key, value text not null);
create table if not exists states (name text primary key, value blob not null);
create table if not exists bands (
    sensor_id text not null, bands integer not null, edges_hz text not null,
    primary key (sensor_id, bands)
);
create table if not exists windows (
    sensor_id text not null, end_ns integer not null, start_ns integer not null,
    status text not null, running integer not null, faults text not null, detail text not null,
    rms real, peak real, crest real, kurtosis real, velocity_mm_s real,
    score real, "limit" real, level_ratio real, distance real, ratio real, learning_pct real,
    reason text, nearest_ns integer, octaves_hz blob, octaves_db blob, band_shares blob,
    primary key (sensor_id, end_ns)
) without rowid;
create table if not exists transitions (
    transition_id text primary key, sensor_id text not null, asset text not null,
    at_ns integer not null, record text not null
);
create table if not exists cases (case_id text primary key, record text not null);
create table if not exists events (
    sensor_id text not null, at_ns integer not null, kind text not null,
    amount_s real not null, detail text not null, primary key (sensor_id, at_ns, kind)
);
create table if not exists spectra (
    sensor_id text not null, kind text not null, at_ns integer not null,
    freq_hz blob not null, amplitude blob not null, primary key (sensor_id, kind, at_ns)
);
"""

TREND_COLUMNS = (
    "rms", "peak", "crest", "kurtosis", "velocity_mm_s", "score", "limit", "level_ratio", "ratio",
    "learning_pct",
)  # fmt: skip


class StoreError(RuntimeError):
    """The folder holds no usable store."""


class LocalStore:
    """The results of one run in one folder.

    Args:
        folder: Where the file lies or will lie.
        create: Make folder and file where they are missing.

    Raises:
        StoreError: where there is no store and `create` is False, or another version wrote it.
    """

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        path = folder / FILE_NAME
        if not path.exists() and not create:
            raise StoreError(f"{folder} holds no {FILE_NAME}: give the --out folder of a run")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("pragma journal_mode = wal")
            self._db.executescript(SCHEMA)
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{path} is not a usable store: {error}") from error
        found = self.facts().setdefault("schema", SCHEMA_VERSION)
        if found != SCHEMA_VERSION:
            raise StoreError(f"{path} has schema {found}, this version reads {SCHEMA_VERSION}")
        self.set_facts({"schema": SCHEMA_VERSION})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def facts(self) -> dict[str, Any]:
        """Named JSON values about the run."""
        rows = self._db.execute("select name, value from facts")
        return {name: json.loads(value) for name, value in rows}

    def set_facts(self, facts: Mapping[str, Any]) -> None:
        """Write or replace named JSON values."""
        rows = [(name, json.dumps(value)) for name, value in facts.items()]
        self._db.executemany("insert or replace into facts values (?, ?)", rows)

    def states(self) -> dict[str, bytes]:
        """Name -> state record of the last commit."""
        return dict(self._db.execute("select name, value from states"))

    def commit(
        self,
        done: Sequence[Processed],
        *,
        cases: Sequence[Mapping[str, Any]] = (),
        states: Mapping[str, bytes] | None = None,
        facts: Mapping[str, Any] | None = None,
        transitions: Sequence[Transition] = (),
    ) -> None:
        """Write results, cases, states and facts (such as the source position) as one.

        Args:
            done: Batches since the last commit.
            cases: JSON-able records with a `case_id`.
            states: State records by name.
            facts: JSON values by name.
            transitions: Of commands; those of windows lie in the batches.
        """
        self._db.execute("begin immediate")
        try:
            for batch in done:
                self._write(batch)
            self._put_transitions(transitions)
            self._db.executemany(
                "insert or replace into cases values (?, ?)",
                [(case["case_id"], json.dumps(case)) for case in cases],
            )
            self._db.executemany(
                "insert or replace into states values (?, ?)", list((states or {}).items())
            )
            self.set_facts(facts or {})
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")

    def _write(self, batch: Processed) -> None:
        put = self._db.executemany
        marks = ", ".join("?" * 23)
        put(f"insert or replace into windows values ({marks})", map(_window_row, batch.windows))  # noqa: S608  (only question marks)
        edges = {
            (w.sensor_id, len(w.drift.band_edges_hz)): json.dumps(w.drift.band_edges_hz)
            for w in batch.windows
            if w.drift is not None
        }
        put("insert or replace into bands values (?, ?, ?)", [(*k, v) for k, v in edges.items()])
        self._put_transitions(t for window in batch.windows for t in window.transitions)
        put(
            "insert or replace into events values (?, ?, ?, ?, ?)",
            [(e.sensor_id, e.at_ns, e.kind, e.amount_s, e.detail) for e in batch.events],
        )
        put(
            "insert or replace into spectra values (?, ?, ?, ?, ?)",
            map(_spectrum_row, batch.spectra),
        )
        self._db.executemany(
            "delete from spectra where sensor_id = ? and kind = ? and at_ns < ?",
            [(s.sensor_id, s.kind, s.at_ns) for s in batch.spectra if s.kind == "latest"],
        )

    def _put_transitions(self, transitions: Iterable[Transition]) -> None:
        self._db.executemany(
            "insert or replace into transitions values (?, ?, ?, ?, ?)",
            (
                (t.transition_id, t.sensor_id, t.asset, t.at_ns, json.dumps(asdict(t)))
                for t in transitions
            ),
        )

    def sensor_ids(self) -> list[str]:
        """All sensors with at least one window."""
        rows = self._db.execute("select distinct sensor_id from windows order by 1")
        return [row[0] for row in rows]

    def trend(self, sensor_id: str) -> Trend:
        """All windows of one sensor, as columns in time order."""
        names = ", ".join(f'"{name}"' for name in TREND_COLUMNS)
        rows = self._db.execute(
            f"select end_ns, status, faults, octaves_hz, octaves_db, band_shares, {names} "  # noqa: S608  (constant names)
            "from windows where sensor_id = ? order by end_ns",
            (sensor_id,),
        ).fetchall()
        edges = self._edges(sensor_id)
        octaves_hz = next(
            (np.frombuffer(r[3], np.float64) for r in rows[::-1] if r[3]), np.empty(0)
        )
        columns = np.array([row[6:] for row in rows], np.float64).reshape(-1, len(TREND_COLUMNS))
        return Trend(
            sensor_id=sensor_id,
            end_ns=np.array([row[0] for row in rows], np.int64),
            status=np.array([row[1] for row in rows], np.str_),
            faults=np.array([row[2] for row in rows], np.str_),
            band_edges_hz=edges,
            band_shares=_stack([row[5] for row in rows], len(edges)),
            octaves_hz=octaves_hz,
            octaves_db=_stack([row[4] for row in rows], octaves_hz.size),
            **dict(zip(TREND_COLUMNS, columns.T, strict=True)),
        )

    def _edges(self, sensor_id: str) -> BandEdges:
        row = self._db.execute(
            "select edges_hz from bands where sensor_id = ? order by rowid desc limit 1",
            (sensor_id,),
        ).fetchone()
        return () if row is None else tuple((low, high) for low, high in json.loads(row[0]))

    def transitions(self) -> list[Transition]:
        """All transitions in event time order."""
        rows = self._db.execute("select record from transitions order by at_ns, transition_id")
        records = (json.loads(row[0]) for row in rows)
        return [Transition(**{**r, "band_hz": tuple(r["band_hz"])}) for r in records]

    def cases(self) -> list[dict[str, Any]]:
        """All case records, without those that a late transition merged into another."""
        records = (json.loads(row[0]) for row in self._db.execute("select record from cases"))
        return [record for record in records if not record.get("superseded_by")]

    def event_counts(self) -> dict[str, dict[str, int]]:
        """Sensor id -> kind of stream event -> how often."""
        counts: dict[str, dict[str, int]] = {}
        rows = self._db.execute("select sensor_id, kind, count(*) from events group by 1, 2")
        for sensor_id, kind, count in rows:
            counts.setdefault(sensor_id, {})[kind] = count
        return counts

    def spectra(self, sensor_id: str) -> dict[SpectrumKind, Spectrum]:
        """The newest spectrum of each kind."""
        rows = self._db.execute(
            "select kind, at_ns, freq_hz, amplitude from spectra where sensor_id = ? "
            "order by at_ns",
            (sensor_id,),
        )
        return {
            kind: Spectrum(
                sensor_id, at_ns, kind, np.frombuffer(hz, np.float32), np.frombuffer(a, np.float32)
            )
            for kind, at_ns, hz, a in rows
        }

    def summary(self) -> dict[str, int]:
        """Counts of windows, sensors, transitions and events."""
        return {
            name: self._db.execute(f"select count({what}) from {table}").fetchone()[0]  # noqa: S608  (constants)
            for name, what, table in (
                ("windows", "*", "windows"),
                ("sensors", "distinct sensor_id", "windows"),
                ("transitions", "*", "transitions"),
                ("events", "*", "events"),
            )
        }


def _window_row(result: WindowResult) -> tuple[object, ...]:
    health, found, drift = result.health, result.features, result.drift
    octaves = np.array(found.octaves_db, np.float64).reshape(-1, 2) if found else None
    return (
        result.sensor_id,
        result.window_end_ns,
        result.window_start_ns,
        result.status,
        result.running,
        ",".join(health.faults),
        health.detail,
        *((found.rms, found.peak, found.crest, found.kurtosis) if found else (None,) * 4),
        found.velocity_mm_s if found else None,
        *_drift_columns(drift),
        octaves[:, 0].tobytes() if octaves is not None else None,
        octaves[:, 1].astype(np.float16).tobytes() if octaves is not None else None,
        np.array(drift.band_shares, np.float16).tobytes() if drift and drift.band_shares else None,
    )


def _drift_columns(drift: DriftScore | None) -> tuple[object, ...]:
    if drift is None:
        return (None,) * 8
    return (
        drift.score,
        drift.limit,
        drift.level_ratio,
        drift.distance,
        drift.ratios.get("alarm"),
        drift.learning_pct,
        drift.reason,
        drift.nearest_ns,
    )


def _spectrum_row(picture: Spectrum) -> tuple[object, ...]:
    return (
        picture.sensor_id,
        picture.kind,
        picture.at_ns,
        picture.freq_hz.astype(np.float32).tobytes(),
        picture.amplitude.astype(np.float32).tobytes(),
    )


def _stack(blobs: Sequence[bytes | None], width: int) -> NDArray[np.float32]:
    """(n, width) float32 from half precision rows; nan where one is missing or of another width."""
    out = np.full((len(blobs), width), np.nan, np.float32)
    for i, blob in enumerate(blobs):
        if blob is not None and len(blob) == 2 * width:
            out[i] = np.frombuffer(blob, np.float16)
    return out
