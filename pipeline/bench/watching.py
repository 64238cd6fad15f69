"""A representation and chunks in, what the whole product says of every window out.

The monitor is the product's own, with the `accelerated` profile: learning, limits, persistence.
Numbers that are no embedding (log bands, RMS + kurtosis) take the encoder's place. Theirs is the
Euclidean distance: each band gets a large constant beside its numbers, and then the cosine distance
of the baseline grows as the Euclidean one squared.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from echo_model import features
from pipeline.assembly import build_monitor
from pipeline.bench.representations import BANDS, LOG_BANDS, RMS_KURTOSIS, Representation
from pipeline.fleet import Fleet
from pipeline.messages import BandEdges, Samples, SensorChunk, WindowResult
from pipeline.settings import Settings, load
from pipeline.state import pack, unpack

if TYPE_CHECKING:
    from pipeline.monitor import Encoder

BATCH: Final = 64
# Large against the numbers (nepers around -3), small enough for the bank's half precision.
ANCHOR: Final = 10.0


def settings() -> Settings:
    """Of all runs: an alarm returns with its condition, so that it counts as long as it lasts."""
    return load({}, profile="accelerated", delays={"latch": False})


def watchable(representations: Sequence[Representation]) -> list[Representation]:
    """Those that a monitor can use: encoders, and numbers whose bands are known."""
    return [r for r in representations if r.engine is not None or r.name in _EDGES]


class Watch:
    """One machine, as the product watches it.

    Args:
        representation: What turns its windows into numbers.
        known: Sensor -> its packed (live, baseline) states.
    """

    def __init__(
        self, representation: Representation, known: Mapping[str, tuple[bytes, bytes]] | None = None
    ) -> None:
        encoder: Encoder = representation.engine or _Numbers(representation)
        self._representation = representation
        self._monitor = build_monitor(settings(), Fleet(), encoder)
        for name, (live, baseline) in (known or {}).items():
            self._monitor.sensor(name).import_state(unpack(live), unpack(baseline))

    def hear(self, chunks: Iterable[SensorChunk]) -> list[WindowResult]:
        """Results of a stream to its end, without those of chunks before that were held back."""
        stream = iter(chunks)
        first = next(stream)
        found = [r for part in _batches(chain([first], stream)) for r in self._results(part)]
        found += self._monitor.flush().windows
        return [result for result in found if result.window_start_ns >= first.start_ns]

    def learn(self, chunks: Iterable[SensorChunk]) -> bool:
        """Hear chunks until the baseline is known; whether it is."""
        for batch in _batches(chunks, 16):
            drifts = [result.drift for result in self._results(batch)]
            if any(drift is not None and drift.learning_pct == 100.0 for drift in drifts):
                return True
        return False

    def fork(self) -> "Watch":
        """Another one that knows what this one does; what it hears leaves this one as it is."""
        known = {}
        for name, sensor in self._monitor.sensors.items():
            baseline = pack(sensor.export_baseline())  # first: the live part builds on it
            known[name] = pack(sensor.export_live()), baseline
        return Watch(self._representation, known)

    def _results(self, batch: list[SensorChunk]) -> tuple[WindowResult, ...]:
        return self._monitor.process(batch).windows


class _Numbers:
    """Numbers of windows in an encoder's place; see the module head.

    Args:
        representation: One that `_EDGES` knows.
    """

    trained = True

    def __init__(self, representation: Representation) -> None:
        self.model_id = representation.name
        self._representation = representation

    def embed(
        self,
        samples: Sequence[Samples],
        sample_rates_hz: Sequence[float],
        gains: Sequence[float] | None = None,
    ) -> list[NDArray[np.float32] | None]:
        """See `pipeline.monitor.Encoder`."""
        factors = [1.0] * len(samples) if gains is None else gains
        found: list[NDArray[np.float32] | None] = []
        for wave, rate_hz, factor in zip(samples, sample_rates_hz, factors, strict=True):
            scaled = wave.astype(np.float32) * np.float32(factor)
            numbers = self._representation.embed(scaled[None], rate_hz)[0]
            found.append(np.pad(numbers, ((0, 0), (0, 1)), constant_values=ANCHOR))
        return found

    def band_edges_hz(self, sample_rate_hz: float) -> BandEdges:
        """See `pipeline.monitor.Encoder`."""
        return _EDGES[self.model_id](sample_rate_hz)


def _log_edges(rate_hz: float) -> BandEdges:
    n_fft, _ = features.frame_sizes(rate_hz)
    bins = np.unique(np.geomspace(2, n_fft // 2 + 1, BANDS + 1).astype(int))
    hz = (bins * rate_hz / n_fft).tolist()
    return tuple(pairwise(hz))


def _one_band(rate_hz: float) -> BandEdges:
    return ((0.0, rate_hz / 2),)


_EDGES: Final = {LOG_BANDS: _log_edges, RMS_KURTOSIS: _one_band}


def _batches(chunks: Iterable[SensorChunk], size: int = BATCH) -> Iterator[list[SensorChunk]]:
    stream = iter(chunks)
    while batch := list(islice(stream, size)):
        yield batch
