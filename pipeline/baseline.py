"""Healthy embeddings in; distance, calibrated score and share per band of a new one out.

One baseline belongs to one (sensor, sample rate, model). It learns until it has seen enough windows
over enough time AND the machine has stopped moving (a bearing that runs in must not become the
picture of health), then it freezes: a frozen bank cannot absorb a slow ramp.

- Distance: to the nearest healthy window, whole embeddings (all bands), whitened by the spread of
  the bank (`pipeline.whitening`). The ECHO and SIREN protocols take the cosine; whitened, faults of
  -6 dB are over the limit in 60 % of windows instead of 40 % (docs/distance.md).
- Calibration: leave-block-out log distances inside the bank. Blocks, because neighbours in time
  look alike: leaving out one window alone understates how far tomorrow's healthy window will lie.
  Each block is measured by the spread of the others.
- Limit: the tail of those distances above their 80 % quantile, taken as exponential (peaks over
  threshold, Pickands 1975, shape 0), extrapolated to a stated budget: one healthy window in
  `budget_windows` crosses it by chance.

It knows no clock and no unit; levels enter as `rms` for the level ratio and the running split.
"""

import math
from dataclasses import asdict, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from pipeline.messages import State
from pipeline.tails import DISTANCE_FLOOR, growth, log_distances, moved, spread_of, tail_limit
from pipeline.whitening import Near, Whitening, cosine_distances, widened

VERSION = 3
# Of cosine distances; its bank is the same, so that it is calibrated anew.
COSINE_VERSION = 2
FIELDS = tuple(field.name for field in fields(Near))


@dataclass(frozen=True, slots=True)
class Departure:
    """How one embedding lies to the bank.

    Attributes:
        distance: Cosine distance to the nearest healthy window, 0-2.
        score: (log whitened distance - healthy median) / healthy spread.
        level_ratio: RMS / baseline RMS.
        band_shares: (K,) share of the excess distance per band, sums to 1.
        nearest_ns: Time of the nearest healthy window.
    """

    distance: float
    score: float
    level_ratio: float
    band_shares: tuple[float, ...]
    nearest_ns: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the frozen bank says about health; all from leave-block-out distances.

    Attributes:
        median, spread: Of log whitened distance.
        limit: Score that one healthy window in the budget crosses.
        rms: Median RMS of the bank.
        band_median: (K,) median part of each band in the squared distance, while healthy.
        notes: What a person should know about this baseline, empty if nothing.
    """

    median: float
    spread: float
    limit: float
    rms: float
    band_median: NDArray[np.float32]
    notes: tuple[str, ...]


class Baseline:
    """The memory of one sensor's health.

    Args:
        min_windows: Learn at least this many windows.
        min_span_s: Learn over at least this much running time (sum of window spacings).
        patience: Freeze after this multiple of both even if the machine still moves, >= 1.
        bank_size: Embeddings kept; older ones are thinned evenly, so the bank spans the learning.
        blocks: Contiguous blocks for calibration.
        budget_windows: One healthy window in this many may cross the limit by chance.
        settle: Largest shift of the newest quarter, in healthy spreads, that counts as settled.

    Attributes:
        rewrites: Times that more has changed than rows that came on top.

    Raises:
        ValueError: for numbers outside what each argument allows.
    """

    def __init__(
        self,
        *,
        min_windows: int = 200,
        min_span_s: float = 0.0,
        patience: float = 2.0,
        bank_size: int = 256,
        blocks: int = 8,
        budget_windows: float = 1e5,
        settle: float = 0.5,
    ) -> None:
        if min_windows < 2 * blocks:
            raise ValueError(f"min_windows must be >= {2 * blocks} (2 x blocks), got {min_windows}")
        if bank_size < 4 * blocks:
            raise ValueError(f"bank_size must be >= {4 * blocks} (4 x blocks), got {bank_size}")
        if patience < 1 or min_span_s < 0:
            raise ValueError(f"patience must be >= 1 and span >= 0, got {patience}, {min_span_s} s")
        if budget_windows < 10:
            raise ValueError(f"budget_windows must be at least 10, got {budget_windows}")
        self._min_windows = min_windows
        self._min_span_s = min_span_s
        self._patience = patience
        self._bank_size = bank_size
        self._blocks = blocks
        self._budget_windows = budget_windows
        self._settle = settle
        self.rewrites = 0
        self._reset()

    def _reset(self) -> None:
        self._bank = np.empty((0, 0, 0), np.float16)
        self._rms = np.empty(0, np.float32)
        self._at_ns = np.empty(0, np.int64)
        self._size = 0
        self._every = 1
        self._seen = 0
        self._span_s = 0.0
        self._last_ns = 0
        self._calibration: Calibration | None = None
        self._whitening: Whitening | None = None  # of the frozen bank, made when first needed

    @property
    def frozen(self) -> bool:
        """Whether learning is over and windows are scored."""
        return self._calibration is not None

    @property
    def calibration(self) -> Calibration:
        """The frozen calibration.

        Raises:
            RuntimeError: while still learning.
        """
        if self._calibration is None:
            raise RuntimeError("the baseline is still learning: ask `frozen` first")
        return self._calibration

    @property
    def size(self) -> int:
        """Windows in the bank."""
        return self._size

    @property
    def span_ns(self) -> tuple[int, int]:
        """End times of the oldest and the newest window in the bank; (0, 0) when empty."""
        at_ns = self._at_ns[: self._size]
        return (int(at_ns[0]), int(at_ns[-1])) if self._size else (0, 0)

    @property
    def learning_pct(self) -> float:
        """Progress 0-100; stays at 99 while only the settling of the machine is awaited."""
        if self.frozen:
            return 100.0
        share = self._seen / self._min_windows
        if self._min_span_s > 0:
            share = min(share, self._span_s / self._min_span_s)
        return min(99.0, 100.0 * share)

    @property
    def rms(self) -> NDArray[np.float32]:
        """(n,) RMS of the windows in the bank, in time order."""
        return self._rms[: self._size]

    @property
    def due(self) -> bool:
        """Whether enough has been learnt to ask `freeze_if_settled`; every tenth window after.

        After `forget` a thinned bank may be too small to be cut into blocks: it learns on.
        """
        enough = self._seen >= self._min_windows and self._span_s >= self._min_span_s
        if self.frozen or not enough or self._size < 2 * self._blocks:
            return False
        return self._last_call or (self._seen - self._min_windows) % (self._min_windows // 10) == 0

    @property
    def _last_call(self) -> bool:
        long_enough = self._span_s >= self._patience * self._min_span_s
        return self._seen >= self._patience * self._min_windows and long_enough

    def learn(self, embedding: NDArray[np.float32], rms: float, at_ns: int, step_s: float) -> None:
        """Take one healthy window.

        Args:
            embedding: (K, D) float32.
            rms: Level of the window, in the sensor's unit.
            at_ns: Its end time.
            step_s: Running time since the window before, in seconds.
        """
        if self._seen % self._every == 0:
            self._store(embedding, rms, at_ns)
        self._seen += 1
        self._span_s += step_s

    def freeze_if_settled(self) -> bool:
        """Freeze unless the newest windows still move away from the older ones.

        Windows of a run-in stay in the bank: they widen what counts as healthy. Dropping them gave
        2 to 25 early alarm episodes on a real life where keeping them gave none.

        Returns:
            Whether the baseline is frozen now.
        """
        if self._last_call or self._settled():
            self._freeze()
        return self.frozen

    def forget(self, keep: NDArray[np.bool_]) -> None:
        """Drop the windows of the bank where `keep` (n,) is False; learning goes on."""
        index = np.flatnonzero(keep)
        self._bank[: index.size] = self._bank[index]
        self._rms[: index.size] = self._rms[index]
        self._at_ns[: index.size] = self._at_ns[index]
        self._seen = max(0, self._seen - (self._size - index.size) * self._every)
        self._size = int(index.size)
        self.rewrites += 1

    def score(self, embedding: NDArray[np.float32], rms: float) -> Departure:
        """Compare one window with the frozen bank.

        Args:
            embedding: (K, D) float32 of the same model and rate.
            rms: Its level.
        """
        health = self.calibration
        if self._whitening is None:
            self._whitening = Whitening(self._bank[: self._size])
        near = self._whitening.nearest(embedding[None])
        excess = np.maximum(near.bands[0] - health.band_median, 0.0)
        total = float(excess.sum())
        shares = excess / total if total > 0 else np.full(excess.size, 1.0 / excess.size)
        log_distance = math.log(max(float(near.distance[0]), DISTANCE_FLOOR))
        return Departure(
            distance=float(near.cosine[0]),
            score=(log_distance - health.median) / health.spread,
            level_ratio=rms / health.rms if health.rms > 0 else 1.0,
            band_shares=tuple(shares.tolist()),
            nearest_ns=int(self._at_ns[near.index[0]]),
        )

    def _store(self, embedding: NDArray[np.float32], rms: float, at_ns: int) -> None:
        if self._bank.shape[0] == 0:
            self._allocate(embedding.shape)
        if self._size == self._bank_size:
            self._thin()
        # In half precision: half the memory, and an exported bank is exactly this one.
        self._bank[self._size] = embedding
        self._rms[self._size] = rms
        self._at_ns[self._size] = at_ns
        self._size += 1

    def _allocate(self, shape: tuple[int, ...]) -> None:
        self._bank = np.empty((self._bank_size, *shape), np.float16)
        self._rms = np.empty(self._bank_size, np.float32)
        self._at_ns = np.empty(self._bank_size, np.int64)

    def _trim(self) -> None:
        """Give back room for windows that no longer come."""
        n, bank, rms, at_ns = self._size, self._bank, self._rms, self._at_ns
        self._bank, self._rms, self._at_ns = bank[:n].copy(), rms[:n].copy(), at_ns[:n].copy()

    def _thin(self) -> None:
        """Keep every second window: the bank then spans twice the time at half the density."""
        half = self._size // 2
        for array in (self._bank, self._rms, self._at_ns):
            array[:half] = array[: 2 * half : 2].copy()
        self._size = half
        self._every *= 2
        self.rewrites += 1

    def _block(self) -> NDArray[np.int64]:
        """(n,) contiguous block of each window of the bank."""
        return np.arange(self._size) * self._blocks // self._size

    def _settled(self) -> bool:
        """Whether the newest quarter lies among the older windows, not beyond them."""
        bank = self._bank[: self._size]
        return moved(cosine_distances(bank), self._block()) <= self._settle

    def _freeze(self) -> None:
        notes: list[str] = []
        if not self._settled():
            notes.append("the machine was still changing when learning had to end")
        near = self._without_own()
        odd = self._outliers(near)
        if dropped := int(odd.sum()):
            self.forget(~odd)
            near = self._without_own()
            notes.append(f"{dropped} odd windows were left out of the baseline")
        grown = growth(self.rms)
        if grown > 1.5:
            notes.append(f"level grew {grown:.1f} x during learning: the baseline may be worn")
        self._calibrate(near, tuple(notes))

    @staticmethod
    def _outliers(near: Near) -> NDArray[np.bool_]:
        """(n,) up to a tenth of the bank: windows far outside the rest are no health."""
        logs = log_distances(near.distance)
        odd: NDArray[np.bool_] = logs - np.median(logs) > 6.0 * spread_of(logs)
        return odd if odd.mean() <= 0.1 else np.zeros_like(odd)

    def _calibrate(self, near: Near, notes: tuple[str, ...]) -> None:
        """Learning is over: fix what health looks like, from the distances without own blocks."""
        self._whitening = None
        self._trim()
        log_distance = log_distances(near.distance)
        median = float(np.median(log_distance))
        spread = spread_of(log_distance)
        self._calibration = Calibration(
            median=median,
            spread=spread,
            limit=tail_limit((log_distance - median) / spread, self._budget_windows),
            rms=float(np.median(self.rms)),
            band_median=np.median(near.bands, axis=0).astype(np.float32),
            notes=notes,
        )
        self.rewrites += 1

    def _without_own(self) -> Near:
        """How each window of the bank lies to the other blocks, by their spread alone."""
        bank, block = self._bank[: self._size], self._block()
        own = [block == number for number in np.unique(block)]
        found = [Whitening(bank[~one]).nearest(widened(bank[one])) for one in own]
        return Near(*(np.concatenate([getattr(one, name) for one in found]) for name in FIELDS))

    def export_tail(self, first: int = 0) -> State:
        """What learning has added since the bank held `first` windows, `rewrites` being the same.

        Counters are in it, so that `extend` after `import_state` gives exactly this baseline.
        """
        return {
            "bank": self._bank[first : self._size].copy(),
            "rms": self._rms[first : self._size].copy(),
            "at_ns": self._at_ns[first : self._size].copy(),
            "every": self._every,
            "seen": self._seen,
            "span_s": self._span_s,
        }

    def extend(self, tail: State) -> None:
        """Add what `export_tail` gave.

        Raises:
            ValueError: for more windows than the bank may hold.
        """
        size, end = self._size, self._size + len(tail["rms"])
        if end > self._bank_size:
            raise ValueError(
                f"the stored bank holds {end} windows, bank_size is {self._bank_size}: "
                "use the settings it was learnt with"
            )
        if end and self._bank.shape[0] == 0:
            self._allocate(tail["bank"].shape[1:])
        if end > size:
            self._bank[size:end], self._rms[size:end] = tail["bank"], tail["rms"]
            self._at_ns[size:end], self._size = tail["at_ns"], end
        self._every, self._seen = tail["every"], tail["seen"]
        self._span_s = tail["span_s"]

    def export_state(self) -> State:
        """Everything needed to go on, as one versioned value."""
        health = self._calibration
        known = None if health is None else asdict(health) | {"notes": list(health.notes)}
        return {"version": VERSION, **self.export_tail(), "calibration": known}

    def import_state(self, state: State) -> None:
        """Go on from an exported state.

        A state of version 2 (cosine distances) is calibrated anew, which counts as a rewrite.

        Raises:
            ValueError: for a state of another version.
        """
        version = state.get("version")
        if version not in (COSINE_VERSION, VERSION):
            raise ValueError(
                f"baseline version must be {VERSION} or {COSINE_VERSION}, got {version}"
            )
        self._reset()
        self.extend(state)
        if state["calibration"] is None:
            return
        health = state["calibration"]
        if version == COSINE_VERSION:
            self._calibrate(self._without_own(), tuple(health["notes"]))
        else:
            self._calibration = Calibration(**{**health, "notes": tuple(health["notes"])})
            self._trim()
