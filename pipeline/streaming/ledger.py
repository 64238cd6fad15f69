"""Messages read in; offsets that may be committed out, each partition's strictly in order.

Faust commits past unfinished messages when acknowledgements come out of order, so none does: a
message is released only together with all that were read before it. Messages of an earlier
generation of the group are forgotten, never released: they belong to somebody else now.
"""

from collections import deque
from collections.abc import Mapping

from pipeline.streaming.stage import Partition


class Ledger:
    """What is read and not yet acknowledged.

    Args:
        max_bytes: Of message values held.
        max_messages: Held.

    Attributes:
        generation: Of the group; what is released for another one is nothing.
        bytes, messages: Held.

    >>> ledger = Ledger(max_bytes=100, max_messages=2)
    >>> ledger.begin(1)
    >>> p = Partition("signals", 0)
    >>> ledger.admit(p, 7, 10); ledger.admit(p, 8, 10); ledger.full
    True
    >>> ledger.release(1, {p: 7}), ledger.full
    ({Partition(topic='signals', number=0): 8}, False)
    """

    def __init__(self, *, max_bytes: float, max_messages: int) -> None:
        if max_bytes <= 0 or max_messages < 1:
            raise ValueError(
                f"a ledger needs room, got {max_bytes} bytes and {max_messages} messages"
            )
        self._max_bytes = max_bytes
        self._max_messages = max_messages
        self._held: dict[Partition, deque[tuple[int, int]]] = {}
        self.generation = -1
        self.bytes = 0
        self.messages = 0

    @property
    def full(self) -> bool:
        """Whether nothing more may be read for now."""
        return self.messages >= self._max_messages or self.bytes >= self._max_bytes

    def begin(self, generation: int) -> None:
        """A new generation of the group: whatever is held belongs to the old one."""
        self.generation = generation
        self._held.clear()
        self.bytes = self.messages = 0

    def admit(self, partition: Partition, offset: int, size: int) -> None:
        """Hold a message.

        Raises:
            ValueError: for an offset that is not beyond those held of its partition.
        """
        held = self._held.setdefault(partition, deque())
        if held and offset <= held[-1][0]:
            raise ValueError(f"{partition} holds offset {held[-1][0]}, got {offset} after it")
        held.append((offset, size))
        self.bytes += size
        self.messages += 1

    def release(self, generation: int, upto: Mapping[Partition, int]) -> dict[Partition, int]:
        """Forget all messages up to these offsets, which are done with.

        Returns:
            Partition -> offset to commit: that of the next message.
        """
        if generation != self.generation:
            return {}
        released: dict[Partition, int] = {}
        for partition, last in upto.items():
            held = self._held.get(partition)
            while held and held[0][0] <= last:
                offset, size = held.popleft()
                self.bytes -= size
                self.messages -= 1
                released[partition] = offset + 1
        return released

    def first(self) -> dict[Partition, int]:
        """Partition -> oldest offset held: where another worker would have to begin."""
        return {partition: held[0][0] for partition, held in self._held.items() if held}
