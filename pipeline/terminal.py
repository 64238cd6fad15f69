"""A run's progress in; a bar on a terminal, or a line now and then elsewhere, out.

Also what Ctrl-C means while a run goes on: commit and stop, not crash.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from pipeline.messages import NS_PER_S

# Between two lines where there is no terminal.
LINE_EVERY_S = 30.0

Advance = Callable[[int, str], None]


@contextmanager
def meter(
    console: Console,
    first_ns: int,
    length_s: float | None,
    *,
    line_every_s: float = LINE_EVERY_S,
) -> Iterator[Advance]:
    """Gives a function (event time in ns, note) that shows how far a stream has come.

    Args:
        console: A bar with the time left on a terminal; else a line now and then.
        first_ns: Event time at which the stream begins.
        length_s: Its length, None = unknown.
        line_every_s: Between two lines where there is no terminal.
    """
    total = length_s or None
    if not console.is_terminal:
        yield _lines(console, first_ns, total, line_every_s)
        return
    with _bar(console) as bar:
        task = bar.add_task("", total=total)

        def advance(event_ns: int, note: str) -> None:
            done_s = (event_ns - first_ns) / NS_PER_S
            bar.update(
                task, completed=min(done_s, total or done_s), description=_note(event_ns, note)
            )

        yield advance


@contextmanager
def steps(
    console: Console, total: int, *, line_every_s: float = LINE_EVERY_S
) -> Iterator[Callable[[str], None]]:
    """Gives a function (note) that tells of one more of so many steps.

    Args:
        console: A bar with the time left on a terminal; else a line now and then.
        total: Steps in all.
        line_every_s: Between two lines where there is no terminal.
    """
    if console.is_terminal:
        with _bar(console) as bar:
            task = bar.add_task("", total=total)
            yield lambda note: bar.update(task, advance=1, description=note)
        return
    done, said = 0, time.monotonic()

    def advance(note: str) -> None:
        nonlocal done, said
        done += 1
        if time.monotonic() - said >= line_every_s:
            said = time.monotonic()
            console.print(f"{min(100, 100 * done // total)} %, {note}", markup=False)

    yield advance


def _bar(console: Console) -> Progress:
    columns = (
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.description}", markup=False),
    )
    return Progress(*columns, console=console, transient=True)


def _lines(console: Console, first_ns: int, total: float | None, every_s: float) -> Advance:
    said = time.monotonic()

    def advance(event_ns: int, note: str) -> None:
        nonlocal said
        if time.monotonic() - said < every_s:
            return
        said = time.monotonic()
        share = (event_ns - first_ns) / NS_PER_S / total if total else None
        begin = "" if share is None else f"{100 * min(max(share, 0.0), 1.0):.0f} %, "
        console.print(begin + _note(event_ns, note), markup=False)

    return advance


def _note(event_ns: int, note: str) -> str:
    return f"{note}, at {datetime.fromtimestamp(event_ns / NS_PER_S, UTC):%Y-%m-%d %H:%M}"


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM ask for a stop at the next commit; a second one ends it at once.

    Gives a function that tells whether a stop is asked for. For the main thread only.
    """
    asked: list[int] = []

    def ask(number: int, _: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
