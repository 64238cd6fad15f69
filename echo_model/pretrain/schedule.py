"""A step number in, the share of the learning rate out.

Warm-up, a constant stretch, a linear decay to zero over the last part. The end may be moved while a
run goes on; the decay then starts from where the rate stands.
"""

from typing import Any

from echo_model.pretrain.config import OptimiserTable


class Schedule:
    """The learning rate over a run.

    Args:
        steps: Planned length.
        table: Warm-up and decay.
    """

    def __init__(self, steps: int, table: OptimiserTable) -> None:
        self.steps, self._table = steps, table
        self._from = round(steps * (1 - table.decay_share))
        self._at = 1.0  # the share where the decay (re)starts

    def scale(self, step: int) -> float:
        """Share of the peak rate at a step, 0-1."""
        warm = min(1.0, (step + 1) / max(1, self._table.warmup_steps))
        if step < self._from:
            return warm
        left = (self.steps - step) / max(1, self.steps - self._from)
        return min(warm, self._at * max(0.0, left))

    def replan(self, step: int, left: int, *, began_at: int = 0) -> None:
        """Move the end to `left` steps after `step`; the decay begins when its share is left."""
        now, decaying = self.scale(step), step >= self._from
        self.steps = step + max(0, left)
        start = self.steps - round((self.steps - began_at) * self._table.decay_share)
        self._from = step if decaying else max(step, start)
        self._at = now if decaying else 1.0

    def export(self) -> dict[str, Any]:
        """State as plain numbers."""
        return {"steps": self.steps, "from": self._from, "at": self._at}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `export` gave, unless the planned length was changed since."""
        self.steps, self._from = int(state["steps"]), int(state["from"])
        self._at = float(state["at"])
