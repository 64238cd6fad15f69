"""Records in, tables and sentences on a terminal out; or the same as JSON."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from connectors.files import ChannelInfo, Description
from pipeline.extent import duration
from pipeline.messages import NS_PER_S, Severity
from pipeline.wording import baseline_words

COLOURS = {"ALARM": "bold red", "ALERT": "red", "ADVISORY": "yellow", "OK": "green"}
MAX_ROWS = 60
MAX_NOTES = 10
MAX_NAMED = 5
# What to do about a profile that has not learnt enough.
FASTER = {
    "plant": "give more data, or --profile accelerated",
    "accelerated": "give more data, or --profile short",
    "short": "give more data, or lower ECHOWATCH_LEARNING__MIN_WINDOWS",
}


def show_outcome(facts: Mapping[str, Any], console: Console) -> None:
    """What a run has found: cases worst first, sensor faults, what it knows not yet."""
    rows = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
    rows.add_column(no_wrap=True, min_width=8)
    rows.add_column(overflow="fold")
    for case in facts["cases"]:
        name = Severity(case["severity"]).name if case["closed_ns"] is None else "CLOSED"
        rows.add_row(Text(name, COLOURS.get(name, "")), Text(case["sentence"]))
        about = facts["baselines"].get(case["sensors"][0]["sensor_id"]) if case["sensors"] else None
        if about:
            rows.add_row("", Text(baseline_words(about, _utc), "dim"))
    judged = facts["sensors"] - len(facts["still_learning"])
    if not facts["cases"] and judged:
        rows.add_row(
            Text("OK", "green"), f"no machine has left its baseline ({_count(judged, 'sensor')})"
        )
    for fault in facts["sensor_faults"]:
        rows.add_row(Text("SENSOR", "magenta"), Text(_fault(fault)))
    if facts["still_learning"]:
        rows.add_row(Text("LEARNING", "cyan"), Text(_learning(facts)))
    if facts["problems"]:
        rows.add_row("NOTES", f"{_count(len(facts['problems']), 'note')} about the files, above")
    if rows.row_count:
        console.print(rows)
    _show_run(facts, console)


def _show_run(facts: Mapping[str, Any], console: Console) -> None:
    span = f"{_utc(facts['first_ns'])} to {_utc(facts['last_ns'])} UTC"
    if not facts["timed"]:
        span = "times are not real: the recordings hold none"
    took = "already complete, --fresh does it anew"
    if not facts["already_complete"]:
        part = facts["processed_windows"] < facts["windows"]
        now = f"{facts['processed_windows']} of them now, " if part else ""
        took = f"{now}in {facts['seconds']:.1f} s"
    lines = [
        f"{_count(facts['windows'], 'window')} of {_count(facts['sensors'], 'sensor')}, {took}",
        span,
        f"profile {facts['profile']}, model {facts['model_id']}",
    ]
    if not facts["trained"]:
        lines.append("its weights are random: scores tell that a signal changed, not how it looks")
    for line in lines:
        console.print(line, markup=False)
    if not facts["finished"]:
        console.print("interrupted: give the same command again to go on", style="yellow")
    console.print(f"report: {facts['report']}", markup=False, soft_wrap=True)


def _fault(fault: Mapping[str, Any]) -> str:
    lasts = ", still so at the end" if fault["until_the_end"] else ""
    when = _utc(fault["first_ns"])
    if fault["fault"] == "silent":
        return f"{fault['sensor_id']}: silent {fault['windows']} x, first {when}{lasts}"
    share = f"{fault['windows']} of {_count(fault['of_windows'], 'window')}"
    return f"{fault['sensor_id']}: {fault['fault']} in {share}, first {when}{lasts}"


def _learning(facts: Mapping[str, Any]) -> str:
    rows = facts["still_learning"]
    named = ", ".join(
        f"{row['sensor_id']} ({row['learning_pct']:.0f} %)" for row in rows[:MAX_NAMED]
    )
    more = f" and {len(rows) - MAX_NAMED} more" if len(rows) > MAX_NAMED else ""
    remedy = FASTER[facts["profile"]]
    return f"no baseline yet, not scored: {named}{more}; {remedy}"


def show_models(console: Console, *, as_json: bool) -> None:
    """The encoders that have a name."""
    # torch takes seconds
    from echo_model.checkpoints import CONFIGS, SHIPPED, UNTRAINED  # noqa: PLC0415
    from echo_model.hub import PUBLISHED  # noqa: PLC0415

    rows = [
        {
            "name": name,
            "embed_dim": config.embed_dim,
            "depth": config.depth,
            "heads": config.num_heads,
            "weights": "trained, shipped" if name in SHIPPED else "random, fixed seed",
        }
        for name, config in CONFIGS.items()
    ]
    if as_json:
        _print_json(rows, console)
        return
    table = _table("name", "width D", "layers", "heads", "weights")
    for row in rows:
        table.add_row(*map(str, row.values()))
    console.print(table)
    console.print(f"{UNTRAINED}NAME: its random weights, to compare with")
    console.print("or a checkpoint file in the published layout (.safetensors, .pth)")
    console.print(f"or, with the extra hub, a published id: {', '.join(PUBLISHED)}")


def show_descriptions(found: Sequence[Description], console: Console, *, as_json: bool) -> None:
    """What a reader sees in files or folders."""
    if as_json:
        _print_json([{**asdict(d), "path": str(d.path)} for d in found], console)
        return
    for description in found:
        span = description.duration_s
        console.print(
            f"{description.path}: {description.kind}, {_count(description.n_captures, 'capture')}, "
            f"{'unknown length' if span is None else duration(span)}",
            markup=False,
            soft_wrap=True,
        )
        _show_channels(description, console)
        for label, count in description.labels:
            console.print(f"label {label}: {count}", markup=False)
        _show_notes(description, console)


def _show_channels(description: Description, console: Console) -> None:
    """One row per sensor and rate, however many files it lies in."""
    rows: dict[tuple[str, float | None, str], list[ChannelInfo]] = {}
    for channel in description.channels:
        key = (channel.sensor_id, channel.sample_rate_hz, channel.unit)
        rows.setdefault(key, []).append(channel)
    sources = sorted({channel.time_source for channel in description.channels})
    many = description.kind == "folder"
    table = _table("sensor", "rate Hz", "unit", "samples", "first sample, UTC")
    if many:
        table.add_column("files", justify="right")
    for (sensor_id, rate, unit), channels in list(rows.items())[:MAX_ROWS]:
        cells = [
            sensor_id,
            "?" if rate is None else f"{rate:.10g}",
            unit,
            _total([c.n_samples for c in channels]),
            min((_utc(c.start_ns) for c in channels if c.start_ns is not None), default="none"),
            *([str(len(channels))] if many else []),
        ]
        table.add_row(*map(Text, cells))
    console.print(table)
    if len(rows) > MAX_ROWS:
        console.print(f"... and {len(rows) - MAX_ROWS} more sensors, see --json")
    console.print(f"time from: {', '.join(sources)}", markup=False)


def _show_notes(description: Description, console: Console) -> None:
    """Each note once, with the number of files that it is about."""
    notes = Counter(description.notes)
    if description.kind == "folder":
        notes = Counter(note.split(": ", 1)[-1] for note in description.notes)
    notes.pop("", None)
    for note, count in notes.most_common(MAX_NOTES):
        about = f"{count} files: " if count > 1 else ""
        console.print(f"note: {about}{note}", markup=False)
    if len(notes) > MAX_NOTES:
        console.print(f"... and {len(notes) - MAX_NOTES} more notes, see --json")


def _table(first: str, *others: str) -> Table:
    """Narrow enough for 80 columns: only the first column is folded."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold", min_width=12)
    for name in others:
        table.add_column(name, no_wrap=True)
    return table


def _print_json(value: Any, console: Console) -> None:
    console.file.write(json.dumps(value, allow_nan=False) + "\n")


def _total(counts: Sequence[int | None]) -> str:
    return "?" if None in counts else str(sum(count or 0 for count in counts))


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _utc(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns / NS_PER_S, UTC).strftime("%Y-%m-%d %H:%M:%S")
