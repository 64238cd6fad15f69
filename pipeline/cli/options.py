"""Options that several commands share, and the readers' options that they make.

Nothing here imports what takes seconds: `--help` must answer at once.
"""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from connectors.files import ReadOptions

MAX_NOTES = 20


class AtError(StrEnum):
    """What to do at a broken file."""

    STOP = "stop"
    SKIP = "skip"


class Role(StrEnum):
    """What a worker works on."""

    SIGNALS = "signals"
    CASES = "cases"
    ALL = "all"


Paths = Annotated[
    list[Path],
    typer.Argument(help="Recordings: files or folders, of any mix; see docs/recordings.md."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
Rate = Annotated[float | None, typer.Option(help="Sample rate in Hz where files hold none.")]
Unit = Annotated[str | None, typer.Option(help="Unit of the values (g, m/s2, Pa, ...).")]
Scale = Annotated[float | None, typer.Option(help="Unit per number in the files.")]
Start = Annotated[str | None, typer.Option(help="ISO time of the first file without a time.")]
Period = Annotated[float | None, typer.Option(help="Seconds between files without a time.")]
OnError = Annotated[AtError, typer.Option(help="At a broken file: stop, or report and skip it.")]


def read_options(
    rate: float | None,
    unit: str | None,
    scale: float | None,
    start: str | None,
    period: float | None,
    on_error: AtError,
    problems: list[str],
    console: Console,
) -> "ReadOptions":
    """Read options as the user gave them.

    `problems` fills with one line for each thing worth knowing, the first also go to the console.

    Raises:
        BadParameter: for what no file could satisfy.
    """
    from connectors.files import ReadOptions
    from connectors.files.times import parse_time

    def problem(text: str) -> None:
        if text in problems:  # headers are read twice: to describe, then to read
            return
        problems.append(text)
        if len(problems) <= MAX_NOTES:
            console.print(f"note: {text}", markup=False, soft_wrap=True)

    try:
        if start is not None:
            parse_time(start)
        return ReadOptions(
            sample_rate_hz=rate,
            unit=unit,
            scale=scale,
            start=start,
            period_s=period,
            on_error=on_error.value,
            on_problem=problem,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
