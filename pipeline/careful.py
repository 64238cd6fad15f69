"""Windows in, embeddings out, and None for the window on which the encoder fails.

One window that a model cannot take must cost one window, a device that is broken must stop the
worker: what fails in a batch is tried alone once, and where nothing at all works the error goes on.
A window that always fails costs its batch a second, slower pass each time.
"""

from collections.abc import Callable, Sequence
from typing import Final

from pipeline.messages import BandEdges, Samples
from pipeline.monitor import Embedding, Encoder, is_finite

# Calls of one window that fail in a row until the encoder itself is taken for broken.
MOST_ALONE: Final = 3


class EncoderGoneError(RuntimeError):
    """There is no encoder any more: no window is to blame, and trying again is of no use."""


class CarefulEncoder:
    """An encoder that survives a window.

    Args:
        encoder: The model.
        failed: Told of each window that is given up: what was raised, None for numbers that are
            not finite.
    """

    def __init__(self, encoder: Encoder, failed: Callable[[Exception | None], None]) -> None:
        self._encoder = encoder
        self._failed = failed
        self._alone = 0

    @property
    def model_id(self) -> str:
        """Name that a baseline is bound to."""
        return self._encoder.model_id

    @property
    def trained(self) -> bool:
        """Whether its weights have learnt anything."""
        return self._encoder.trained

    def band_edges_hz(self, sample_rate_hz: float) -> BandEdges:
        """Frequency range of each of the K bands."""
        return self._encoder.band_edges_hz(sample_rate_hz)

    def embed(
        self,
        samples: Sequence[Samples],
        sample_rates_hz: Sequence[float],
        gains: Sequence[float] | None = None,
    ) -> list[Embedding | None]:
        """(N,) windows in, (K, D) each out, None for one that fails alone, too.

        Raises:
            EncoderGoneError: where there is no encoder any more.
            Exception: what the encoder raised, where no window of several gets through, or three
                calls of one in a row fail; RuntimeError where it gave numbers that are not finite.
        """
        windows = list(zip(samples, sample_rates_hz, gains or [1.0] * len(samples), strict=True))
        found, error = self._try(windows)
        lost = [i for i, embedding in enumerate(found) if embedding is None]
        errors = []
        for i in lost:
            (found[i],), error = self._try([windows[i]])
            if found[i] is None:
                errors.append(error)
        if errors:
            self._count(len(errors), of=len(windows), error=error)
        elif windows:
            self._alone = 0
        for given_up in errors:
            self._failed(given_up)
        return found

    def _try(
        self, windows: Sequence[tuple[Samples, float, float]]
    ) -> tuple[list[Embedding | None], Exception | None]:
        """Embed; None for each that failed, and why if the encoder said so."""
        if not windows:
            return [], None
        try:
            found = self._encoder.embed(*(list(column) for column in zip(*windows, strict=True)))
        except EncoderGoneError:
            raise  # tried alone, each window would be taken for the culprit
        except Exception as error:  # noqa: BLE001  (whatever a model raises; the caller raises it)
            return [None] * len(windows), error
        return [e if e is not None and is_finite(e) else None for e in found], None

    def _count(self, failed: int, *, of: int, error: Exception | None) -> None:
        """Let a broken encoder stop what it works for."""
        self._alone = self._alone + 1 if of == 1 else 0
        if failed == of and (of > 1 or self._alone >= MOST_ALONE):
            raise error or RuntimeError(
                f"the encoder {self.model_id} gives numbers that are not finite for all of {of} "
                "windows: check the device and the weights"
            )
