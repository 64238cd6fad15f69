"""Windows in, the few spectra that a person will want to see out.

Of health (the mean over the learning), of the machine when it alarms, and of the newest window.
"""

from collections.abc import Iterable
from typing import Final

import numpy as np

from pipeline.indicators import spectrum
from pipeline.messages import Spectrum, SpectrumKind, State, Transition, Window

VERSION: Final = 1
HEALTHY_SPECTRA: Final = 64
HEALTHY_EVERY: Final = 4


class Pictures:
    """The spectra of one sensor.

    Args:
        sensor_id: Name of the sensor.

    Attributes:
        latest_window: Newest believable window, None before the first.
    """

    def __init__(self, sensor_id: str) -> None:
        self.sensor_id = sensor_id
        self.latest_window: Window | None = None
        self.forget()

    def forget(self) -> None:
        """Begin to learn anew."""
        self._seen = 0
        self._count = 0
        self._sum = np.empty(0, np.float64)
        self._freq_hz = np.empty(0, np.float32)

    def learn(self, window: Window) -> None:
        """Take a healthy window; one in `HEALTHY_EVERY` is used, up to `HEALTHY_SPECTRA`."""
        self._seen += 1
        if self._seen % HEALTHY_EVERY or self._count >= HEALTHY_SPECTRA:
            return
        found = self._of(window, "healthy")
        if self._count == 0:
            self._sum = np.zeros(found.amplitude.size)
            self._freq_hz = found.freq_hz
        if found.amplitude.size == self._sum.size:
            self._sum = self._sum + found.amplitude
            self._count += 1

    def asked_for(self, window: Window, transitions: Iterable[Transition]) -> tuple[Spectrum, ...]:
        """Health once it is learnt, and the machine when it alarms."""
        found = []
        for transition in transitions:
            if transition.action == "learnt" and self._count:
                mean = (self._sum / self._count).astype(np.float32)
                healthy = Spectrum(self.sensor_id, window.end_ns, "healthy", self._freq_hz, mean)
                found.append(healthy)
            if transition.action in ("raise", "escalate"):
                found.append(self._of(window, "alarm"))
        return tuple(found)

    def latest(self) -> Spectrum | None:
        """Spectrum of the newest believable window."""
        return None if self.latest_window is None else self._of(self.latest_window, "latest")

    def _of(self, window: Window, kind: SpectrumKind) -> Spectrum:
        freq_hz, amplitude = spectrum(window.values(), window.sample_rate_hz)
        return Spectrum(self.sensor_id, window.end_ns, kind, freq_hz, amplitude)

    def export_state(self) -> State:
        """What has been learnt; the newest window is not kept."""
        return {
            "version": VERSION,
            "seen": self._seen,
            "count": self._count,
            "sum": self._sum,
            "freq_hz": self._freq_hz,
        }

    def import_state(self, state: State) -> None:
        """Go on from an exported state.

        Raises:
            ValueError: for a state of another version.
        """
        if state.get("version") != VERSION:
            raise ValueError(f"state version must be {VERSION}, got {state.get('version')}")
        self._seen, self._count = state["seen"], state["count"]
        self._sum, self._freq_hz = state["sum"], state["freq_hz"]
