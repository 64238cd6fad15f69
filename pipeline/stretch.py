"""Consecutive pieces of signal in, contiguous slices of it out, copied at most once."""

from dataclasses import dataclass

import numpy as np

from pipeline.messages import Flags, Samples, State


@dataclass(frozen=True, slots=True)
class Slice:
    """Part of a stretch.

    Attributes:
        samples: (N,) contiguous; a view where one piece holds them all.
        flags: Union of the flags of the pieces it was taken from.
    """

    samples: Samples
    flags: Flags


class Stretch:
    """A gapless piece of signal, addressed by sample index.

    Attributes:
        first: Index of the first sample held.
        end: Index after the last sample held.
        start_ns: Stamp of the first sample that came.
        whole: Nothing has been dropped or cut since the stretch began.
    """

    def __init__(self, first: int, start_ns: int) -> None:
        self.first = first
        self.end = first
        self.start_ns = start_ns
        self.whole = True
        self._pieces: list[tuple[Samples, Flags]] = []

    def __len__(self) -> int:
        return self.end - self.first

    @property
    def nbytes(self) -> int:
        """Bytes of the samples held."""
        return sum(samples.nbytes for samples, _ in self._pieces)

    def append(self, samples: Samples, flags: Flags) -> None:
        """Take samples (N,), not copied."""
        self._pieces.append((samples, flags))
        self.end += samples.size

    def shift(self, steps: int) -> None:
        """Move all indices."""
        self.first += steps
        self.end += steps

    def cut(self, start: int, length: int) -> Slice:
        """Samples [start, start + length), all of which must be held."""
        at = self.first
        taken: list[Samples] = []
        flags = Flags.NONE
        for samples, piece_flags in self._pieces:
            begin, stop = max(start - at, 0), min(start + length - at, samples.size)
            at += samples.size
            if begin < stop:
                taken.append(samples[begin:stop])
                flags |= piece_flags
            if at >= start + length:
                break
        if len(taken) == 1:
            return Slice(taken[0], flags)
        return Slice(np.concatenate(taken, dtype=taken[0].dtype), flags)  # type: ignore[arg-type]

    def drop_before(self, index: int) -> None:
        """Forget the samples before an index."""
        if index <= self.first:
            return
        index = min(index, self.end)
        whole_pieces = 0
        for samples, _ in self._pieces:
            if self.first + samples.size > index:
                break
            self.first += samples.size
            whole_pieces += 1
        del self._pieces[:whole_pieces]
        if self.first < index:
            samples, flags = self._pieces[0]
            self._pieces[0] = (samples[index - self.first :], flags)
            self.first = index
        self.whole = False

    def export_state(self) -> State:
        """All that is held; the samples as one array."""
        return {
            "first": self.first,
            "start_ns": self.start_ns,
            "whole": self.whole,
            "pieces": [[samples.size, int(flags)] for samples, flags in self._pieces],
            "samples": np.concatenate([s for s, _ in self._pieces]) if self._pieces else None,
        }

    @classmethod
    def from_state(cls, state: State) -> "Stretch":
        """The stretch that was exported."""
        stretch = cls(state["first"], state["start_ns"])
        at = 0
        for length, flags in state["pieces"]:
            stretch.append(state["samples"][at : at + length], Flags(flags))
            at += length
        stretch.whole = state["whole"]
        return stretch
